// The geometry of the voxelisers, shared by CPU and CUDA. Coordinates are in voxels: [0, n]^3.
//
// All decisions are computed in double from differences and products of the given coordinates. So float32
// input gives exact answers where grid lines touch edges and corners.
#pragma once

#include "portable.h"

namespace nr {

// A triangle seen along one grid axis: (u, v) are the coordinates across the grid lines, w runs along them.
struct ColumnTriangle {
  double u[3], v[3], w[3];
  double det;  // twice its signed area in (u, v); if 0, it is seen edge-on and meets no line
};

template <class T>
NR_HD NR_INLINE ColumnTriangle along_axis(const T* corners, double scale, int axis) {
  ColumnTriangle t;
  const int iu = (axis + 1) % 3, iv = (axis + 2) % 3;
  for (int k = 0; k < 3; ++k) {
    t.u[k] = static_cast<double>(corners[3 * k + iu]) * scale;
    t.v[k] = static_cast<double>(corners[3 * k + iv]) * scale;
    t.w[k] = static_cast<double>(corners[3 * k + axis]) * scale;
  }
  t.det = (t.u[1] - t.u[0]) * (t.v[2] - t.v[0]) - (t.u[2] - t.u[0]) * (t.v[1] - t.v[0]);
  return t;
}

// Edge functions at a line, with signs such that inside is positive whatever the triangle's orientation.
NR_HD NR_INLINE void line_weights(const ColumnTriangle& t, double u, double v, double e[3]) {
  for (int k = 0; k < 3; ++k) {
    const int a = (k + 1) % 3, b = (k + 2) % 3;
    const double value = (t.u[b] - t.u[a]) * (v - t.v[a]) - (t.v[b] - t.v[a]) * (u - t.u[a]);
    e[k] = t.det > 0.0 ? value : -value;
  }
}

// Published rule: edges belong to the triangle.
NR_HD NR_INLINE bool meets_line(const ColumnTriangle& t, double u, double v, double e[3]) {
  line_weights(t, u, v, e);
  return e[0] >= 0.0 && e[1] >= 0.0 && e[2] >= 0.0;
}

// Solid rule: a line through an edge or corner belongs to exactly one of the triangles around it, the one that
// it would meet if it were moved by (t, t^2) for a vanishing t > 0 (simulation of simplicity, Edelsbrunner and
// Muecke 1990). So crossings of a closed surface always come in pairs.
NR_HD NR_INLINE bool owns_line(const ColumnTriangle& t, double u, double v, double e[3]) {
  line_weights(t, u, v, e);
  const double s = t.det > 0.0 ? 1.0 : -1.0;
  for (int k = 0; k < 3; ++k) {
    if (e[k] > 0.0) continue;
    if (!(e[k] == 0.0)) return false;
    const int a = (k + 1) % 3, b = (k + 2) % 3;
    const double du = s * (t.u[b] - t.u[a]), dv = s * (t.v[b] - t.v[a]);
    if (!(dv < 0.0 || (dv == 0.0 && du > 0.0))) return false;
  }
  return true;
}

NR_HD NR_INLINE double crossing_at(const ColumnTriangle& t, const double e[3]) {
  const double area = t.det > 0.0 ? t.det : -t.det;
  return t.w[0] + (e[1] * (t.w[1] - t.w[0]) + e[2] * (t.w[2] - t.w[0])) / area;
}

// ---- rows of bits: the last grid axis, 64 voxels a word -------------------------------------------

// All bits of `open` that a run of open bits connects with a lower bit of `seed`.
NR_HD NR_INLINE uint64_t flood_up(uint64_t seed, uint64_t open) {
  seed &= open;
  return open & (~(open + seed) | seed);  // the carry runs through each open run above its seed
}
// All bits of `open` that a run of open bits connects with a higher bit of `seed`, in doubling steps.
NR_HD NR_INLINE uint64_t flood_down(uint64_t seed, uint64_t open) {
  seed &= open;
  for (int k = 0; k < 6; ++k) {
    seed |= open & (seed >> (1 << k));
    open &= open >> (1 << k);
  }
  return seed;
}

// Extends `known`, the cells of a row known to be outside, by all empty cells that they reach along the row.
NR_HD NR_INLINE void flood_row(const uint64_t* wall, uint64_t* known, int words) {
  uint64_t carry = 0;
  for (int k = 0; k < words; ++k) {
    known[k] = flood_up(known[k] | carry, ~wall[k]);
    carry = known[k] >> 63;
  }
  carry = 0;
  for (int k = words - 1; k >= 0; --k) {
    known[k] = flood_down(known[k] | carry << 63, ~wall[k]);
    carry = known[k] & 1;
  }
}

// Eight bytes from the lowest eight bits: 1 where the bit is not set, else 0. Each bit is kept in its own
// byte; a carry moves it to the top of the byte and a shift to the bottom.
NR_HD NR_INLINE constexpr uint64_t unset_as_bytes(uint64_t bits) {
  const uint64_t spread = (~bits & 0xff) * 0x0101010101010101 & 0x8040201008040201;
  return (spread + 0x7f7f7f7f7f7f7f7f) >> 7 & 0x0101010101010101;
}

}  // namespace nr
