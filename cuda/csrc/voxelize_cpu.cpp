#include "voxelize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "voxel_math.h"

namespace nr {
namespace {

// ---- published rule -----------------------------------------------------------------------------

// n x n rows of n bits, and one more bit that stands for every cell outside of the grid.
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

// Where a line meets a triangle: the line's number, the height, and the first cell centre at or after the height.
struct Crossing {
  int64_t line;
  double at;
  int first;
};

struct alignas(kApart) VoxelScratch {
  BitGrid crossings[3], solid, outside;
  std::vector<char> stale;
  std::vector<int32_t> steps;
  std::vector<double> length;
  std::vector<Crossing> met;
};

// Eight triangles, in voxels. Most triangles meet only a few grid lines, so vectors run over triangles. They run
// over lines for a triangle that meets so many that the others would wait. Loops over `f` have no branches, so
// that the compiler vectorises them.
constexpr int kFaces = 8, kSteps = 8;
struct alignas(64) FaceBlock {
  double corner[3][3][kFaces];               // indexed by corner and coordinate
  double edge[3][3][kFaces];                 // edge k is opposite to corner k: from corner k+1 to k+2
  double first[3][kFaces], last[3][kFaces];  // range of grid lines along each coordinate
  // For each axis: twice the area seen along the axis, the sign that makes it positive, the number of lines that may
  // meet the triangle, and the maximum of that number.
  double area[3][kFaces], side[3][kFaces], lines[3][kFaces], most[3];
  bool finite;
};

// Loads only the corners; measure() computes the rest later, because vector loads right after scalar stores stall. If
// there are fewer than eight triangles, the last one is repeated.
template <class T>
NR_INLINE void load_block(const T* triangles, int64_t count, FaceBlock& t) {
  T padded[9 * kFaces];
  if (count < kFaces) {
    for (int f = 0; f < kFaces; ++f)
      memcpy(padded + 9 * f, triangles + 9 * std::min<int64_t>(f, count - 1), 9 * sizeof(T));
    triangles = padded;
  }
  for (int i = 0; i < 9; ++i)
    for (int f = 0; f < kFaces; ++f) t.corner[i / 3][i % 3][f] = triangles[9 * f + i];
}

NR_INLINE void measure(int n, FaceBlock& t) {
  const double size = n, top = n - 1;
  double odd[kFaces] = {};  // becomes NaN if any coordinate, in voxels, is not finite
  for (int c = 0; c < 3; ++c) {
#pragma omp simd
    for (int f = 0; f < kFaces; ++f) {
      const double x0 = t.corner[0][c][f] * size, x1 = t.corner[1][c][f] * size, x2 = t.corner[2][c][f] * size;
      odd[f] += (x0 - x0) + (x1 - x1) + (x2 - x2);
      t.corner[0][c][f] = x0, t.corner[1][c][f] = x1, t.corner[2][c][f] = x2;
      t.edge[0][c][f] = x2 - x1, t.edge[1][c][f] = x0 - x2, t.edge[2][c][f] = x1 - x0;
      t.first[c][f] = ceil(greater(lesser(lesser(x0, x1), x2), 0.0));
      t.last[c][f] = floor(lesser(greater(greater(x0, x1), x2), top));
    }
  }
  double all = 0.0;
  for (int f = 0; f < kFaces; ++f) all += odd[f];
  t.finite = all == 0.0;
  for (int axis = 0; axis < 3; ++axis) {
    const int iu = (axis + 1) % 3, iv = (axis + 2) % 3;
    double most = 0.0;
#pragma omp simd reduction(max : most)
    for (int f = 0; f < kFaces; ++f) {
      const double det = t.edge[1][iu][f] * t.edge[2][iv][f] - t.edge[2][iu][f] * t.edge[1][iv][f];
      const double side = det > 0.0 ? 1.0 : -1.0;
      const double rows = t.last[iu][f] - t.first[iu][f] + 1.0, columns = t.last[iv][f] - t.first[iv][f] + 1.0;
      const double some = greater(rows, 0.0) * greater(columns, 0.0), lines = det != 0.0 ? some : 0.0;
      t.side[axis][f] = side, t.area[axis][f] = side * det, t.lines[axis][f] = lines;
      most = greater(most, lines);
    }
    t.most[axis] = most;
  }
}

// Marks the cells in which lines along an axis meet triangles, with the operations of meets_line() and crossing_at()
// in voxel_math.h. A branch on "does the line meet" could not be predicted, so the results of several tests are kept
// first, and the marking follows later.
class CrossingMarker {
 public:
  NR_INLINE CrossingMarker(int n, BitGrid* grids) : n_(n), grids_(grids) {
    strides_[0] = 64.0 * grids->words() * n, strides_[1] = 64.0 * grids->words(), strides_[2] = 1.0;
  }
  NR_INLINE ~CrossingMarker() { mark(); }

