// Threads over the members of a batch. Every member is worked on by exactly one thread, in the
// same order of operations whatever the number of threads: results repeat bit for bit.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace nr {

// Scratch of different threads is kept this many bytes apart: they would slow each other down on one
// cache line.
constexpr int kApart = 128;

// Calls work(worker, item) for item = 0 ... items-1. `worker` < workers numbers the thread, so that
// each may own a scratch buffer. The first exception of any thread is thrown again here.
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
  std::vector<std::thread> threads;
  threads.reserve(workers - 1);
  try {
    for (int worker = 1; worker < workers; ++worker) threads.emplace_back(run, worker);
  } catch (const std::system_error&) {
    // No more threads to be had: those that started, and this one, do the work.
  }
  run(0);
  for (auto& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace nr
