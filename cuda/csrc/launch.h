// Launching kernels and saying what went wrong. tests/helpers/cuda_on_cpu.h stands in for the CUDA runtime
// where the kernels are tested without a GPU.
#pragma once

#ifndef NR_CUDA_ON_CPU
#include <cuda_runtime.h>
#define NR_LAUNCH(kernel, grid, block, shared, stream, ...) \
  kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define NR_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

#include <cstdint>
#include <stdexcept>
#include <string>

namespace nr {

// In torch's words, by which callers tell a GPU that failed: an earlier launch of theirs may have, too.
inline void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess)
    throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(code) + ", seen while " + what);
}

// Makes a device current for as long as it lives. Python does so before, without a context on the device
// that it comes back to; this serves other callers.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : device_(device) {
    check(cudaGetDevice(&before_), "choosing a device");
    if (device != before_) check(cudaSetDevice(device), "choosing a device");
  }
  ~DeviceGuard() {
    if (device_ != before_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_, before_ = 0;
};

inline unsigned blocks_for(int64_t items, int threads, int64_t most = INT32_MAX) {
  const int64_t blocks = (items + threads - 1) / threads;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

}  // namespace nr