  template <int axis>
  NR_INLINE void test(FaceBlock& t) {
    if (t.most[axis] > kSteps) test_apart<axis>(t);
    if (t.most[axis] > 0.0) test_faces<axis>(t);
  }

 private:
  // Results of testing lines, eight at a time, in up to kSteps steps. The eight lines of a step belong to the eight
  // triangles of a block, or all to one triangle.
  struct Tests {
    double cell[kSteps * kFaces], rise[kSteps * kFaces];  // cell at height 0; height above corner 0, times area
    double w0[kFaces], area[kFaces];
    uint64_t met;  // bit kFaces * step + place
    uint64_t* bits;
    int64_t stride;
  };
  static constexpr int kRoom = 2;  // small, to stay in the L1 cache together with the grids

  // Tests triangles with more than kSteps lines one by one, if that is less work.
  template <int axis>
  NR_INLINE void test_apart(FaceBlock& t) {
    constexpr double kSetUp = 4.0;  // the cost of setting up one triangle, in steps (measured)
    double *lines = t.lines[axis], apart = 0.0, most = 0.0;
    uint64_t large = 0, bit[kFaces] = {1, 2, 4, 8, 16, 32, 64, 128};
#pragma omp simd reduction(+ : apart) reduction(max : most) reduction(| : large)
    for (int f = 0; f < kFaces; ++f) {
      const bool alone = lines[f] > kSteps;
      const double steps = kSetUp + lines[f] / kFaces, rest = alone ? 0.0 : lines[f];
      apart += alone ? steps : 0.0;
      most = greater(most, rest);
      large |= bit[f] & -static_cast<uint64_t>(alone);
    }
    if (apart + most >= t.most[axis]) return;
    t.most[axis] = most;
    for (; large; large &= large - 1) {
      const int f = __builtin_ctzll(large);
      test_lines<axis>(t, f);
      lines[f] = 0.0;
    }
  }

  template <int axis>
  NR_INLINE void test_faces(const FaceBlock& t) {
    constexpr int iu = (axis + 1) % 3, iv = (axis + 2) % 3;
    const double *u0 = t.corner[0][iu], *u1 = t.corner[1][iu], *u2 = t.corner[2][iu];
    const double *v0 = t.corner[0][iv], *v1 = t.corner[1][iv], *v2 = t.corner[2][iv];
    const double *dw1 = t.edge[2][axis], *dw2 = t.edge[1][axis], *lines = t.lines[axis];
    const double stride_u = strides_[iu], stride_v = strides_[iv], nowhere = n_;
    double u[kFaces], v[kFaces];
    double du[3][kFaces], dv[3][kFaces];  // edges, with signs such that inside is positive
#pragma omp simd
    for (int f = 0; f < kFaces; ++f) {
      const double first = t.first[iu][f], side = t.side[axis][f];
      u[f] = lines[f] > 0.0 ? first : nowhere;  // past the last line, where nothing is met
      v[f] = t.first[iv][f];
      for (int k = 0; k < 3; ++k) du[k][f] = side * t.edge[k][iu][f], dv[k][f] = side * t.edge[k][iv][f];
    }
    for (double left = t.most[axis]; left > 0.0; left -= kSteps) {
      Tests& tests = next();
      uint64_t met[kFaces] = {}, bit[kFaces] = {1, 2, 4, 8, 16, 32, 64, 128};
      const int steps = static_cast<int>(lesser(left, kSteps));
      for (int step = 0; step < steps; ++step) {
        double *cell = tests.cell + kFaces * step, *rise = tests.rise + kFaces * step;
#pragma omp simd
        for (int f = 0; f < kFaces; ++f) {
          const double e0 = du[0][f] * (v[f] - v1[f]) - dv[0][f] * (u[f] - u1[f]);
          const double e1 = du[1][f] * (v[f] - v2[f]) - dv[1][f] * (u[f] - u2[f]);
          const double e2 = du[2][f] * (v[f] - v0[f]) - dv[2][f] * (u[f] - u0[f]);
          rise[f] = e1 * dw1[f] - e2 * dw2[f];
          cell[f] = u[f] * stride_u + v[f] * stride_v;
          const bool inside = (e0 >= 0.0) & (e1 >= 0.0) & (e2 >= 0.0) & (u[f] <= t.last[iu][f]);
          met[f] |= bit[f] & -static_cast<uint64_t>(inside);
          bit[f] <<= kFaces;
          const bool turn = v[f] >= t.last[iv][f];
          u[f] += turn ? 1.0 : 0.0;
          v[f] = turn ? t.first[iv][f] : v[f] + 1.0;
        }
      }
#pragma omp simd
      for (int f = 0; f < kFaces; ++f) tests.w0[f] = t.corner[0][axis][f], tests.area[f] = t.area[axis][f];
      finish<axis>(tests, met);
    }
  }

