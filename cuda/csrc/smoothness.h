// Smoothness of meshes that share their edges. One pass computes the loss and its gradient.
#pragma once

#include <cstdint>

namespace nr {

struct SmoothnessScene {
  int64_t B, V, E;
  const int32_t* wings;  // (4, E): both ends of an edge and the opposite corners of its faces, in [0, V);
                         // the GPU kernel skips edges with other indices
  double eps;
  int threads;
};

template <class T>
struct SmoothnessArrays {
  const T* vertices;  // (B, V, 3)
  T* loss;            // (B,), the sum over edges; for the GPU, loss and gradient must begin as zeros
  T* gradient;        // (B, V, 3)
};

template <class T>
void smoothness(const SmoothnessScene&, const SmoothnessArrays<T>&);

}  // namespace nr
