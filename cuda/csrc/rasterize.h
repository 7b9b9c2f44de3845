// The rasteriser, one operator: visibility, then any of rgb, alpha (silhouette) and depth; and its
// gradient: NMR (Kato et al., CVPR 2018) for rgb and alpha, exact for depth, textures and light.
//
// Raw pointers and sizes only: no torch header, no torch symbol, so that a build outlives torch.
// All arrays are dense in the order given; a batch stride of 0 shares one array between all members.
// S is 2 under anti-aliasing, else 1; sH = S * H, sW = S * W. Row 0 of an image is the top.
#pragma once

#include <cstdint>

namespace nr {

struct RasterizeScene {
  int64_t B, V, F;      // meshes, vertices and faces of each
  int H, W, S;          // image size, and samples per pixel and side
  int T;                // texels per side of a texture cube (0: no textures)
  bool fill_back;       // draw back sides too
  bool perspective;     // x and y were divided by z, so that a face may reach behind the eye
  double near, far;     // only near < z < far is drawn
  double eps;           // keeps edge distances and texel positions off their ends

  const int32_t* faces;     // (B, F, 3), every index in [0, V)
  int64_t faces_stride;
  int threads;
};

// What is drawn has either textures or colours. A batch stride of 0 shares them between all members.
template <class T>
struct RasterizeInputs {
  const T* vertices;        // (B, V, 3) in NDC, z the depth
  const T* textures;        // (B, F, T, T, T, 3) or null
  int64_t textures_stride;
  const T* colours;         // (B, V, 3) of vertices, or null
  int64_t colours_stride;
  const T* light;           // (B, F, 2, 3): factor of the front and of the back, or null
  const T* background;      // (B, 3), with textures or colours
};

template <class T>
struct RasterizeOutputs {   // null: not wanted. face_index always; rgb_samples together with rgb
  int32_t* face_index;      // (B, sH, sW): draw order (face, or F + face for a back), -1 nothing
  T* rgb_samples;           // (B, sH, sW, 3)
  T* rgb;                   // (B, 3, H, W)
  T* alpha;                 // (B, H, W)
  T* depth;                 // (B, H, W)
};

template <class T>
struct RasterizeCotangents {  // null: that output was not used
  const int32_t* face_index;  // as the forward pass left them
  const T* rgb_samples;
  const T* rgb;
  const T* alpha;
  const T* depth;
};

template <class T>
struct RasterizeGradients {  // added to; null: not wanted
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
