#include "voxelize.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "voxel_math.h"

namespace nr {
namespace {

// ---- published rule -----------------------------------------------------------------------------

// n x n rows of n bits, and one bit behind them that stands for everything outside of the grid.
class BitGrid {
 public:
  void reset(int n) {
    n_ = n, words_ = (n + 63) / 64;
    bits_.assign(static_cast<size_t>(n) * n * words_ + 1, 0);
  }
  int words() const { return words_; }
  int64_t nowhere() const { return 64 * (static_cast<int64_t>(bits_.size()) - 1); }
  uint64_t* begin() { return bits_.data(); }
  NR_INLINE uint64_t* row(int i, int j) { return bits_.data() + (static_cast<int64_t>(i) * n_ + j) * words_; }
  uint64_t valid(int word) const {
    const int bits = n_ - 64 * word;
    return bits >= 64 ? ~0ull : (1ull << bits) - 1;
  }

 private:
  int n_ = 0, words_ = 0;
  std::vector<uint64_t> bits_;
};
NR_INLINE void set_bit(uint64_t* bits, int64_t cell) { bits[cell >> 6] |= 1ull << (cell & 63); }

struct alignas(kApart) VoxelScratch {
  BitGrid crossings[3], solid, outside;
  std::vector<char> stale;
  std::vector<int32_t> steps;
};

// Eight triangles in voxels side by side: most meet only a handful of grid lines, so vectors run over
// triangles, not over lines. Loops over `f` are without branches, for the compiler to make vectors of.
constexpr int kFaces = 8;
struct FaceBlock {
  double corner[3][3][kFaces];               // by corner and coordinate
  double edge[3][3][kFaces];                 // edge k is opposite to corner k: from corner k+1 to k+2
  double first[3][kFaces], last[3][kFaces];  // grid lines between which it lies, by coordinate
};

// `count` triangles; the last one stands in for those that lack.
template <class T>
NR_INLINE void load_block(const T* triangles, int64_t count, int n, FaceBlock& t) {
  for (int f = 0; f < kFaces; ++f) {
    const T* from = triangles + 9 * (f < count ? f : count - 1);
    for (int i = 0; i < 9; ++i) t.corner[i / 3][i % 3][f] = static_cast<double>(from[i]) * n;
  }
  const double top = n - 1;
  for (int c = 0; c < 3; ++c) {
#pragma omp simd
    for (int f = 0; f < kFaces; ++f) {
      const double x0 = t.corner[0][c][f], x1 = t.corner[1][c][f], x2 = t.corner[2][c][f];
      t.edge[0][c][f] = x2 - x1, t.edge[1][c][f] = x0 - x2, t.edge[2][c][f] = x1 - x0;
      t.first[c][f] = ceil(greater(lesser(lesser(x0, x1), x2), 0.0));
      t.last[c][f] = floor(lesser(greater(greater(x0, x1), x2), top));
    }
  }
}

// The cell in which each line along `axis` that meets a triangle does so: meets_line() and
// crossing_at() of voxel_math.h, operation by operation. Which lines are met cannot be guessed, so
// branches are kept out of the tests: up to eight lines of all triangles, then those that are met.
template <int axis>
NR_INLINE void mark_crossings(const FaceBlock& t, int n, BitGrid& grid) {
  constexpr int iu = (axis + 1) % 3, iv = (axis + 2) % 3, kSteps = 8;
  const double *u0 = t.corner[0][iu], *u1 = t.corner[1][iu], *u2 = t.corner[2][iu];
  const double *v0 = t.corner[0][iv], *v1 = t.corner[1][iv], *v2 = t.corner[2][iv];
  const double *w0 = t.corner[0][axis], *dw1 = t.edge[2][axis], *dw2 = t.edge[1][axis];
  const int64_t strides[3] = {64LL * grid.words() * n, 64LL * grid.words(), 1};
  const double stride_u = strides[iu], stride_v = strides[iv];
  double u[kFaces], v[kFaces], lines[kFaces], area[kFaces], most = 0.0;
  double du[3][kFaces], dv[3][kFaces];  // of the edges, turned so that inside is positive
#pragma omp simd
  for (int f = 0; f < kFaces; ++f) {
    u[f] = t.first[iu][f], v[f] = t.first[iv][f];
    const double det = t.edge[1][iu][f] * t.edge[2][iv][f] - t.edge[2][iu][f] * t.edge[1][iv][f];
    const double side = det > 0.0 ? 1.0 : -1.0;
    area[f] = side * det;
    for (int k = 0; k < 3; ++k) du[k][f] = side * t.edge[k][iu][f], dv[k][f] = side * t.edge[k][iv][f];
    const double rows = t.last[iu][f] - u[f] + 1.0, columns = t.last[iv][f] - v[f] + 1.0;
    const double some = greater(rows, 0.0) * greater(columns, 0.0);
    lines[f] = det != 0.0 ? some : 0.0;
  }
  for (int f = 0; f < kFaces; ++f) most = greater(most, lines[f]);
  double cell[kSteps * kFaces], rise[kSteps * kFaces];  // of each test: cell at height 0, and height times area
  for (double done = 0.0; done < most; done += kSteps) {
    int64_t met[kFaces] = {};
    const int steps = static_cast<int>(lesser(most - done, kSteps));
    for (int step = 0; step < steps; ++step) {
      double *to_cell = cell + kFaces * step, *to_rise = rise + kFaces * step;
#pragma omp simd
      for (int f = 0; f < kFaces; ++f) {
        const double e0 = du[0][f] * (v[f] - v1[f]) - dv[0][f] * (u[f] - u1[f]);
        const double e1 = du[1][f] * (v[f] - v2[f]) - dv[1][f] * (u[f] - u2[f]);
        const double e2 = du[2][f] * (v[f] - v0[f]) - dv[2][f] * (u[f] - u0[f]);
        to_rise[f] = e1 * dw1[f] - e2 * dw2[f];
        to_cell[f] = u[f] * stride_u + v[f] * stride_v;
        const bool inside = (e0 >= 0.0) & (e1 >= 0.0) & (e2 >= 0.0) & (done + step < lines[f]);
        met[f] |= (inside ? int64_t{1} : int64_t{0}) << kFaces * step;
        const bool turn = v[f] >= t.last[iv][f];
        u[f] += turn ? 1.0 : 0.0;
        v[f] = turn ? t.first[iv][f] : v[f] + 1.0;
      }
    }
    uint64_t left = 0;
    for (int f = 0; f < kFaces; ++f) left |= static_cast<uint64_t>(met[f]) << f;
    for (; left; left &= left - 1) {
      const int i = __builtin_ctzll(left), f = i % kFaces;
      const double at = w0[f] + rise[i] / area[f];
      if (at >= 0.0 && at < n)
        set_bit(grid.begin(), static_cast<int64_t>(cell[i]) + static_cast<int64_t>(at) * strides[axis]);
    }
  }
}

// Every corner's own cell, truncated towards zero: (-1, 0) lands in cell 0.
NR_INLINE void mark_corners(const FaceBlock& t, int n, BitGrid& grid) {
  const double size = n, row = 64.0 * grid.words(), nowhere = grid.nowhere();
  for (int k = 0; k < 3; ++k) {
    double cell[kFaces];
#pragma omp simd
    for (int f = 0; f < kFaces; ++f) {
      const double x = t.corner[k][0][f], y = t.corner[k][1][f], z = t.corner[k][2][f];
      const bool within = (x > -1.0) & (y > -1.0) & (z > -1.0) & (x < size) & (y < size) & (z < size);
      const double i = floor(greater(x, 0.0)), j = floor(greater(y, 0.0)), l = floor(greater(z, 0.0));
      cell[f] = within ? (i * size + j) * row + l : nowhere;
    }
    for (int f = 0; f < kFaces; ++f) set_bit(grid.begin(), static_cast<int64_t>(cell[f]));
  }
}

// A line marks the cells on both sides of it in both directions: the crossing's own, numbered as the
// line, and those before it.
NR_INLINE void thicken(VoxelScratch& s, int n) {
  const int words = s.solid.words();
  const int64_t row = words, plane = static_cast<int64_t>(n) * words;
  const uint64_t *x = s.crossings[0].begin(), *y = s.crossings[1].begin(), *z = s.crossings[2].begin();
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      uint64_t* solid = s.solid.row(i, j);
      const int64_t at = solid - s.solid.begin();
      const int64_t next_i = i + 1 < n ? at + plane : at, next_j = j + 1 < n ? at + row : at;
      const int64_t next_both = next_i + next_j - at;
      for (int k = 0; k < words; ++k) {
        const auto with_before = [&](const uint64_t* grid, int64_t next) NR_LAMBDA_INLINE {
          const uint64_t here = grid[at + k] | grid[next + k];
          const uint64_t above = k + 1 < words ? grid[at + k + 1] | grid[next + k + 1] : 0;
          return here | here >> 1 | above << 63;
        };
        solid[k] |= with_before(x, next_j) | with_before(y, next_i) |
                    z[at + k] | z[next_i + k] | z[next_j + k] | z[next_both + k];
      }
    }
}

template <class T>
NR_INLINE void mark_surface(const T* triangles, int64_t F, int n, VoxelScratch& s) {
  FaceBlock t;
  for (int64_t f = 0; f < F; f += kFaces) {
    load_block(triangles + 9 * f, F - f, n, t);
    mark_crossings<0>(t, n, s.crossings[0]);
    mark_crossings<1>(t, n, s.crossings[1]);
    mark_crossings<2>(t, n, s.crossings[2]);
    mark_corners(t, n, s.solid);
  }
  thicken(s, n);
}
NR_CLONES void mark_surface_of(const float* triangles, int64_t F, int n, VoxelScratch& s) {
  mark_surface(triangles, F, n, s);
}
NR_CLONES void mark_surface_of(const double* triangles, int64_t F, int n, VoxelScratch& s) {
  mark_surface(triangles, F, n, s);
}

// Takes over what the planes on both sides know to be outside and spreads it; true if that was news.
template <bool one_word>
NR_INLINE bool flood_plane(const uint64_t* wall, uint64_t* known, int n, int words, bool fresh) {
  if (one_word) words = 1;
  const int64_t plane = static_cast<int64_t>(n) * words;
  uint64_t news = 0;
  for (int64_t c = words; c < plane - words; ++c) {
    const uint64_t handed_on = (known[c - plane] | known[c + plane]) & ~wall[c] & ~known[c];
    known[c] |= handed_on;
    news |= handed_on;
  }
  if (!news && !fresh) return false;
  do {
    for (int64_t c = words; c < plane - words; c += words) flood_row(wall + c, known + c, words);
    news = 0;
    const auto hand_on = [&](int64_t from, int64_t to) NR_LAMBDA_INLINE {
      const uint64_t handed_on = known[from] & ~wall[to] & ~known[to];
      known[to] |= handed_on;
      news |= handed_on;
    };
    for (int64_t c = words; c < plane - words; ++c) hand_on(c - words, c);
    for (int64_t c = plane - words - 1; c >= words; --c) hand_on(c + words, c);
  } while (news);
  return true;
}

// A row's cells that are not outside, a byte each.
NR_INLINE void write_row(const uint64_t* row, int n, uint8_t* voxels) {
  int from = 0;
  for (; from + 8 <= n; from += 8) {
    const uint64_t bytes = unset_as_bytes(row[from >> 6] >> (from & 63));
    memcpy(voxels + from, &bytes, 8);
  }
  for (; from < n; ++from) voxels[from] = ~row[from >> 6] >> (from & 63) & 1;
}

// Everything that the border cannot reach through empty cells, a byte each.
template <bool one_word>
NR_INLINE void flood_and_write(VoxelScratch& s, int n, uint8_t* voxels) {
  const int words = one_word ? 1 : s.solid.words();
  const int64_t plane = static_cast<int64_t>(n) * words;
  const uint64_t last_bit = 1ull << ((n - 1) & 63), beyond = ~s.solid.valid(words - 1);
  uint64_t *wall = s.solid.begin(), *known = s.outside.begin();
  for (int64_t row = 0; row < n * plane; row += words) {
    wall[row + words - 1] |= beyond;
    for (int k = 0; k < words; ++k) known[row + k] = 0;
    known[row] |= ~wall[row] & 1;
    known[row + words - 1] |= ~wall[row + words - 1] & last_bit;
  }
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; j += i == 0 || i == n - 1 ? 1 : n - 1)
      for (int64_t c = i * plane + j * words, k = 0; k < words; ++k) known[c + k] = ~wall[c + k];
  // Sweeps there and back, over the planes whose neighbours have changed.
  std::vector<char>& stale = s.stale;
  stale.assign(n, 1);
  bool fresh = true;
  for (bool changed = true, up = true; changed; up = !up, fresh = false) {
    changed = false;
    for (int step = 1; step < n - 1; ++step) {
      const int i = up ? step : n - 1 - step;
      if (!stale[i]) continue;
      stale[i] = 0;
      if (flood_plane<one_word>(wall + i * plane, known + i * plane, n, words, fresh))
        stale[i - 1] = stale[i + 1] = changed = true;
    }
  }
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j, voxels += n) write_row(known + i * plane + j * words, n, voxels);
}
NR_CLONES void flood_and_write(VoxelScratch& s, int n, uint8_t* voxels) {
  s.solid.words() == 1 ? flood_and_write<true>(s, n, voxels) : flood_and_write<false>(s, n, voxels);
}

