#include <algorithm>
#include <vector>

#include "parallel.h"
#include "raster_samples.h"

namespace nr {
namespace {

// ---- visibility ---------------------------------------------------------------------------------

// Most faces are small: vectors run over eight small faces at a time. For a large face, vectors run over eight
// columns of samples. These loops have a fixed length and no branches, so that the compiler vectorises them. They
// repeat the operations of load_face(), edge_functions() and depth_at() one by one.
constexpr int kFaces = 8, kColumns = 8;
constexpr int kSmall = 8;  // most samples in the bounding box of a small face

// The key of every sample, y up. Rows are padded, because the last group of columns may pass their end.
struct KeyImage {
  int64_t* keys;
  int sH, sW;

  static int stride_of(int sW) { return sW + kColumns; }
  int stride() const { return stride_of(sW); }
};

// Eight faces, as in ScreenFace. A face is `whole` if all of it lies in near < z < far and in front of the eye.
struct FaceBlock {
  double x[3][kFaces], y[3][kFaces], z[3][kFaces], inverse_z[3][kFaces];
  double left[kFaces], right[kFaces], bottom[kFaces], top[kFaces];  // bounding box in samples
  double few[kFaces], most;  // number of samples in the box of a whole, small face, else 0; the maximum of `few`
  int64_t order[kFaces];
  uint32_t large, whole;     // one bit per face: the other faces that can be visible; whole faces
  uint32_t clipped;          // one bit per face: it reaches behind the eye and is drawn by draw_clipped()
};

// Loads eight faces from `first` on. Past the last face, it repeats the last face.
template <class T>
NR_INLINE void load_block(const RasterizeScene& s, const T* vertices, int64_t first, int64_t b, const KeyImage& image,
                          FaceBlock& t) {
  for (int f = 0; f < kFaces; ++f) {
    t.order[f] = std::min(first + f, s.F - 1);
    const int32_t* face = s.faces + b * s.faces_stride + 3 * t.order[f];
    for (int k = 0; k < 3; ++k) {
      const T* v = vertices + 3 * static_cast<int64_t>(face[k]);
      t.x[k][f] = v[0], t.y[k][f] = v[1], t.z[k][f] = v[2];
    }
  }
  const int sW = image.sW, sH = image.sH;
  const int64_t backs = s.F;
  const double near = s.near, far = s.far, rounding = 1e-9;  // generous bound on the relative error of a depth
  const bool fill_back = s.fill_back;
  const double eye = s.perspective && near >= 0.0 ? 0.0 : -INFINITY;  // corners behind it are clipped
  double many[kFaces], whole[kFaces], closest[kFaces], farthest[kFaces];
  for (int f = 0; f < kFaces; ++f) {  // without `omp simd`, which would keep the arrays in memory
    double x[3], y[3], z[3];
    for (int k = 0; k < 3; ++k)
      x[k] = to_pixel(t.x[k][f], sW), y[k] = to_pixel(t.y[k][f], sH), z[k] = t.z[k][f];
    bool reversed;
    const bool seen = turn_to_viewer(x, y, z, fill_back, reversed);
    t.order[f] += reversed ? backs : 0;
    for (int k = 0; k < 3; ++k) {
      t.x[k][f] = x[k], t.y[k][f] = y[k], t.z[k][f] = z[k];
      t.inverse_z[k][f] = 1.0 / z[k];
    }
    t.left[f] = ceil(greater(lesser(lesser(x[0], x[1]), x[2]), 0.0));
    t.right[f] = floor(lesser(greater(greater(x[0], x[1]), x[2]), sW - 1));
    t.bottom[f] = ceil(greater(lesser(lesser(y[0], y[1]), y[2]), 0.0));
    t.top[f] = floor(lesser(greater(greater(y[0], y[1]), y[2]), sH - 1));
    const double columns = greater(t.right[f] - t.left[f] + 1.0, 0.0);
    const double rows = greater(t.top[f] - t.bottom[f] + 1.0, 0.0);
    closest[f] = lesser(lesser(z[0], z[1]), z[2]), farthest[f] = greater(greater(z[0], z[1]), z[2]);
    const bool between = (closest[f] > 0.0) & (closest[f] * (1.0 - rounding) > near) &
                         (farthest[f] * (1.0 + rounding) < far);
    const double samples = seen ? columns * rows : 0.0, limit = between ? kSmall : 0.0;
    const bool small = samples <= limit;
    t.few[f] = small ? samples : 0.0;
    many[f] = small ? 0.0 : samples;
    whole[f] = between ? 1.0 : 0.0;
  }
  double most = 0.0, nearest = INFINITY;
#pragma omp simd reduction(max : most)
  for (int f = 0; f < kFaces; ++f) most = greater(most, t.few[f]);
#pragma omp simd reduction(min : nearest)
  for (int f = 0; f < kFaces; ++f) nearest = lesser(closest[f], nearest);  // passes NaN over
  int64_t large_bits = 0, whole_bits = 0;
#pragma omp simd reduction(| : large_bits, whole_bits)
  for (int f = 0; f < kFaces; ++f) {
    large_bits |= (many[f] > 0.0 ? int64_t{1} : int64_t{0}) << f;
    whole_bits |= (whole[f] > 0.0 ? int64_t{1} : int64_t{0}) << f;
  }
  t.most = most;
  t.large = static_cast<uint32_t>(large_bits), t.whole = static_cast<uint32_t>(whole_bits);
  t.clipped = 0;
  if (!(nearest <= eye)) return;
  for (int f = 0; f < kFaces; ++f) {
    if (!(closest[f] <= eye)) continue;
    t.large &= ~(1u << f);
    if (farthest[f] > near) t.clipped |= 1u << f;
  }
}

// Draws the small faces: tests the samples in the boxes of all faces at once, then computes depths of samples inside.
NR_INLINE void draw_small(const FaceBlock& t, const KeyImage& image) {
  const double stride = image.stride();
  double x[kFaces], y[kFaces], dx[3][kFaces], dy[3][kFaces];
#pragma omp simd
  for (int f = 0; f < kFaces; ++f) {
    x[f] = t.left[f], y[f] = t.bottom[f];
    dx[0][f] = t.x[2][f] - t.x[1][f], dx[1][f] = t.x[0][f] - t.x[2][f], dx[2][f] = t.x[1][f] - t.x[0][f];
    dy[0][f] = t.y[2][f] - t.y[1][f], dy[1][f] = t.y[0][f] - t.y[2][f], dy[2][f] = t.y[1][f] - t.y[0][f];
  }
  static_assert(kSmall * kFaces <= 64, "one bit for each sample");
  double e[3][kSmall * kFaces], place[kSmall * kFaces];
  int64_t inside[kFaces] = {};  // bit kFaces * step: is the sample of this step inside?
  const int steps = static_cast<int>(t.most);
  for (int step = 0; step < steps; ++step) {
    double *e0 = e[0] + kFaces * step, *e1 = e[1] + kFaces * step, *e2 = e[2] + kFaces * step;
    double* at = place + kFaces * step;
#pragma omp simd
    for (int f = 0; f < kFaces; ++f) {
      e0[f] = dx[0][f] * (y[f] - t.y[1][f]) - dy[0][f] * (x[f] - t.x[1][f]);
      e1[f] = dx[1][f] * (y[f] - t.y[2][f]) - dy[1][f] * (x[f] - t.x[2][f]);
      e2[f] = dx[2][f] * (y[f] - t.y[0][f]) - dy[2][f] * (x[f] - t.x[0][f]);
      at[f] = y[f] * stride + x[f];
      const bool in = (e0[f] >= 0.0) & (e1[f] >= 0.0) & (e2[f] >= 0.0) & (step < t.few[f]);
      inside[f] |= (in ? int64_t{1} : int64_t{0}) << kFaces * step;
      const bool turn = x[f] >= t.right[f];
      y[f] += turn ? 1.0 : 0.0;
      x[f] = turn ? t.left[f] : x[f] + 1.0;
    }
  }
  int64_t all = 0;
#pragma omp simd reduction(| : all)
  for (int f = 0; f < kFaces; ++f) all |= inside[f] << f;
  for (uint64_t left = static_cast<uint64_t>(all); left; left &= left - 1) {
    const int i = __builtin_ctzll(left), f = i % kFaces;
    const double mine[3] = {e[0][i], e[1][i], e[2][i]};
    const double inverse_z[3] = {t.inverse_z[0][f], t.inverse_z[1][f], t.inverse_z[2][f]};
    int64_t& nearest = image.keys[static_cast<int64_t>(place[i])];
    nearest = std::min(nearest, visibility_key<true>(depth_at(mine, inverse_z), static_cast<uint32_t>(t.order[f])));
  }
}

// One large face of a block.
struct LargeFace : ScreenFace {
  double inverse_z[3];
  uint32_t order;
  int left, right, bottom, top;

