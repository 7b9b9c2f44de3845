// The rasteriser on a GPU: same scene, same arrays, same results as rasterize.h. All arrays lie on the
// device. Kernels are launched on the caller's stream without waiting. Nothing is allocated: the caller
// provides a workspace. Faces with an index outside [0, V) are skipped.
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

// For deterministic gradients, that is, without atomics, which add in any order. The kernel stores the gradient of each
// corner of a face here, and the caller sums them over the faces of a vertex. The arrays must begin as zeros. If they
// are null, the kernel uses atomics.
template <class T>
struct FixedOrder {
  T* edge_shares;    // (B, F, 3, 2, 2): from the corner's two edges, along x and y
  T* sample_shares;  // (B, F, 3, 3), x y z: from depths and colours of samples, and from the edges of clipped faces
  T* colour_shares;  // (B, F, 3, 3): gradients of vertex colours
};

template <class T>
void rasterize_backward_cuda(const CudaCall&, const RasterizeScene&, const RasterizeInputs<T>&,
                             const RasterizeCotangents<T>&, const RasterizeGradients<T>&, const FixedOrder<T>&);

}  // namespace nr
