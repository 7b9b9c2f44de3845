// Launches kernels and reports CUDA errors. Tests without a GPU replace the CUDA runtime by
// tests/helpers/cuda_on_cpu.h.
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

// The message begins like torch's, so that callers recognise an error of the GPU. The error may come from an earlier
// launch of the caller; so the message says when it was seen, not what caused it.
inline void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess)
    throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(code) + ", seen while " + what);
}

// Makes a device current during its lifetime. Callers from Python have made it current already, without creating a
// context on the device they return to; this guard is for other callers.
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