  NR_INLINE LargeFace(const FaceBlock& t, int f)
      : order(static_cast<uint32_t>(t.order[f])), left(static_cast<int>(t.left[f])),
        right(static_cast<int>(t.right[f])), bottom(static_cast<int>(t.bottom[f])), top(static_cast<int>(t.top[f])) {
    for (int k = 0; k < 3; ++k)
      x[k] = t.x[k][f], y[k] = t.y[k][f], z[k] = t.z[k][f], inverse_z[k] = t.inverse_z[k][f];
  }
};

// Limits columns of a wide face to the rows between its edges. The margin is far above the rounding errors of
// these limits and of samples on an edge, unless coordinates are very large (far_out). The exact test follows
// in draw_columns().
class RowCut {
 public:
  NR_INLINE explicit RowCut(const LargeFace& face) : f(face) {
    for (int k = 0; k < 3; ++k) {
      const int next = k == 2 ? 0 : k + 1;
      slope[k] = (f.y[next] - f.y[k]) / (f.x[next] - f.x[k]);
      far_out = far_out || std::abs(f.x[k]) > 1e6 || std::abs(f.y[k]) > 1e6;
    }
  }
  NR_INLINE void operator()(int first, int last, int sH, int& bottom, int& top) const {
    if (far_out) return;
    const double margin = 1e-3, left = first - margin, right = last + margin;
    double low = 1e9, high = -1e9;
    for (int k = 0; k < 3; ++k) {
      const int next = k == 2 ? 0 : k + 1;
      const double enter = greater(lesser(f.x[k], f.x[next]), left);
      const double leave = lesser(greater(f.x[k], f.x[next]), right);
      const double y1 = f.y[k] + (enter - f.x[k]) * slope[k], y2 = f.y[k] + (leave - f.x[k]) * slope[k];
      const bool runs = (enter <= leave) & (f.x[k] != f.x[next]);  // a vertical edge ends where the others do
      const double lower = runs ? lesser(y1, y2) : low, upper = runs ? greater(y1, y2) : high;
      low = lesser(low, lower), high = greater(high, upper);
    }
    bottom = std::max(bottom, first_in(low - margin, sH)), top = std::min(top, last_in(high + margin, sH));
  }

