#include "smoothness_cuda.h"

#include "launch.h"
#include "smoothness_math.h"

namespace nr {
namespace {

constexpr int kThreads = 128;
constexpr int kMembers = 65535;  // most batch members in the grid of a launch; each block takes every kMembers-th

// Python does not check indices on a GPU, because it would have to wait. An edge with an invalid index is skipped.
__device__ inline bool valid(const SmoothnessScene& s, int64_t edge) {
  for (int k = 0; k < 4; ++k) {
    const int32_t corner = s.wings[k * s.E + edge];
    if (corner < 0 || corner >= s.V) return false;
  }
  return true;
}

// One thread per edge; the edges of a block belong to one mesh.
template <class T>
__global__ void add_edges(SmoothnessScene s, SmoothnessArrays<T> arrays) {
  __shared__ T sums[kThreads];
  const int64_t edge = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t b = blockIdx.y; b < s.B; b += gridDim.y) {
    sums[threadIdx.x] = 0;
    if (edge < s.E && valid(s, edge)) {
      int64_t place[4];
      T corner[4][3], by_b[3], by_c[3], by_d[3];
      for (int k = 0; k < 4; ++k) {
        place[k] = (b * s.V + s.wings[k * s.E + edge]) * 3;
        for (int i = 0; i < 3; ++i) corner[k][i] = arrays.vertices[place[k] + i];
      }
      sums[threadIdx.x] = wing_smoothness<T>(corner[0], corner[1], corner[2], corner[3],
                                             static_cast<T>(s.eps), by_b, by_c, by_d);
      for (int i = 0; i < 3; ++i) {
        atomicAdd(arrays.gradient + place[0] + i, -(by_b[i] + by_c[i] + by_d[i]));
        atomicAdd(arrays.gradient + place[1] + i, by_b[i]);
        atomicAdd(arrays.gradient + place[2] + i, by_c[i]);
        atomicAdd(arrays.gradient + place[3] + i, by_d[i]);
      }
    }
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) atomicAdd(arrays.loss + b, sums[0]);
    __syncthreads();
  }
}

}  // namespace

template <class T>
void smoothness_cuda(int device, void* stream, const SmoothnessScene& s, const SmoothnessArrays<T>& arrays) {
  if (s.B == 0 || s.E == 0) return;
  const DeviceGuard guard(device);
  const dim3 blocks(blocks_for(s.E, kThreads), blocks_for(s.B, 1, kMembers));
  NR_LAUNCH((add_edges<T>), blocks, kThreads, 0, static_cast<cudaStream_t>(stream), s, arrays);
  check(cudaGetLastError(), "adding up smoothness");
}
template void smoothness_cuda<float>(int, void*, const SmoothnessScene&, const SmoothnessArrays<float>&);
template void smoothness_cuda<double>(int, void*, const SmoothnessScene&, const SmoothnessArrays<double>&);

}  // namespace nr
