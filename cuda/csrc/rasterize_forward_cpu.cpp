#include <algorithm>
#include <vector>

#include "parallel.h"
#include "raster_samples.h"

namespace nr {
namespace {

// ---- visibility ---------------------------------------------------------------------------------

// Samples are worked on in groups of fixed length, without branches, so that the compiler makes
// vectors of them; rows of `keys` are padded to let the last group run over.
constexpr int kDrawLanes = 8;
inline int key_stride(int sW) { return sW + kDrawLanes; }

// `between`: the whole face lies in near < z < far, and in front of the eye.
template <bool between>
NR_INLINE void draw_rows(const ScreenFace& f, uint32_t order, const RasterizeScene& scene, int x0,
                         int x1, int y0, int y1, int sW, int64_t* keys) {
  const double iz0 = 1.0 / f.z[0], iz1 = 1.0 / f.z[1], iz2 = 1.0 / f.z[2];
  const double dx0 = f.x[2] - f.x[1], dx1 = f.x[0] - f.x[2], dx2 = f.x[1] - f.x[0];
  const double dy0 = f.y[2] - f.y[1], dy1 = f.y[0] - f.y[2], dy2 = f.y[1] - f.y[0];
  const double near = scene.near, far = scene.far;
  // A row of a wide face is cut to where its edges cross it. The margin is far above the rounding of
  // the crossings, given coordinates that are not far out; edge_functions() has the last word.
  const double margin = 1e-3, far_out = 1e6, none = 1e9;
  const bool wide = x1 - x0 >= kDrawLanes && max3(f.x[0], f.x[1], f.x[2]) < far_out &&
                    min3(f.x[0], f.x[1], f.x[2]) > -far_out;
  const double slope0 = dx0 / dy0, slope1 = dx1 / dy1, slope2 = dx2 / dy2;
  for (int y = y0; y <= y1; ++y) {
    const double y_1 = y - f.y[1], y_2 = y - f.y[2], y_0 = y - f.y[0];
    int from = x0, to = x1;
    if (wide) {
      const double c0 = f.x[1] + y_1 * slope0, c1 = f.x[2] + y_2 * slope1, c2 = f.x[0] + y_0 * slope2;
      const double low = max3(dy0 < 0.0 ? c0 : -none, dy1 < 0.0 ? c1 : -none, dy2 < 0.0 ? c2 : -none);
      const double high = min3(dy0 > 0.0 ? c0 : none, dy1 > 0.0 ? c1 : none, dy2 > 0.0 ? c2 : none);
      from = std::max(x0, first_in(low - margin, sW)), to = std::min(x1, last_in(high + margin, sW));
    }
    // edge_functions() and depth_at(), operation by operation, the constant part of a row outside.
    const double row0 = dx0 * y_1, row1 = dx1 * y_2, row2 = dx2 * y_0;
    for (int x = from; x <= to; x += kDrawLanes) {
      int64_t* line = keys + static_cast<int64_t>(y) * key_stride(sW) + x;
#pragma omp simd
      for (int lane = 0; lane < kDrawLanes; ++lane) {
        const double px = x + lane;
        const double e0 = row0 - dy0 * (px - f.x[1]);
        const double e1 = row1 - dy1 * (px - f.x[2]);
        const double e2 = row2 - dy2 * (px - f.x[0]);
        const double z = (e0 + e1 + e2) / (e0 * iz0 + e1 * iz1 + e2 * iz2);
        bool shown = (e0 >= 0.0) & (e1 >= 0.0) & (e2 >= 0.0);
        if (!between) shown &= (z > near) & (z < far);
        const int64_t key = shown ? visibility_key<between>(z, order) : kNothing;
        line[lane] = key < line[lane] ? key : line[lane];
      }
    }
  }
}

NR_INLINE void draw_face(const ScreenFace& f, uint32_t order, const RasterizeScene& scene, int sH,
                         int sW, int64_t* keys) {
  const int x0 = first_in(min3(f.x[0], f.x[1], f.x[2]), sW);
  const int x1 = last_in(max3(f.x[0], f.x[1], f.x[2]), sW);
  const int y0 = first_in(min3(f.y[0], f.y[1], f.y[2]), sH);
  const int y1 = last_in(max3(f.y[0], f.y[1], f.y[2]), sH);
  if (x0 > x1 || y0 > y1) return;
  const double closest = min3(f.z[0], f.z[1], f.z[2]), farthest = max3(f.z[0], f.z[1], f.z[2]);
  const double rounding = 1e-9;  // of a depth, relative; generous
  if (closest > 0.0 && closest * (1.0 - rounding) > scene.near &&
      farthest * (1.0 + rounding) < scene.far)
    draw_rows<true>(f, order, scene, x0, x1, y0, y1, sW, keys);
  else
    draw_rows<false>(f, order, scene, x0, x1, y0, y1, sW, keys);
}

// The nearest face of every sample, y up.
template <class T>
NR_INLINE void find_visible(const RasterizeScene& scene, const T* vertices, const int32_t* faces,
                            int sH, int sW, int64_t* keys) {
  for (int64_t i = 0; i < scene.F; ++i) {
    ScreenFace f;
    if (load_face(vertices, faces + 3 * i, sH, sW, scene.fill_back, f))
      draw_face(f, draw_order(i, f.reversed, scene.F), scene, sH, sW, keys);
  }
}
NR_CLONES void find_visible_in(const RasterizeScene& s, const float* v, const int32_t* f, int sH,
                               int sW, int64_t* keys) {
  find_visible(s, v, f, sH, sW, keys);
}
NR_CLONES void find_visible_in(const RasterizeScene& s, const double* v, const int32_t* f, int sH,
                               int sW, int64_t* keys) {
  find_visible(s, v, f, sH, sW, keys);
}

// ---- images -------------------------------------------------------------------------------------

template <class T>
void shade_all(const Member<T>& m, const int32_t* face_index, T* samples) {
  ShownFace<T> shown(m);
  for (int row = 0; row < m.sH; ++row)
    for (int x = 0; x < m.sW; ++x, ++face_index, samples += 3) {
      if (*face_index < 0) {
        for (int c = 0; c < 3; ++c) samples[c] = m.in.background[m.b * 3 + c];
        continue;
      }
      shown.show(*face_index);
      shade(shown, x, m.sH - 1 - row, samples);
    }
}

template <class T, class Value>
void average(const Member<T>& m, T* image, Value&& value) {
  const int S = m.scene.S;
  const T share = T(1) / (S * S);
  for (int row = 0; row < m.scene.H; ++row)
    for (int column = 0; column < m.scene.W; ++column) {
      T sum = 0;
      for (int i = 0; i < S; ++i)
        for (int j = 0; j < S; ++j)
          sum += value(static_cast<int64_t>(row * S + i) * m.sW + column * S + j);
      *image++ = sum * share;
    }
}

// Colours of all pixels, the three planes of `image` in one pass. Sums run in the order of average().
template <class T>
void average_rgb(const Member<T>& m, const T* samples, T* image) {
  const int S = m.scene.S;
  const T share = T(1) / (S * S);
  const int64_t plane = static_cast<int64_t>(m.scene.H) * m.scene.W, line = 3LL * m.sW;
  for (int row = 0; row < m.scene.H; ++row, samples += S * line)
    for (int column = 0; column < m.scene.W; ++column, ++image) {
      const T* at = samples + 3 * S * column;
      for (int c = 0; c < 3; ++c, ++at)
        image[c * plane] = (S == 1 ? at[0] : at[0] + at[3] + at[line] + at[line + 3]) * share;
    }
}

// From keys, y up, to face indices, row 0 at the top.
NR_CLONES void resolve(const int64_t* keys, int sH, int sW, int32_t* face_index) {
  for (int row = 0; row < sH; ++row) {
    const int64_t* from = keys + static_cast<int64_t>(sH - 1 - row) * key_stride(sW);
    int32_t* to = face_index + static_cast<int64_t>(row) * sW;
    for (int x = 0; x < sW; ++x) to[x] = key_order(from[x]);
  }
}

// Share of covered samples of each pixel. The sign bit of a face index says: nothing here.
template <class T>
NR_INLINE void coverage(const int32_t* face_index, int H, int W, int S, T* alpha) {
  const int sW = S * W;
  for (int row = 0; row < H; ++row, face_index += S * sW, alpha += W) {
    if (S == 1) {
      for (int x = 0; x < W; ++x) alpha[x] = T(1 + (face_index[x] >> 31));
    } else {
      const int32_t *above = face_index, *below = face_index + sW;
      for (int x = 0; x < W; ++x)
        alpha[x] = T(4 + (above[2 * x] >> 31) + (above[2 * x + 1] >> 31) + (below[2 * x] >> 31) +
                     (below[2 * x + 1] >> 31)) * T(0.25);
    }
  }
}
NR_CLONES void coverage_of(const int32_t* face_index, int H, int W, int S, float* alpha) {
  coverage(face_index, H, W, S, alpha);
}
NR_CLONES void coverage_of(const int32_t* face_index, int H, int W, int S, double* alpha) {
  coverage(face_index, H, W, S, alpha);
}

template <class T>
void forward_member(const Member<T>& m, const RasterizeOutputs<T>& out,
                    std::vector<int64_t>& keys) {
  const RasterizeScene& s = m.scene;
  std::fill(keys.begin(), keys.end(), kNothing);
  find_visible_in(s, m.vertices(), m.faces(), m.sH, m.sW, keys.data());
  int32_t* face_index = out.face_index + m.b * m.samples;
  resolve(keys.data(), m.sH, m.sW, face_index);
  const int64_t pixels = static_cast<int64_t>(s.H) * s.W;
  if (out.alpha) coverage_of(face_index, s.H, s.W, s.S, out.alpha + m.b * pixels);
  if (out.rgb) {
    T* samples = out.rgb_samples + m.b * m.samples * 3;
    shade_all(m, face_index, samples);
    average_rgb(m, samples, out.rgb + m.b * 3 * pixels);
  }
  if (out.depth) {
    ShownFace<T> shown(m);
    average(m, out.depth + m.b * pixels, [&](int64_t i) -> T {
      if (face_index[i] < 0) return static_cast<T>(s.far);
      shown.show(face_index[i]);
      return static_cast<T>(shown.depth(static_cast<int>(i % m.sW), m.sH - 1 - static_cast<int>(i / m.sW)));
    });
  }
}

}  // namespace

template <class T>
void rasterize_forward(const RasterizeScene& s, const RasterizeInputs<T>& in,
                       const RasterizeOutputs<T>& out) {
  const size_t samples = static_cast<size_t>(s.S * s.H) * key_stride(s.S * s.W);
  std::vector<std::vector<int64_t>> keys(std::max(1, s.threads));
  parallel_for(s.B, s.threads, [&](int worker, int64_t b) {
    keys[worker].resize(samples);
    forward_member(Member<T>(s, in, b), out, keys[worker]);
  });
}

template void rasterize_forward<float>(const RasterizeScene&, const RasterizeInputs<float>&,
                                       const RasterizeOutputs<float>&);
template void rasterize_forward<double>(const RasterizeScene&, const RasterizeInputs<double>&,
                                        const RasterizeOutputs<double>&);

}  // namespace nr