  // Tests all lines of one triangle. Line l is at (l / columns, l % columns) of its bounding box.
  template <int axis>
  NR_INLINE void test_lines(const FaceBlock& t, int f) {
    constexpr int iu = (axis + 1) % 3, iv = (axis + 2) % 3;
    const double u0 = t.corner[0][iu][f], u1 = t.corner[1][iu][f], u2 = t.corner[2][iu][f];
    const double v0 = t.corner[0][iv][f], v1 = t.corner[1][iv][f], v2 = t.corner[2][iv][f];
    const double dw1 = t.edge[2][axis][f], dw2 = t.edge[1][axis][f], side = t.side[axis][f];
    const double du0 = side * t.edge[0][iu][f], du1 = side * t.edge[1][iu][f], du2 = side * t.edge[2][iu][f];
    const double dv0 = side * t.edge[0][iv][f], dv1 = side * t.edge[1][iv][f], dv2 = side * t.edge[2][iv][f];
    const double first_u = t.first[iu][f], last_u = t.last[iu][f], first_v = t.first[iv][f];
    const double columns = t.last[iv][f] - first_v + 1.0, share = 1.0 / columns;
    const double lines = (last_u - first_u + 1.0) * columns;
    const double stride_u = strides_[iu], stride_v = strides_[iv];
    double line[kFaces] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (double left = lines; left > 0.0; left -= kSteps * kFaces) {
      Tests& tests = next();
      uint64_t met[kFaces] = {}, bit[kFaces] = {1, 2, 4, 8, 16, 32, 64, 128};
      const int steps = static_cast<int>(lesser((left + kFaces - 1) / kFaces, kSteps));
      for (int step = 0; step < steps; ++step) {
        double *cell = tests.cell + kFaces * step, *rise = tests.rise + kFaces * step;
#pragma omp simd
        for (int k = 0; k < kFaces; ++k) {
          const double row = floor((line[k] + 0.5) * share);  // + 0.5 keeps rounding errors away from whole numbers
          const double u = first_u + row, v = first_v + (line[k] - row * columns);
          const double e0 = du0 * (v - v1) - dv0 * (u - u1);
          const double e1 = du1 * (v - v2) - dv1 * (u - u2);
          const double e2 = du2 * (v - v0) - dv2 * (u - u0);
          rise[k] = e1 * dw1 - e2 * dw2;
          cell[k] = u * stride_u + v * stride_v;
          const bool inside = (e0 >= 0.0) & (e1 >= 0.0) & (e2 >= 0.0) & (u <= last_u);
          met[k] |= bit[k] & -static_cast<uint64_t>(inside);
          bit[k] <<= kFaces;
          line[k] += kFaces;
        }
      }
#pragma omp simd
      for (int k = 0; k < kFaces; ++k) tests.w0[k] = t.corner[0][axis][f], tests.area[k] = t.area[axis][f];
      finish<axis>(tests, met);
    }
  }