template <class T>
void published_rule(const T* triangles, int64_t F, int n, uint8_t* voxels, VoxelScratch& scratch) {
  scratch.solid.reset(n);
  scratch.outside.reset(n);
  for (BitGrid& grid : scratch.crossings) grid.reset(n);
  mark_surface_of(triangles, F, n, scratch);
  flood_and_write(scratch, n, voxels);
}

// ---- solid rule ---------------------------------------------------------------------------------

template <class T>
void solid_rule(const T* triangles, int64_t F, int n, uint8_t* voxels, VoxelScratch& scratch) {
  const int64_t strides[3] = {static_cast<int64_t>(n) * n, n, 1};
  std::fill(voxels, voxels + strides[0] * n, uint8_t(0));
  std::vector<int32_t>& steps = scratch.steps;  // of the winding number, along each line
  for (int axis = 0; axis < 3; ++axis) {
    steps.assign(static_cast<size_t>(n) * n * (n + 1), 0);
    for (int64_t f = 0; f < F; ++f) {
      const ColumnTriangle t = along_axis(triangles + 9 * f, n, axis);
      if (t.det == 0.0) continue;
      // Lines through the centres of cells: u + 1/2.
      const int u0 = first_in(min3(t.u[0], t.u[1], t.u[2]) - 0.5, n);
      const int u1 = last_in(max3(t.u[0], t.u[1], t.u[2]) - 0.5, n);
      const int v0 = first_in(min3(t.v[0], t.v[1], t.v[2]) - 0.5, n);
      const int v1 = last_in(max3(t.v[0], t.v[1], t.v[2]) - 0.5, n);
      for (int u = u0; u <= u1; ++u)
        for (int v = v0; v <= v1; ++v) {
          double e[3];
          if (!owns_line(t, u + 0.5, v + 0.5, e)) continue;
          // The first centre at or beyond the crossing: moved by t > 0, like the line.
          const int first = first_in(crossing_at(t, e) - 0.5, n);
          steps[(static_cast<int64_t>(u) * n + v) * (n + 1) + first] += t.det > 0.0 ? 1 : -1;
        }
    }
    const int64_t su = strides[(axis + 1) % 3], sv = strides[(axis + 2) % 3], sw = strides[axis];
    for (int u = 0; u < n; ++u)
      for (int v = 0; v < n; ++v) {
        const int32_t* step = steps.data() + (static_cast<int64_t>(u) * n + v) * (n + 1);
        int32_t winding = 0;
        for (int w = 0; w < n; ++w) {
          winding += step[w];
          voxels[u * su + v * sv + w * sw] += winding != 0;
        }
      }
  }
  for (int64_t i = 0; i < strides[0] * n; ++i) voxels[i] = voxels[i] >= 2;
}

