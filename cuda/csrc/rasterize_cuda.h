// The rasteriser on a GPU: same scene, same arrays, same results as rasterize.h. Arrays lie on the
// device, launches go to the caller's stream, nothing waits and nothing is allocated: the caller
// brings a workspace. A face with an index outside [0, V) is drawn as nothing.
#pragma once

#include <cstddef>

#include "rasterize.h"

namespace nr {

struct CudaCall {
  int device;
  void* stream;     // cudaStream_t
  void* workspace;  // of *_workspace() bytes, aligned to 8
};

size_t rasterize_forward_workspace(const RasterizeScene&);
size_t rasterize_backward_workspace(const RasterizeScene&);

template <class T>
void rasterize_forward_cuda(const CudaCall&, const RasterizeScene&, const RasterizeInputs<T>&,
                            const RasterizeOutputs<T>&);

// Gradients that repeat to the bit: no atomics, which add in any order. What faces share, the vertices, is left
// to the caller to sum: what each corner of a face gets goes here instead. Arrays begin as zeros; null: any order.
template <class T>
struct FixedOrder {
  T* edge_shares;    // (B, F, 3, 2, 2): from the corner's two edges, along x and y
  T* sample_shares;  // (B, F, 3, 3): from depths and colours of samples, and from the edges of clipped faces, x y z
  T* colour_shares;  // (B, F, 3, 3): of vertex colours
};

template <class T>
void rasterize_backward_cuda(const CudaCall&, const RasterizeScene&, const RasterizeInputs<T>&,
                             const RasterizeCotangents<T>&, const RasterizeGradients<T>&, const FixedOrder<T>&);

}  // namespace nr
