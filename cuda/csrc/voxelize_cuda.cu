#include "voxelize_cuda.h"

#include <algorithm>

#include "launch.h"
#include "voxel_math.h"

namespace nr {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kWorkspace = 512 << 20;   // at most, where grids go to global memory
constexpr size_t kSharedBytes = 48 * 1024;  // that every device has without asking

using Word = unsigned long long;

// n x n rows of n bits.
struct Rows {
  Word* bits;
  int n, words;
  __device__ Word* row(int i, int j) const { return bits + (static_cast<int64_t>(i) * n + j) * words; }
  __device__ void mark(int i, int j, int k) const {
    if (i >= 0 && j >= 0 && k >= 0) atomicOr(row(i, j) + (k >> 6), Word(1) << (k & 63));
  }
};

int words_of(int n) { return (n + 63) / 64; }
size_t grid_bytes(int n) { return sizeof(Word) * n * n * words_of(n); }

// Blocks that work at a time where each needs its grids in global memory.
unsigned global_blocks(const VoxelizeArguments& a) {
  return blocks_for(a.B, 1, std::max<int64_t>(1, kWorkspace / (2 * grid_bytes(a.n))));
}

template <class T>
__device__ bool mark_triangle(const T* corners, int n, const Rows& solid) {
  double odd = 0.0;
  for (int i = 0; i < 9; ++i) {
    const double value = static_cast<double>(corners[i]) * n;
    odd += value - value;
  }
  if (!(odd == 0.0)) return false;
  for (int axis = 0; axis < 3; ++axis) {
    const ColumnTriangle t = along_axis(corners, n, axis);
    if (t.det == 0.0) continue;
    const int u0 = first_in(min3(t.u[0], t.u[1], t.u[2]), n), u1 = last_in(max3(t.u[0], t.u[1], t.u[2]), n);
    const int v0 = first_in(min3(t.v[0], t.v[1], t.v[2]), n), v1 = last_in(max3(t.v[0], t.v[1], t.v[2]), n);
    for (int u = u0; u <= u1; ++u)
      for (int v = v0; v <= v1; ++v) {
        double e[3];
        if (!meets_line(t, u, v, e)) continue;
        const double at = crossing_at(t, e);
        if (!(at >= 0.0 && at < n)) continue;
        for (int around = 0; around < 4; ++around) {  // the cells on both sides of the line
          int cell[3];
          cell[axis] = static_cast<int>(at);
          cell[(axis + 1) % 3] = u - (around & 1), cell[(axis + 2) % 3] = v - (around >> 1);
          solid.mark(cell[0], cell[1], cell[2]);
        }
      }
  }
  for (int k = 0; k < 3; ++k) {  // truncated towards zero: (-1, 0) lands in cell 0
    const double x = static_cast<double>(corners[3 * k]) * n, y = static_cast<double>(corners[3 * k + 1]) * n,
                 z = static_cast<double>(corners[3 * k + 2]) * n;
    if (min3(x, y, z) > -1.0 && max3(x, y, z) < n)
      solid.mark(static_cast<int>(x), static_cast<int>(y), static_cast<int>(z));
  }
  return true;
}

// Hands on to one row what the rows around it know to be outside; true if that was news.
__device__ inline bool flood_from_around(const Rows& solid, const Rows& outside, int i, int j) {
  const int n = solid.n, words = solid.words;
  const bool border = i == 0 || j == 0 || i == n - 1 || j == n - 1;
  const uint64_t* wall = reinterpret_cast<const uint64_t*>(solid.row(i, j));
  uint64_t* known = reinterpret_cast<uint64_t*>(outside.row(i, j));
  uint64_t news = 0;
  for (int k = 0; k < words; ++k) {
    uint64_t seed = ~0ull;
    if (!border) {
      seed = outside.row(i - 1, j)[k] | outside.row(i + 1, j)[k] | outside.row(i, j - 1)[k] | outside.row(i, j + 1)[k];
      if (k == 0) seed |= 1;
      if (k == words - 1) seed |= 1ull << ((n - 1) & 63);
    }
    seed &= ~wall[k] & ~known[k];
    known[k] |= seed;
    news |= seed;
  }
  if (news) flood_row(wall, known, words);
  return news != 0;
}

// A block fills the grid of one mesh after another.
template <class T>
__global__ void voxelize_meshes(VoxelizeArguments a, const T* triangles, Word* workspace, long long* first_bad) {
  NR_DYNAMIC_SHARED(Word, shared);
  __shared__ int changed;
  const int n = a.n, words = (n + 63) / 64, all_words = n * n * words;
  Word* mine = workspace ? workspace + 2 * static_cast<int64_t>(all_words) * blockIdx.x : shared;
  const Rows solid{mine, n, words}, outside{mine + all_words, n, words};
  for (int64_t b = blockIdx.x; b < a.B; b += gridDim.x) {
    const Word beyond = n % 64 ? ~Word(0) << n % 64 : 0;  // bits of a row's last word that are no cells
    for (int w = threadIdx.x; w < all_words; w += kThreads) {
      solid.bits[w] = (w + 1) % words == 0 ? beyond : 0;
      outside.bits[w] = 0;
    }
    __syncthreads();
    for (int64_t f = threadIdx.x; f < a.F; f += kThreads)
      if (!mark_triangle(triangles + (b * a.F + f) * 9, n, solid)) atomicMin(first_bad, static_cast<long long>(b));
    for (bool again = true; again;) {
      __syncthreads();
      if (threadIdx.x == 0) changed = 0;
      __syncthreads();
      // Rows in the two colours of a chessboard: those of one read only those of the other.
      for (int colour = 0; colour < 2; ++colour) {
        for (int r = threadIdx.x; r < n * n; r += kThreads) {
          const int i = r / n, j = r % n;
          if ((i + j) % 2 == colour && flood_from_around(solid, outside, i, j)) changed = 1;
        }
        __syncthreads();
      }
      again = changed != 0;
    }
    uint8_t* voxels = a.voxels + b * n * n * n;
    if (n % 8 == 0) {
      uint64_t* to = reinterpret_cast<uint64_t*>(voxels);
      for (int i = threadIdx.x; i < n * n * n / 8; i += kThreads) {
        const int row = 8 * i / n, k = 8 * i % n;
        to[i] = unset_as_bytes(outside.bits[row * words + (k >> 6)] >> (k & 63));
      }
    } else {
      for (int i = threadIdx.x; i < n * n * n; i += kThreads) {
        const int row = i / n, k = i % n;
        voxels[i] = ~outside.bits[row * words + (k >> 6)] >> (k & 63) & 1;
      }
    }
    __syncthreads();
  }
}

// A block counts one pair of grids after another.
__global__ void count_overlap(OverlapArguments o, bool aligned) {
  __shared__ int counts[2];
  for (int64_t k = blockIdx.x; k < o.B; k += gridDim.x) {
    if (threadIdx.x < 2) counts[threadIdx.x] = 0;
    __syncthreads();
    const uint8_t *a = o.a + k * o.cells, *b = o.b + k * o.b_stride;
    int both = 0, either = 0;
    if (aligned) {
      const uint64_t *x = reinterpret_cast<const uint64_t*>(a), *y = reinterpret_cast<const uint64_t*>(b);
      for (int64_t i = threadIdx.x; i < o.cells / 8; i += kThreads)
        both += bits_set(x[i] & y[i]), either += bits_set(x[i] | y[i]);
    } else {
      for (int64_t i = threadIdx.x; i < o.cells; i += kThreads) both += a[i] & b[i], either += a[i] | b[i];
    }
    atomicAdd(counts, both);
    atomicAdd(counts + 1, either);
    __syncthreads();
    if (threadIdx.x < 2) o.counts[2 * k + threadIdx.x] = counts[threadIdx.x];
    __syncthreads();
  }
}

}  // namespace