  template <int axis>
  NR_INLINE void finish(Tests& tests, const uint64_t* met) {
    uint64_t all = 0;
#pragma omp simd reduction(| : all)
    for (int f = 0; f < kFaces; ++f) all |= met[f];
    tests.met = all;
    tests.bits = grids_[axis].begin(), tests.stride = static_cast<int64_t>(strides_[axis]);
  }

  NR_INLINE Tests& next() {
    if (count_ == kRoom) mark();
    return tests_[count_++];
  }

  NR_INLINE void mark() {
    for (int k = 0; k < count_; ++k) {
      const Tests& tests = tests_[k];
      for (uint64_t left = tests.met; left; left &= left - 1) {
        const int i = __builtin_ctzll(left), f = i % kFaces;
        const double at = tests.w0[f] + tests.rise[i] / tests.area[f];
        if (at >= 0.0 && at < n_)
          set_bit(tests.bits, static_cast<int64_t>(tests.cell[i]) + static_cast<int64_t>(at) * tests.stride);
      }
    }
    count_ = 0;
  }

  int n_, count_ = 0;
  BitGrid* grids_;
  double strides_[3];
  Tests tests_[kRoom];
};

// Marks the cell of every corner, truncated towards zero: coordinates in (-1, 0) give cell 0.
NR_INLINE void mark_corners(const FaceBlock& t, int n, BitGrid& grid) {
  const double size = n, row = 64.0 * grid.words(), nowhere = grid.nowhere();
  for (int k = 0; k < 3; ++k) {
    double cell[kFaces];  // cell + 2^52: the low 32 bits of the double are the cell, and 1024^3 fits
#pragma omp simd
    for (int f = 0; f < kFaces; ++f) {
      const double x = t.corner[k][0][f], y = t.corner[k][1][f], z = t.corner[k][2][f];
      const bool within = (x > -1.0) & (y > -1.0) & (z > -1.0) & (x < size) & (y < size) & (z < size);
      const double i = floor(greater(x, 0.0)), j = floor(greater(y, 0.0)), l = floor(greater(z, 0.0));
      const double place = (i * size + j) * row + l, kept = within ? place : nowhere;
      cell[f] = kept + 4503599627370496.0;
    }
    for (int f = 0; f < kFaces; ++f) {
      uint64_t bits;
      memcpy(&bits, cell + f, sizeof bits);
      set_bit(grid.begin(), static_cast<uint32_t>(bits));
    }
  }
}

// A line marks the four cells around it: across the line, those with its own numbers and those one before.
template <bool one_word>
NR_INLINE void thicken(VoxelScratch& s, int n) {
  const int words = one_word ? 1 : s.solid.words();
  const int64_t plane = static_cast<int64_t>(n) * words;
  for (int i = 0; i < n; ++i) {
    const uint64_t *x = s.crossings[0].row(i, 0), *y = s.crossings[1].row(i, 0), *z = s.crossings[2].row(i, 0);
    const int64_t next_i = i + 1 < n ? plane : 0;
    uint64_t* solid = s.solid.row(i, 0);
    const auto mark = [=](int64_t at, int64_t next_j) NR_LAMBDA_INLINE {
      const auto across = [=](int64_t at) NR_LAMBDA_INLINE { return x[at] | x[at + next_j] | y[at] | y[at + next_i]; };
      const uint64_t here = across(at), above = one_word || at % words == words - 1 ? 0 : across(at + 1);
      solid[at] |= here | here >> 1 | above << 63 | z[at] | z[at + next_i] | z[at + next_j] | z[at + next_i + next_j];
    };
#pragma omp simd
    for (int64_t at = 0; at < plane - words; ++at) mark(at, words);
    for (int64_t at = plane - words; at < plane; ++at) mark(at, 0);
  }
}

// Returns false if a coordinate is not finite.
template <class T>
NR_INLINE bool mark_surface(const T* triangles, int64_t F, int n, VoxelScratch& s) {
  bool finite = true;
  {
    CrossingMarker marker(n, s.crossings);
    constexpr int kBlocks = 2;
    FaceBlock blocks[kBlocks];
    for (int64_t first = 0; first < F; first += kBlocks * kFaces) {
      const int count = static_cast<int>(std::min<int64_t>(kBlocks, (F - first + kFaces - 1) / kFaces));
      for (int k = 0; k < count; ++k)
        load_block(triangles + 9 * (first + k * kFaces), F - first - k * kFaces, blocks[k]);
      for (int k = 0; k < count; ++k) {
        measure(n, blocks[k]);
        finite &= blocks[k].finite;
      }
      for (int k = 0; k < count; ++k) {
        marker.test<0>(blocks[k]), marker.test<1>(blocks[k]), marker.test<2>(blocks[k]);
        mark_corners(blocks[k], n, s.solid);
      }
    }
  }
  s.solid.words() == 1 ? thicken<true>(s, n) : thicken<false>(s, n);
  return finite;
}
NR_CLONES bool mark_surface_of(const float* triangles, int64_t F, int n, VoxelScratch& s) {
  return mark_surface(triangles, F, n, s);
}
NR_CLONES bool mark_surface_of(const double* triangles, int64_t F, int n, VoxelScratch& s) {
  return mark_surface(triangles, F, n, s);
}

// Marks cells of a plane as outside if the planes on both sides show that they are, and spreads this over the plane.
// Returns true if any cell is new.
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
    if (one_word) {
#pragma omp simd
      for (int64_t c = 1; c < plane - 1; ++c) known[c] = flood_down(flood_up(known[c], ~wall[c]), ~wall[c]);
    } else {
      for (int64_t c = words; c < plane - words; c += words) flood_row(wall + c, known + c, words);
    }
    news = 0;
    const auto hand_on = [&](int64_t from, int64_t last, int64_t step) NR_LAMBDA_INLINE {  // row by row
      for (int k = 0; k < words; ++k) {
        uint64_t carried = known[from + k];
        for (int64_t c = from + step + k; c != last + step + k; c += step) {
          const uint64_t before = known[c];
          known[c] = carried = before | (carried & ~wall[c]);
          news |= carried ^ before;
        }
      }
    };
    hand_on(0, plane - 2 * words, words);
    hand_on(plane - words, words, -words);
  } while (news);
  return true;
}