template <class T>
bool all_finite(const T* values, int64_t count, int n) {
  double odd = 0.0;  // NaN as soon as one value, in voxels, is not finite
#pragma omp simd reduction(+ : odd)
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(values[i]) * n;
    odd += value - value;
  }
  return odd == 0.0;
}

}  // namespace

template <class T>
int64_t voxelize(const VoxelizeArguments& a, const T* triangles) {
  std::vector<VoxelScratch> scratch(std::max(1, a.threads));
  const int64_t cells = static_cast<int64_t>(a.n) * a.n * a.n;
  std::atomic<int64_t> first_bad{a.B};
  parallel_for(a.B, a.threads, [&](int worker, int64_t b) {
    const T* mine = triangles + b * a.F * 9;
    if (!all_finite(mine, a.F * 9, a.n)) {
      for (int64_t seen = first_bad; b < seen && !first_bad.compare_exchange_weak(seen, b);) {}
      return;
    }
    const auto rule = a.rule == VoxelRule::kPublished ? published_rule<T> : solid_rule<T>;
    rule(mine, a.F, a.n, a.voxels + b * cells, scratch[worker]);
  });
  return first_bad < a.B ? first_bad.load() : -1;
}
template int64_t voxelize<float>(const VoxelizeArguments&, const float*);
template int64_t voxelize<double>(const VoxelizeArguments&, const double*);

}  // namespace nr
