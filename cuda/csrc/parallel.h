// Threads over the members of a batch. Exactly one thread works on a member, and the order of its operations does
// not depend on the number of threads. So results repeat bit for bit.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace nr {

// The entry point for parallel regions of the OpenMP library that the process has already loaded, or null. torch loads
// one, and its threads spin for a while after every operator. If this code started threads of its own, they would
// share the cores with the spinning ones and take a quarter more time. Nothing is linked, so no library is required.
using EnterTeam = void (*)(void (*run)(void*), void* data, unsigned threads, unsigned flags);

#if defined(__unix__) || defined(__APPLE__)
// A forked process does not have OpenMP's threads, but OpenMP would wait for them forever.
inline std::atomic<bool> forked{false};
inline const int watching_forks = pthread_atfork(nullptr, nullptr, [] { forked = true; });

inline EnterTeam enter_team() {
  static const auto found = reinterpret_cast<EnterTeam>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return forked ? nullptr : found;
}
#else
inline EnterTeam enter_team() { return nullptr; }
#endif

// Distance in bytes between the scratch memory of different threads, so that they never share a cache line.
constexpr int kApart = 128;

// Calls work(worker, item) for item = 0 ... items-1. `worker` < workers is the number of the thread, so
// that each can have a scratch buffer. The first exception of any thread is rethrown here.
template <class Work>
void parallel_for(int64_t items, int workers, Work&& work) {
  if (workers > items) workers = static_cast<int>(items);
  if (workers <= 1) {
    for (int64_t item = 0; item < items; ++item) work(0, item);
    return;
  }
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_lock;
  auto run = [&](int worker) {
    try {
      for (int64_t item; (item = next.fetch_add(1)) < items;) work(worker, item);
    } catch (...) {
      std::lock_guard<std::mutex> hold(failure_lock);
      if (!failure) failure = std::current_exception();
      next.store(items);
    }
  };
  if (const EnterTeam enter = enter_team()) {
    std::atomic<int> seats{0};  // OpenMP may start fewer threads than asked for
    auto member = [&] { run(seats.fetch_add(1)); };
    enter([](void* data) { (*static_cast<decltype(member)*>(data))(); }, &member,
          static_cast<unsigned>(workers), 0);
  } else {
    std::vector<std::thread> threads;
    threads.reserve(workers - 1);
    try {
      for (int worker = 1; worker < workers; ++worker) threads.emplace_back(run, worker);
    } catch (const std::system_error&) {
      // No more threads can be started: the threads that did start, and this one, do the work.
    }
    run(0);
    for (auto& thread : threads) thread.join();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace nr