// A table of unset_as_bytes().
struct UnsetBytes {
  uint64_t of[256];
  constexpr UnsetBytes() : of() {
    for (int bits = 0; bits < 256; ++bits) of[bits] = unset_as_bytes(bits);
  }
};
constexpr UnsetBytes kUnsetBytes;

// Writes a row, one byte per cell: 1 if the cell is not outside.
NR_INLINE void write_row(const uint64_t* row, int n, uint8_t* voxels) {
  int from = 0;
  for (; from + 8 <= n; from += 8) {
    const uint64_t bytes = kUnsetBytes.of[row[from >> 6] >> (from & 63) & 0xff];
    memcpy(voxels + from, &bytes, 8);
  }
  for (; from < n; ++from) voxels[from] = ~row[from >> 6] >> (from & 63) & 1;
}

// Finds the cells that empty cells connect with the border, and writes all others as 1, one byte per cell.
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
  // Sweep up and down over the planes whose neighbours have changed.
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

// Both rules return false, and do not write `voxels`, if a coordinate is not finite.
template <class T>
bool published_rule(const T* triangles, int64_t F, int n, uint8_t* voxels, VoxelScratch& scratch) {
  scratch.solid.reset(n);
  scratch.outside.reset(n);
  for (BitGrid& grid : scratch.crossings) grid.reset(n);
  if (!mark_surface_of(triangles, F, n, scratch)) return false;
  flood_and_write(scratch, n, voxels);
  return true;
}

// ---- solid rule ---------------------------------------------------------------------------------

template <class T>
bool all_finite(const T* values, int64_t count, int n) {
  double odd = 0.0;  // becomes NaN if any value, in voxels, is not finite
#pragma omp simd reduction(+ : odd)
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(values[i]) * n;
    odd += value - value;
  }
  return odd == 0.0;
}

