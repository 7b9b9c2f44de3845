#include "smoothness.h"

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "smoothness_math.h"

namespace nr {
namespace {

// Number of meshes in a vector. All meshes share their edges, so a vector over meshes needs no gather.
constexpr int kMeshes = 16;

// Coordinates and gradients of a group of meshes, ordered by vertex, then axis, then mesh.
template <class T>
struct alignas(kApart) Group {
  std::vector<T> vertices, gradient;
};

template <class T>
NR_INLINE void add_edges(const SmoothnessScene& s, Group<T>& group, T* loss) {
  const T eps = static_cast<T>(s.eps);
  for (int64_t edge = 0; edge < s.E; ++edge) {
    const T* from[4];
    T* to[4];
    for (int k = 0; k < 4; ++k) {
      const int64_t place = static_cast<int64_t>(s.wings[k * s.E + edge]) * 3 * kMeshes;
      from[k] = group.vertices.data() + place, to[k] = group.gradient.data() + place;
    }
    const T *a = from[0], *b = from[1], *c = from[2], *d = from[3];
    T by[3][3][kMeshes];
#pragma omp simd
    for (int m = 0; m < kMeshes; ++m) {
      T by_b[3], by_c[3], by_d[3];
      loss[m] += wing_smoothness<T>(
          {a[m], a[m + kMeshes], a[m + 2 * kMeshes]}, {b[m], b[m + kMeshes], b[m + 2 * kMeshes]},
          {c[m], c[m + kMeshes], c[m + 2 * kMeshes]}, {d[m], d[m + kMeshes], d[m + 2 * kMeshes]}, eps,
          by_b, by_c, by_d);
      for (int i = 0; i < 3; ++i) by[0][i][m] = by_b[i], by[1][i][m] = by_c[i], by[2][i][m] = by_d[i];
    }
    for (int i = 0; i < 3; ++i) {
#pragma omp simd
      for (int m = 0; m < kMeshes; ++m) {
        const int at = i * kMeshes + m;
        to[0][at] -= by[0][i][m] + by[1][i][m] + by[2][i][m];
        to[1][at] += by[0][i][m];
        to[2][at] += by[1][i][m];
        to[3][at] += by[2][i][m];
      }
    }
  }
}
NR_CLONES void add_edges_of(const SmoothnessScene& s, Group<float>& g, float* loss) { add_edges(s, g, loss); }
NR_CLONES void add_edges_of(const SmoothnessScene& s, Group<double>& g, double* loss) { add_edges(s, g, loss); }

}  // namespace

template <class T>
void smoothness(const SmoothnessScene& s, const SmoothnessArrays<T>& arrays) {
  const int64_t numbers = s.V * 3;
  std::vector<Group<T>> groups(std::max(1, s.threads));
  parallel_for((s.B + kMeshes - 1) / kMeshes, s.threads, [&](int worker, int64_t item) {
    Group<T>& group = groups[worker];
    const int64_t first = item * kMeshes, count = std::min<int64_t>(kMeshes, s.B - first);
    group.vertices.assign(numbers * kMeshes, T(0));
    group.gradient.assign(numbers * kMeshes, T(0));
    T loss[kMeshes] = {};
    for (int64_t m = 0; m < count; ++m)
      for (int64_t i = 0; i < numbers; ++i)
        group.vertices[i * kMeshes + m] = arrays.vertices[(first + m) * numbers + i];
    add_edges_of(s, group, loss);
    for (int64_t m = 0; m < count; ++m) {
      arrays.loss[first + m] = loss[m];
      for (int64_t i = 0; i < numbers; ++i)
        arrays.gradient[(first + m) * numbers + i] = group.gradient[i * kMeshes + m];
    }
  });
}
template void smoothness<float>(const SmoothnessScene&, const SmoothnessArrays<float>&);
template void smoothness<double>(const SmoothnessScene&, const SmoothnessArrays<double>&);

}  // namespace nr
