#include "voxelize_cuda.h"

#include <algorithm>

#include "load_balance.h"
#include "launch.h"
#include "voxel_math.h"

namespace nr {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kWorkspace = 512 << 20;   // most bytes of workspace, if the grids are in global memory
constexpr size_t kSharedBytes = 32 * 1024;  // most bytes of grids in shared memory; every device has 48 KB by default

using Word = unsigned long long;

// n x n rows of n bits.
struct Rows {
  Word* bits;
  int n, words;
  __device__ Word* row(int i, int j) const { return bits + (static_cast<int64_t>(i) * n + j) * words; }
  // Uses 32-bit halves of words: in shared memory, a 32-bit atomic "or" is one instruction, a 64-bit one is a loop.
  __device__ void mark(int i, int j, int k) const {
    atomicOr(reinterpret_cast<unsigned*>(row(i, j)) + (k >> 5), 1u << (k & 31));
  }
};

// k / n without an integer division, which takes a GPU some thirty instructions. (k + 1/2) / n is at least 1/2n
// away from every integer, more than the rounding error for k < 2^21.
__device__ inline int quotient(int k, float one_nth) { return static_cast<int>((k + 0.5f) * one_nth); }

int words_of(int n) { return (n + 63) / 64; }
size_t grid_bytes(int n) { return sizeof(Word) * n * n * words_of(n); }

// Number of blocks at a time if each has its grids in global memory.
unsigned global_blocks(const VoxelizeArguments& a) {
  return blocks_for(a.B, 1, std::max<int64_t>(1, kWorkspace / (2 * grid_bytes(a.n))));
}

// The triangles of a block, one per thread, in shared memory. Most meet a few grid lines and some meet hundreds, so
// the lines are distributed over the threads. Owner 3 f + axis stands for the lines along an axis of triangle f.
struct TrianglesToMark {
  struct Lines {
    int16_t u, v, columns;  // the first line, and the number of lines with the same u
    float one_column;       // 1 / columns
  };
  double corners[kThreads][9];  // in voxels
  Lines lines[3 * kThreads];
  LoadBalance<kThreads, 3> work;

  // A thread calls this to store its own triangle. It marks the cells of the corners and counts the grid lines.
  // Returns false if a coordinate is not finite.
  template <class T>
  __device__ bool store(const T* triangle, int n, const Rows& solid, int (&counts)[3]) {
    double* corner = corners[threadIdx.x];
    double odd = 0.0;
    for (int i = 0; i < 9; ++i) {
      corner[i] = static_cast<double>(triangle[i]) * n;
      odd += corner[i] - corner[i];
    }
    if (!(odd == 0.0)) return false;
    int first[3], last[3];  // range of grid lines along each coordinate
    for (int c = 0; c < 3; ++c) {
      first[c] = first_in(min3(corner[c], corner[c + 3], corner[c + 6]), n);
      last[c] = last_in(max3(corner[c], corner[c + 3], corner[c + 6]), n);
    }
    for (int axis = 0; axis < 3; ++axis) {
      const int iu = (axis + 1) % 3, iv = (axis + 2) % 3;
      const int rows = last[iu] - first[iu] + 1, columns = last[iv] - first[iv] + 1;
      if (rows <= 0 || columns <= 0 || along_axis(corner, 1.0, axis).det == 0.0) continue;
      counts[axis] = rows * columns;
      lines[3 * threadIdx.x + axis] = {static_cast<int16_t>(first[iu]), static_cast<int16_t>(first[iv]),
                                       static_cast<int16_t>(columns), 1.0f / columns};
    }
    for (int k = 0; k < 9; k += 3) {  // the cast truncates: coordinates in (-1, 0) give cell 0
      const double x = corner[k], y = corner[k + 1], z = corner[k + 2];
      if (min3(x, y, z) > -1.0 && max3(x, y, z) < n)
        solid.mark(static_cast<int>(x), static_cast<int>(y), static_cast<int>(z));
    }
    return true;
  }