// Calls meet(line, at, first, sign) for every crossing of a triangle and a line through cell centres along an axis:
// the line's number u n + v, the height, the first centre at or after it, and the sign of the triangle's area.
template <class T, class Meet>
NR_INLINE void for_crossings(const T* triangles, int64_t F, int n, int axis, Meet meet) {
  for (int64_t f = 0; f < F; ++f) {
    const ColumnTriangle t = along_axis(triangles + 9 * f, n, axis);
    if (t.det == 0.0) continue;
    const int u0 = first_in(min3(t.u[0], t.u[1], t.u[2]) - 0.5, n);
    const int u1 = last_in(max3(t.u[0], t.u[1], t.u[2]) - 0.5, n);
    const int v0 = first_in(min3(t.v[0], t.v[1], t.v[2]) - 0.5, n);
    const int v1 = last_in(max3(t.v[0], t.v[1], t.v[2]) - 0.5, n);
    for (int u = u0; u <= u1; ++u)
      for (int v = v0; v <= v1; ++v) {
        double e[3];
        if (!owns_line(t, u + 0.5, v + 0.5, e)) continue;
        const double at = crossing_at(t, e);
        meet(static_cast<int64_t>(u) * n + v, at, first_in(at - 0.5, n), t.det > 0.0 ? 1 : -1);
      }
  }
}

// Crossings closer than this, in voxels, are at the same place: duplicated faces with another order of corners, or cut
// into other triangles, differ by the rounding of files and of float32.
NR_INLINE double same_place(int n) { return 1e-5 * n; }

// The lines along one axis vote by their winding numbers. Counts the lines whose winding number is ever not zero
// (`turning`), and of these the ones that end at zero (`consistent`). Returns true if other lines meet the mesh: lines
// that do not end at zero, or whose crossings cancel at the same place.
template <class T>
bool vote_by_winding(const T* triangles, int64_t F, int n, int axis, uint8_t* voxels, VoxelScratch& scratch,
                     int64_t& turning, int64_t& consistent, std::vector<char>& kept) {
  const int64_t strides[3] = {static_cast<int64_t>(n) * n, n, 1}, lines = strides[0];
  const int64_t su = strides[(axis + 1) % 3], sv = strides[(axis + 2) % 3], sw = strides[axis];
  std::vector<int32_t>& steps = scratch.steps;  // changes of the winding number along each line
  std::vector<double>& length = scratch.length; // sum of sign * height: 0 if crossings cancel at the same place
  steps.assign(static_cast<size_t>(lines) * (n + 1), 0);
  length.assign(lines, 0.0);
  kept.assign(lines, 0);
  for_crossings(triangles, F, n, axis, [&](int64_t line, double at, int first, int sign) NR_LAMBDA_INLINE {
    steps[line * (n + 1) + first] += sign;
    length[line] += sign * at;
    kept[line] = 1;
  });
  bool others = false;
  for (int64_t line = 0; line < lines; ++line) {
    if (!kept[line]) continue;
    const int32_t* step = steps.data() + line * (n + 1);
    uint8_t* cells = voxels + line / n * su + line % n * sv;
    int32_t winding = 0;
    bool turns = false;
    for (int w = 0; w < n; ++w) {
      winding += step[w];
      cells[w * sw] += winding != 0;
      turns |= winding != 0;
    }
    winding += step[n];
    turning += turns || winding != 0;
    consistent += turns && winding == 0;
    kept[line] = winding == 0 && (turns || std::abs(length[line]) > same_place(n));
    others |= !kept[line];
  }
  return others;
}

// One line votes by the parity of its sorted crossings. Crossings at the same place count once. If this makes their
// number odd, and it is even when all count, all count, as at a flat closed part. If both are odd, the surface is open.
NR_INLINE void vote_by_parity(const Crossing* crossing, int64_t count, int n, uint8_t* cells, int64_t stride) {
  int64_t places = 0;
  for (int64_t k = 0; k < count; ++k) places += k == 0 || crossing[k].at - crossing[k - 1].at > same_place(n);
  const bool each = places % 2 == 1 && count % 2 == 0;
  bool inside = false;
  int w = 0;
  for (int64_t k = 0; k < count; ++k) {
    if (!each && k > 0 && !(crossing[k].at - crossing[k - 1].at > same_place(n))) continue;
    for (; w < crossing[k].first; ++w) cells[w * stride] += inside;
    inside = !inside;
  }
  for (; w < n; ++w) cells[w * stride] += inside;
}

