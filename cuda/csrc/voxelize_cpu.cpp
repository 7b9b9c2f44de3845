#include "voxelize.h"

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "voxel_math.h"

namespace nr {
namespace {

// ---- published rule -----------------------------------------------------------------------------

// n x n rows of n bits.
class BitGrid {
 public:
  void reset(int n) {
    n_ = n, words_ = (n + 63) / 64;
    bits_.assign(static_cast<size_t>(n) * n * words_, 0);
  }
  int words() const { return words_; }
  NR_INLINE uint64_t* row(int i, int j) { return bits_.data() + (static_cast<int64_t>(i) * n_ + j) * words_; }
  NR_INLINE void set_bit(int i, int j, int k) { row(i, j)[k >> 6] |= 1ull << (k & 63); }
  // Cells (i, j, first) and (i, j, last), all in the grid.
  NR_INLINE void set_bits(int i, int j, int first, int last) {
    uint64_t* words = row(i, j);
    words[first >> 6] |= 1ull << (first & 63);
    words[last >> 6] |= 1ull << (last & 63);
  }
  uint64_t valid(int word) const {
    const int bits = n_ - 64 * word;
    return bits >= 64 ? ~0ull : (1ull << bits) - 1;
  }

 private:
  int n_ = 0, words_ = 0;
  std::vector<uint64_t> bits_;
};

struct VoxelScratch {
  BitGrid solid, outside;
  std::vector<int32_t> steps;
};

// One triangle in voxels, and what its three axes share.
struct GridTriangle {
  double corner[3][3];       // by corner and coordinate
  double edge[3][3];         // edge k is opposite to corner k: from corner k+1 to corner k+2
  int first[3], last[3];     // grid lines between which it lies, by coordinate
};

// Marks the cells around every line along `axis` that meets the triangle: meets_line() and
// crossing_at() of voxel_math.h, operation by operation, with what is constant outside.
template <int axis>
NR_INLINE void mark_crossings(const GridTriangle& t, int n, BitGrid& solid) {
  constexpr int iu = (axis + 1) % 3, iv = (axis + 2) % 3;
  const int u0 = t.first[iu], u1 = t.last[iu], v0 = t.first[iv], v1 = t.last[iv];
  if (u0 > u1 || v0 > v1) return;
  const double du0 = t.edge[0][iu], du1 = t.edge[1][iu], du2 = t.edge[2][iu];
  const double dv0 = t.edge[0][iv], dv1 = t.edge[1][iv], dv2 = t.edge[2][iv];
  const double det = du1 * dv2 - du2 * dv1;
  if (det == 0.0) return;
  const double side = det > 0.0 ? 1.0 : -1.0;
  const double at_v0 = t.corner[0][iv], at_v1 = t.corner[1][iv], at_v2 = t.corner[2][iv];
  const double w0 = t.corner[0][axis], dw1 = t.edge[2][axis], dw2 = -t.edge[1][axis];
  // Which lines are met cannot be guessed, so none of this branches on it: every line is written into
  // the next place of a list, and the place is kept if it is met.
  struct Met {
    double rise;  // of the crossing over corner 0, times det
    int u, v;
  };
  constexpr int kRoom = 256;
  Met met[kRoom + 1];
  int count = 0;
  const auto mark = [&]() NR_LAMBDA_INLINE {
    for (int i = 0; i < count; ++i) {
      const double at = w0 + met[i].rise / det;
      if (!(at >= 0.0 && at < n)) continue;
      const int u = met[i].u, v = met[i].v, w = static_cast<int>(at);
      const int before_u = u > 0 ? u - 1 : 0, before_v = v > 0 ? v - 1 : 0;
      if constexpr (axis == 2) {  // (u, v, w) = (i, j, k)
        solid.set_bit(before_u, before_v, w);
        solid.set_bit(before_u, v, w);
        solid.set_bit(u, before_v, w);
        solid.set_bit(u, v, w);
      } else if constexpr (axis == 0) {  // (w, u, v)
        solid.set_bits(w, before_u, before_v, v);
        solid.set_bits(w, u, before_v, v);
      } else {  // (v, w, u)
        solid.set_bits(before_v, w, before_u, u);
        solid.set_bits(v, w, before_u, u);
      }
    }
    count = 0;
  };
  for (int u = u0; u <= u1; ++u) {
    const double c0 = dv0 * (u - t.corner[1][iu]), c1 = dv1 * (u - t.corner[2][iu]),
                 c2 = dv2 * (u - t.corner[0][iu]);
    for (int v = v0; v <= v1; ++v) {
      const double e0 = du0 * (v - at_v1) - c0, e1 = du1 * (v - at_v2) - c1, e2 = du2 * (v - at_v0) - c2;
      met[count] = {e1 * dw1 + e2 * dw2, u, v};
      count += min3(side * e0, side * e1, side * e2) >= 0.0;
      if (count == kRoom) mark();
    }
  }
  mark();
}

template <class T>
NR_INLINE void mark_surface(const T* triangles, int64_t F, int n, BitGrid& solid) {
  for (int64_t f = 0; f < F; ++f, triangles += 9) {
    GridTriangle t;
    for (int i = 0; i < 9; ++i) t.corner[i / 3][i % 3] = static_cast<double>(triangles[i]) * n;
    for (int c = 0; c < 3; ++c) {
      const double x0 = t.corner[0][c], x1 = t.corner[1][c], x2 = t.corner[2][c];
      t.edge[0][c] = x2 - x1, t.edge[1][c] = x0 - x2, t.edge[2][c] = x1 - x0;
      t.first[c] = first_in(min3(x0, x1, x2), n), t.last[c] = last_in(max3(x0, x1, x2), n);
    }
    mark_crossings<0>(t, n, solid);
    mark_crossings<1>(t, n, solid);
    mark_crossings<2>(t, n, solid);
    for (int k = 0; k < 3; ++k) {  // truncated towards zero: (-1, 0) lands in cell 0
      const double x = t.corner[k][0], y = t.corner[k][1], z = t.corner[k][2];
      if (min3(x, y, z) > -1.0 && max3(x, y, z) < n)
        solid.set_bit(static_cast<int>(x), static_cast<int>(y), static_cast<int>(z));
    }
  }
}
NR_CLONES void mark_surface_of(const float* triangles, int64_t F, int n, BitGrid& solid) {
  mark_surface(triangles, F, n, solid);
}
NR_CLONES void mark_surface_of(const double* triangles, int64_t F, int n, BitGrid& solid) {
  mark_surface(triangles, F, n, solid);
}

// Floods the empty cells of one row from those known to be outside; true if more are now known.
NR_INLINE bool flood_row(BitGrid& solid, BitGrid& outside, int n, int i, int j) {
  const int words = solid.words();
  const uint64_t* wall = solid.row(i, j);
  uint64_t* known = outside.row(i, j);
  const bool border = i == 0 || j == 0 || i == n - 1 || j == n - 1;
  const uint64_t* around[4] = {border ? nullptr : outside.row(i - 1, j),
                               border ? nullptr : outside.row(i + 1, j),
                               border ? nullptr : outside.row(i, j - 1),
                               border ? nullptr : outside.row(i, j + 1)};
  bool changed = false;
  uint64_t carry = 1;  // the border of the grid is outside of the row's first and last cell
  for (int k = 0; k < words; ++k) {
    const uint64_t open = ~wall[k] & solid.valid(k);
    uint64_t seed = border ? ~0ull : known[k] | carry | around[0][k] | around[1][k] |
                                         around[2][k] | around[3][k];
    if (k == words - 1) seed |= 1ull << ((n - 1) & 63);
    seed &= open;
    if (seed != open) seed = flood_down(flood_up(seed, open), open);
    changed |= seed != known[k];
    known[k] = seed;
    carry = seed >> 63;
  }
  for (int k = words - 2; k >= 0; --k) {  // what the later words send back down
    if (!(known[k + 1] & 1)) continue;
    const uint64_t open = ~wall[k] & solid.valid(k);
    const uint64_t seed = known[k] | flood_down(known[k] | 1ull << 63, open);
    changed |= seed != known[k];
    known[k] = seed;
  }
  return changed;
}

// Everything that the border cannot reach through empty cells, a byte each.
NR_CLONES void flood_and_write(BitGrid& solid, BitGrid& outside, int n, uint8_t* voxels) {
  // Sweeps there and back: each carries outside through everything that is open along its way.
  for (bool changed = true; changed;) {
    changed = false;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) changed |= flood_row(solid, outside, n, i, j);
    if (!changed) break;
    changed = false;
    for (int i = n - 1; i >= 0; --i)
      for (int j = n - 1; j >= 0; --j) changed |= flood_row(solid, outside, n, i, j);
  }
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j, voxels += n) {
      const uint64_t* row = outside.row(i, j);
      for (int from = 0; from < n; from += 64) {
        const uint64_t inside = ~row[from / 64];
        const int count = std::min(64, n - from);
        for (int k = 0; k < count; ++k) voxels[from + k] = inside >> k & 1;
      }
    }
}

template <class T>
void published_rule(const T* triangles, int64_t F, int n, uint8_t* voxels, VoxelScratch& scratch) {
  scratch.solid.reset(n);
  scratch.outside.reset(n);
  mark_surface_of(triangles, F, n, scratch.solid);
  flood_and_write(scratch.solid, scratch.outside, n, voxels);
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

}  // namespace

template <class T>
void voxelize(const VoxelizeArguments& a, const T* triangles) {
  std::vector<VoxelScratch> scratch(std::max(1, a.threads));
  const int64_t cells = static_cast<int64_t>(a.n) * a.n * a.n;
  parallel_for(a.B, a.threads, [&](int worker, int64_t b) {
    const auto rule = a.rule == VoxelRule::kPublished ? published_rule<T> : solid_rule<T>;
    rule(triangles + b * a.F * 9, a.F, a.n, a.voxels + b * cells, scratch[worker]);
  });
}
template void voxelize<float>(const VoxelizeArguments&, const float*);
template void voxelize<double>(const VoxelizeArguments&, const double*);

}  // namespace nr