  // Any thread may call this: marks the four cells around a line where it meets its triangle.
  __device__ void mark_crossing(int item, int n, const Rows& solid) const {
    const int owner = work.owner_of(item), axis = owner % 3, k = item - work.first_of(owner);
    const ColumnTriangle t = along_axis(corners[owner / 3], 1.0, axis);
    const Lines& these = lines[owner];
    const int row = quotient(k, these.one_column), u = these.u + row, v = these.v + (k - row * these.columns);
    double e[3];
    if (!meets_line(t, u, v, e)) return;
    const double at = crossing_at(t, e);
    if (!(at >= 0.0 && at < n)) return;
    const int w = static_cast<int>(at);
    for (int around = 0; around < 4; ++around) {  // no cell lies before the first line
      const int a = around & 1 ? max(u - 1, 0) : u, b = around >> 1 ? max(v - 1, 0) : v;
      solid.mark(axis == 0 ? w : axis == 1 ? b : a, axis == 0 ? a : axis == 1 ? w : b,
                 axis == 0 ? b : axis == 1 ? a : w);
    }
  }
};

// Marks cells of one row as outside if the neighbouring rows show that they are. Returns true if any cell is new.
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

// Each block voxelises one mesh after another. kShared: the grids are in shared memory, and a row is one word.
template <class T, bool kShared>
__global__ void voxelize_meshes(VoxelizeArguments a, const T* triangles, Word* workspace, long long* first_bad) {
  NR_DYNAMIC_SHARED(Word, shared);
  __shared__ TrianglesToMark block;
  const int n = a.n, words = kShared ? 1 : (n + 63) / 64, all_words = n * n * words;
  Word* mine = kShared ? shared : workspace + 2 * static_cast<int64_t>(all_words) * blockIdx.x;
  const int half = (n + 1) / 2;
  const float one_half = 1.0f / half;
  const Rows solid{mine, n, words}, outside{mine + all_words, n, words};
  for (int64_t b = blockIdx.x; b < a.B; b += gridDim.x) {
    const Word beyond = n % 64 ? ~Word(0) << n % 64 : 0;  // bits of a row's last word that have no cell
    for (int w = threadIdx.x; w < all_words; w += kThreads) {
      solid.bits[w] = (w + 1) % words == 0 ? beyond : 0;
      outside.bits[w] = 0;
    }
    __syncthreads();
    for (int64_t first = 0; first < a.F; first += kThreads) {
      const int64_t f = first + threadIdx.x;
      int counts[3] = {};
      if (f < a.F && !block.store(triangles + (b * a.F + f) * 9, n, solid, counts))
        atomicMin(first_bad, static_cast<long long>(b));
      block.work.set(counts);
      for (int item = threadIdx.x; item < block.work.total(); item += kThreads) block.mark_crossing(item, n, solid);
      __syncthreads();
    }
    for (bool again = true; again;) {
      // Rows are coloured like a chessboard. Rows of one colour read only rows of the other, so there is no race.
      again = false;
      for (int colour = 0; colour < 2; ++colour) {
        for (int r = threadIdx.x; r < n * half; r += kThreads) {
          const int i = quotient(r, one_half), j = 2 * (r - i * half) + ((i ^ colour) & 1);
          if (j < n && flood_from_around(solid, outside, i, j)) again = true;
        }
        again = __syncthreads_or(again);
      }
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

// Each block counts one pair of grids after another.
__global__ void count_overlap(OverlapArguments o, bool aligned) {
  __shared__ int64_t sums[2][kThreads];
  for (int64_t k = blockIdx.x; k < o.B; k += gridDim.x) {
    const uint8_t *a = o.a + k * o.cells, *b = o.b + k * o.b_stride;
    int64_t both = 0, either = 0;
    if (aligned) {
      const uint64_t *x = reinterpret_cast<const uint64_t*>(a), *y = reinterpret_cast<const uint64_t*>(b);
      for (int64_t i = threadIdx.x; i < o.cells / 8; i += kThreads)
        both += bits_set(x[i] & y[i]), either += bits_set(x[i] | y[i]);
    } else {
      for (int64_t i = threadIdx.x; i < o.cells; i += kThreads) both += a[i] & b[i], either += a[i] | b[i];
    }
    sums[0][threadIdx.x] = both, sums[1][threadIdx.x] = either;
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half)
        for (int which = 0; which < 2; ++which) sums[which][threadIdx.x] += sums[which][threadIdx.x + half];
    }
    if (threadIdx.x == 0) o.counts[2 * k] = sums[0][0], o.counts[2 * k + 1] = sums[1][0];
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
  const auto on = static_cast<cudaStream_t>(stream);
  if (voxelize_workspace(a) == 0)
    NR_LAUNCH((voxelize_meshes<T, true>), blocks_for(a.B, 1), kThreads, 2 * grid_bytes(a.n), on, a, triangles,
              nullptr, first_bad);
  else
    NR_LAUNCH((voxelize_meshes<T, false>), global_blocks(a), kThreads, 0, on, a, triangles,
              static_cast<Word*>(workspace), first_bad);
  check(cudaGetLastError(), "voxelising");
}
template void voxelize_cuda<float>(int, void*, const VoxelizeArguments&, const float*, void*, long long*);
template void voxelize_cuda<double>(int, void*, const VoxelizeArguments&, const double*, void*, long long*);

}  // namespace nr
