// The rasteriser. One operator computes visibility, and from it any of rgb, alpha (silhouette) and depth.
// Its gradient is that of NMR (Kato et al., CVPR 2018) for rgb and alpha, and exact for depth, textures,
// colours and light.
//
// The interface has raw pointers and sizes, no torch header and no torch symbol, so a build works with any torch.
// All arrays are dense in the order given. A batch stride of 0 means that all members share one array.
// S is 2 under anti-aliasing, else 1; sH = S * H, sW = S * W. Row 0 of an image is the top.
#pragma once

#include <cstdint>

namespace nr {

struct RasterizeScene {
  int64_t B, V, F;      // meshes; vertices and faces of each mesh
  int H, W, S;          // image size in pixels; samples per pixel along each axis
  int T;                // texels per side of a texture cube (0: no textures)
  bool fill_back;       // draw back sides too
  bool perspective;     // x and y were divided by z, so a face may reach behind the eye
  double near, far;     // only near < z < far is drawn
  double eps;           // keeps edge distances above 0 and texel positions below the last texel

  const int32_t* faces;     // (B, F, 3), every index in [0, V)
  int64_t faces_stride;
  int threads;
};

// For rgb there are either textures or colours. A batch stride of 0 means that all members share them.
template <class T>
struct RasterizeInputs {
  const T* vertices;        // (B, V, 3) in NDC, z the depth
  const T* textures;        // (B, F, T, T, T, 3) or null
  int64_t textures_stride;
  const T* colours;         // (B, V, 3) colours of vertices, or null
  int64_t colours_stride;
  const T* light;           // (B, F, 2, 3): factors for the front and the back, or null
  const T* background;      // (B, 3); needed with textures or colours
};

template <class T>
struct RasterizeOutputs {   // null: not wanted. face_index is never null; rgb_samples comes with rgb
  int32_t* face_index;      // (B, sH, sW): draw order (face, or F + face for a back); -1: nothing
  T* rgb_samples;           // (B, sH, sW, 3)
  T* rgb;                   // (B, 3, H, W)
  T* alpha;                 // (B, H, W)
  T* depth;                 // (B, H, W)
};

template <class T>
struct RasterizeCotangents {  // gradients of the outputs; null: the output was not used
  const int32_t* face_index;  // face_index and rgb_samples: results of the forward pass
  const T* rgb_samples;
  const T* rgb;
  const T* alpha;
  const T* depth;
};

template <class T>
struct RasterizeGradients {  // the kernel adds to these; null: not wanted
  T* vertices;               // (B, V, 3)
  T* textures;               // (B, F, T, T, T, 3), never shared
  T* colours;                // (B, V, 3), never shared
  T* light;                  // (B, F, 2, 3), never shared
};

template <class T>
void rasterize_forward(const RasterizeScene&, const RasterizeInputs<T>&, const RasterizeOutputs<T>&);

template <class T>
void rasterize_backward(const RasterizeScene&, const RasterizeInputs<T>&,
                        const RasterizeCotangents<T>&, const RasterizeGradients<T>&);

}  // namespace nr