void overlap_cuda(int device, void* stream, const OverlapArguments& o) {
  if (o.B == 0) return;
  const DeviceGuard guard(device);
  const bool aligned = (reinterpret_cast<uintptr_t>(o.a) | reinterpret_cast<uintptr_t>(o.b) | o.cells) % 8 == 0;
  NR_LAUNCH(count_overlap, blocks_for(o.B, 1), kThreads, 0, static_cast<cudaStream_t>(stream), o, aligned);
  check(cudaGetLastError(), "counting voxels");
}

size_t voxelize_workspace(const VoxelizeArguments& a) {
  const size_t bytes = 2 * grid_bytes(a.n);
  return bytes <= kSharedBytes ? 0 : bytes * global_blocks(a);
}

template <class T>
void voxelize_cuda(int device, void* stream, const VoxelizeArguments& a, const T* triangles,
                   void* workspace, long long* first_bad) {
  if (a.B == 0) return;
  const DeviceGuard guard(device);
  const bool shared = voxelize_workspace(a) == 0;
  const unsigned blocks = shared ? blocks_for(a.B, 1) : global_blocks(a);
  NR_LAUNCH((voxelize_meshes<T>), blocks, kThreads, shared ? 2 * grid_bytes(a.n) : 0,
            static_cast<cudaStream_t>(stream), a, triangles,
            shared ? nullptr : static_cast<Word*>(workspace), first_bad);
  check(cudaGetLastError(), "voxelising");
}
template void voxelize_cuda<float>(int, void*, const VoxelizeArguments&, const float*, void*, long long*);
template void voxelize_cuda<double>(int, void*, const VoxelizeArguments&, const double*, void*, long long*);

}  // namespace nr