template <class T>
bool solid_rule(const T* triangles, int64_t F, int n, uint8_t* voxels, VoxelScratch& scratch) {
  if (!all_finite(triangles, F * 9, n)) return false;
  const int64_t strides[3] = {static_cast<int64_t>(n) * n, n, 1}, cells = strides[0] * n;
  std::fill(voxels, voxels + cells, uint8_t(0));
  int64_t turning = 0, consistent = 0;
  bool others = false;
  std::vector<char> kept[3];
  for (int axis = 0; axis < 3; ++axis)
    others |= vote_by_winding(triangles, F, n, axis, voxels, scratch, turning, consistent, kept[axis]);
  if (others) {
    // The mesh is not everywhere closed and consistently oriented. If most lines are consistent, only the others vote
    // by parity.
    const bool oriented = 4 * consistent >= 3 * turning;
    std::fill(voxels, voxels + cells, uint8_t(0));
    std::vector<Crossing>& met = scratch.met;
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t su = strides[(axis + 1) % 3], sv = strides[(axis + 2) % 3], sw = strides[axis];
      std::vector<int32_t>& steps = scratch.steps;
      steps.assign(static_cast<size_t>(strides[0]) * (n + 1), 0);
      met.clear();
      for_crossings(triangles, F, n, axis, [&](int64_t line, double at, int first, int sign) {
        if (oriented && kept[axis][line])
          steps[line * (n + 1) + first] += sign;
        else
          met.push_back({line, at, first});
      });
      std::sort(met.begin(), met.end(), [](const Crossing& a, const Crossing& b) {
        return a.line != b.line ? a.line < b.line : a.at != b.at ? a.at < b.at : a.first < b.first;
      });
      for (size_t k = 0, end; k < met.size(); k = end) {
        for (end = k; end < met.size() && met[end].line == met[k].line;) ++end;
        vote_by_parity(met.data() + k, end - k, n, voxels + met[k].line / n * su + met[k].line % n * sv, sw);
      }
      for (int64_t line = 0; line < strides[0]; ++line) {
        if (!oriented || !kept[axis][line]) continue;
        const int32_t* step = steps.data() + line * (n + 1);
        int32_t winding = 0;
        for (int w = 0; w < n; ++w) {
          winding += step[w];
          voxels[line / n * su + line % n * sv + w * sw] += winding != 0;
        }
      }
    }
  }
  for (int64_t i = 0; i < cells; ++i) voxels[i] = voxels[i] >= 2;
  return true;
}

}  // namespace

template <class T>
int64_t voxelize(const VoxelizeArguments& a, const T* triangles) {
  std::vector<VoxelScratch> scratch(std::max(1, a.threads));
  const int64_t cells = static_cast<int64_t>(a.n) * a.n * a.n;
  std::atomic<int64_t> first_bad{a.B};
  parallel_for(a.B, a.threads, [&](int worker, int64_t b) {
    const auto rule = a.rule == VoxelRule::kPublished ? published_rule<T> : solid_rule<T>;
    if (!rule(triangles + b * a.F * 9, a.F, a.n, a.voxels + b * cells, scratch[worker]))
      for (int64_t seen = first_bad; b < seen && !first_bad.compare_exchange_weak(seen, b);) {}
  });
  return first_bad < a.B ? first_bad.load() : -1;
}

namespace {

NR_CLONES void count_overlap(const uint8_t* a, const uint8_t* b, int64_t cells, int64_t counts[2]) {
  int64_t both = 0, either = 0, i = 0;
  for (; i + 8 <= cells; i += 8) {  // one byte per cell, so bits set are cells set
    uint64_t x, y;
    memcpy(&x, a + i, 8), memcpy(&y, b + i, 8);
    both += bits_set(x & y), either += bits_set(x | y);
  }
  for (; i < cells; ++i) both += a[i] & b[i], either += a[i] | b[i];
  counts[0] = both, counts[1] = either;
}

}  // namespace

void overlap(const OverlapArguments& o) {
  parallel_for(o.B, o.threads, [&](int, int64_t k) {
    count_overlap(o.a + k * o.cells, o.b + k * o.b_stride, o.cells, o.counts + 2 * k);
  });
}

template int64_t voxelize<float>(const VoxelizeArguments&, const float*);
template int64_t voxelize<double>(const VoxelizeArguments&, const double*);

}  // namespace nr