 private:
  const LargeFace& f;
  double slope[3];
  bool far_out = false;
};

template <bool whole>
NR_INLINE void draw_columns(const LargeFace& f, const RasterizeScene& scene, int first, int bottom, int top,
                            const KeyImage& image) {
  const double iz0 = f.inverse_z[0], iz1 = f.inverse_z[1], iz2 = f.inverse_z[2];
  const double dx0 = f.x[2] - f.x[1], dx1 = f.x[0] - f.x[2], dx2 = f.x[1] - f.x[0];
  const double dy0 = f.y[2] - f.y[1], dy1 = f.y[0] - f.y[2], dy2 = f.y[1] - f.y[0];
  const double near = scene.near, far = scene.far;
  const uint32_t order = f.order;
  double column0[kColumns], column1[kColumns], column2[kColumns];  // the parts of the edge functions that depend on x
#pragma omp simd
  for (int lane = 0; lane < kColumns; ++lane) {
    const double px = first + lane;
    column0[lane] = dy0 * (px - f.x[1]), column1[lane] = dy1 * (px - f.x[2]), column2[lane] = dy2 * (px - f.x[0]);
  }
  int64_t* line = image.keys + static_cast<int64_t>(bottom) * image.stride() + first;
  for (int y = bottom; y <= top; ++y, line += image.stride()) {
    const double row0 = dx0 * (y - f.y[1]), row1 = dx1 * (y - f.y[2]), row2 = dx2 * (y - f.y[0]);
#pragma omp simd
    for (int lane = 0; lane < kColumns; ++lane) {
      const double e0 = row0 - column0[lane], e1 = row1 - column1[lane], e2 = row2 - column2[lane];
      const double z = (e0 + e1 + e2) / (e0 * iz0 + e1 * iz1 + e2 * iz2);
      bool shown = (e0 >= 0.0) & (e1 >= 0.0) & (e2 >= 0.0);
      if (!whole) shown &= (z > near) & (z < far);
      const int64_t key = shown ? visibility_key<whole>(z, order) : kNothing;
      line[lane] = key < line[lane] ? key : line[lane];
    }
  }
}

template <bool whole>
NR_INLINE void draw_large(const LargeFace& f, const RasterizeScene& scene, const KeyImage& image) {
  if (f.right - f.left < kColumns) {
    draw_columns<whole>(f, scene, f.left, f.bottom, f.top, image);
    return;
  }
  const RowCut cut(f);
  for (int first = f.left; first <= f.right; first += kColumns) {
    int bottom = f.bottom, top = f.top;
    cut(first, first + kColumns - 1, image.sH, bottom, top);
    draw_columns<whole>(f, scene, first, bottom, top, image);
  }
}

// Draws a face that reaches behind the eye. There are few, and they are large on the screen.
template <class T>
void draw_clipped(const RasterizeScene& s, const T* vertices, int64_t b, int64_t face, const KeyImage& image) {
  ScreenFace f;
  const int32_t* corners = s.faces + b * s.faces_stride + 3 * face;
  if (!load_face(vertices, corners, image.sH, image.sW, s.fill_back, true, s.near, f)) return;
  const SampleBox box(f, s.near, image.sH, image.sW);
  const double inverse_z[3] = {1.0 / f.z[0], 1.0 / f.z[1], 1.0 / f.z[2]};
  const uint32_t order = draw_order(face, f.reversed, s.F);
  for (int y = box.bottom; y <= box.top; ++y)
    for (int x = box.left; x <= box.right; ++x) {
      double e[3];
      edge_functions(f, x, y, e);
      const double z = depth_at(e, inverse_z);
      if (!(z > s.near && z < s.far) || !clipped_covers(e, inverse_z)) continue;
      int64_t& nearest = image.keys[static_cast<int64_t>(y) * image.stride() + x];
      nearest = std::min(nearest, visibility_key<true>(z, order));
    }
}

// Finds the nearest face of every sample.
template <class T>
NR_INLINE void find_visible(const RasterizeScene& scene, const T* vertices, int64_t b, const KeyImage& image) {
  FaceBlock t;
  for (int64_t first = 0; first < scene.F; first += kFaces) {
    load_block(scene, vertices, first, b, image, t);
    draw_small(t, image);
    for (uint32_t left = t.clipped; left; left &= left - 1) {
      const int64_t face = first + __builtin_ctz(left);
      if (face < scene.F) draw_clipped(scene, vertices, b, face, image);
    }
    for (uint32_t left = t.large; left; left &= left - 1) {
      const int f = __builtin_ctz(left);
      if (t.whole >> f & 1)
        draw_large<true>(LargeFace(t, f), scene, image);
      else
        draw_large<false>(LargeFace(t, f), scene, image);
    }
  }
}
NR_CLONES void find_visible_in(const RasterizeScene& s, const float* v, int64_t b, const KeyImage& image) {
  find_visible(s, v, b, image);
}
NR_CLONES void find_visible_in(const RasterizeScene& s, const double* v, int64_t b, const KeyImage& image) {
  find_visible(s, v, b, image);
}

// ---- images -------------------------------------------------------------------------------------

template <bool kColours, class T>
void shade_all(const Member<T>& m, const int32_t* face_index, T* samples) {
  ShownFace<T> shown(m);
  for (int row = 0; row < m.sH; ++row)
    for (int x = 0; x < m.sW; ++x, ++face_index, samples += 3) {
      if (*face_index < 0) {
        for (int c = 0; c < 3; ++c) samples[c] = m.in.background[m.b * 3 + c];
        continue;
      }
      shown.show(*face_index);
      shade<kColours>(shown, x, m.sH - 1 - row, samples);
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

// Averages samples to the colours of all pixels, three planes in one pass. Sums have the same order as in average().
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

// Converts keys, y up, to face indices, row 0 at the top. Clears the keys for the next mesh.
NR_CLONES void resolve(const KeyImage& image, int32_t* face_index) {
  const int sH = image.sH, sW = image.sW;
  for (int row = 0; row < sH; ++row) {
    int64_t* from = image.keys + static_cast<int64_t>(sH - 1 - row) * image.stride();
    int32_t* to = face_index + static_cast<int64_t>(row) * sW;
#pragma omp simd
    for (int x = 0; x < sW; ++x) to[x] = key_order(from[x]), from[x] = kNothing;
  }
}

// The share of covered samples of each pixel. A face index with the sign bit set means that nothing is drawn.
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
void forward_member(const Member<T>& m, const RasterizeOutputs<T>& out, int64_t* keys) {
  const RasterizeScene& s = m.scene;
  const KeyImage image{keys, m.sH, m.sW};
  find_visible_in(s, m.vertices(), m.b, image);
  int32_t* face_index = out.face_index + m.b * m.samples;
  resolve(image, face_index);
  const int64_t pixels = static_cast<int64_t>(s.H) * s.W;
  if (out.alpha) coverage_of(face_index, s.H, s.W, s.S, out.alpha + m.b * pixels);
  if (out.rgb) {
    T* samples = out.rgb_samples + m.b * m.samples * 3;
    if (m.in.colours)
      shade_all<true>(m, face_index, samples);
    else
      shade_all<false>(m, face_index, samples);
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
  const size_t samples = static_cast<size_t>(s.S * s.H) * KeyImage::stride_of(s.S * s.W);
  std::vector<std::vector<int64_t>> keys(std::max(1, s.threads));
  parallel_for(s.B, s.threads, [&](int worker, int64_t b) {
    keys[worker].resize(samples, kNothing);
    forward_member(Member<T>(s, in, b), out, keys[worker].data());
  });
}

template void rasterize_forward<float>(const RasterizeScene&, const RasterizeInputs<float>&,
                                       const RasterizeOutputs<float>&);
template void rasterize_forward<double>(const RasterizeScene&, const RasterizeInputs<double>&,
                                        const RasterizeOutputs<double>&);

}  // namespace nr
