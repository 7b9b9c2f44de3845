// The part of CUDA that runs this project's kernels on a CPU. The threads of a block run one after another,
// in a new random order after every barrier, so that results which depend on the order of threads are found.
// Compile the .cu files as C++ with `-include cuda_on_cpu.h`. It does not find errors that only a GPU shows:
// races between two barriers, alignment, limits of the hardware.
#pragma once
#define NR_CUDA_ON_CPU

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __launch_bounds__(...)
#define __device__
#define __grid_constant__
#define __shared__ static
#define NR_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(cuda_on_cpu::shared.data())
#define NR_LAUNCH(kernel, grid, block, shared, stream, ...) \
  cuda_on_cpu::launch(grid, block, shared, [&] { kernel(__VA_ARGS__); })

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

inline std::vector<char> shared;
inline ucontext_t scheduler;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool done = false;
  static constexpr size_t kStack = 64 * 1024;
};
inline std::vector<Fiber> fibers;
inline Fiber* running;
inline const std::function<void()>* body;

inline void enter() {
  (*body)();
  running->done = true;
  swapcontext(&running->context, &scheduler);
}

inline void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  static std::mt19937 random(1);
  if (fibers.size() < block.x) fibers.resize(block.x);
  shared.assign(shared_bytes, 0x55);
  body = &kernel, gridDim = grid, blockDim = block;
  std::vector<unsigned> order(block.x);
  std::iota(order.begin(), order.end(), 0u);
  for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
      for (unsigned t = 0; t < block.x; ++t) {
        Fiber& f = fibers[t];
        f.done = false;
        getcontext(&f.context);
        f.context.uc_stack = {f.stack.get(), 0, Fiber::kStack};
        f.context.uc_link = nullptr;
        makecontext(&f.context, enter, 0);
      }
      for (bool left = true; left;) {
        left = false;
        std::shuffle(order.begin(), order.end(), random);
        for (unsigned t : order) {
          if (fibers[t].done) continue;
          running = &fibers[t];
          threadIdx = dim3(t);
          swapcontext(&scheduler, &running->context);
          left |= !running->done;
        }
      }
    }
}

}  // namespace cuda_on_cpu

inline void __syncthreads() {
  cuda_on_cpu::Fiber* mine = cuda_on_cpu::running;
  const dim3 thread = threadIdx;
  swapcontext(&mine->context, &cuda_on_cpu::scheduler);
  cuda_on_cpu::running = mine;
  threadIdx = thread;
}

inline int __syncthreads_or(int predicate) {
  static int any = 0;
  any |= predicate;
  __syncthreads();
  const int found = any;
  __syncthreads();
  any = 0;
  __syncthreads();
  return found != 0;
}

template <class T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}
template <class T>
T atomicMin(T* to, T value) {
  const T before = *to;
  *to = std::min(before, value);
  return before;
}
template <class T>
T atomicOr(T* to, T value) {
  const T before = *to;
  *to |= value;
  return before;
}

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;
inline const char* cudaGetErrorString(cudaError_t) { return "an illegal memory access"; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return getenv("CUDA_ON_CPU_FAILS") ? 1 : cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  memset(to, value, bytes);
  return cudaSuccess;
}
