#include "rasterize.h"

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "raster_math.h"

namespace nr {
namespace {

// ---- visibility ---------------------------------------------------------------------------------

// Samples are worked on in groups of fixed length, without branches, so that the compiler makes
// vectors of them; rows of `keys` are padded to let the last group run over.
constexpr int kDrawLanes = 8;
constexpr int kLanes = 8;
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

// ---- what the passes over samples share ----------------------------------------------------------

// The face that a sample shows, loaded again only where it differs from the sample before.
template <class T>
struct FaceCache {
  const RasterizeScene& scene;
  const T* vertices;
  const int32_t* faces;
  int sH, sW;
  int32_t order;
  int64_t face;
  ScreenFace screen;
  double inverse_z[3];

  void show(int32_t wanted) {
    if (wanted == order) return;
    order = wanted;
    face = wanted < scene.F ? wanted : wanted - scene.F;
    load_face(vertices, faces + 3 * face, sH, sW, scene.fill_back, screen);
    for (int k = 0; k < 3; ++k) inverse_z[k] = 1.0 / screen.z[k];
  }
};

// One mesh of the batch and its slices of all arrays.
template <class T>
struct Member {
  const RasterizeScene& scene;
  const RasterizeInputs<T>& in;
  int64_t b;
  int sH, sW, shift;  // size in samples; samples to pixels
  int64_t samples;

  Member(const RasterizeScene& s, const RasterizeInputs<T>& i, int64_t member)
      : scene(s), in(i), b(member), sH(s.S * s.H), sW(s.S * s.W),
        shift(s.S - 1), samples(static_cast<int64_t>(sH) * sW) {}

  const T* vertices() const { return in.vertices + b * scene.V * 3; }
  const int32_t* faces() const { return scene.faces + b * scene.faces_stride; }
  const T* texture(int64_t face) const {
    const int64_t cube = 3LL * scene.T * scene.T * scene.T;
    return in.textures + b * in.textures_stride + face * cube;
  }
  int64_t light_index(int64_t face, bool reversed) const {
    return ((b * scene.F + face) * 2 + reversed) * 3;
  }
  int64_t pixel(int row, int column) const {  // of an image, from the row and column of a sample
    return (b * scene.H + (row >> shift)) * scene.W + (column >> shift);
  }
  FaceCache<T> cache() const { return {scene, vertices(), faces(), sH, sW, -1, -1, {}, {}}; }
};

// ---- forward ------------------------------------------------------------------------------------

template <class T>
void shade(const Member<T>& m, const int32_t* face_index, T* samples) {
  FaceCache<T> cache = m.cache();
  for (int row = 0; row < m.sH; ++row)
    for (int x = 0; x < m.sW; ++x, ++face_index, samples += 3) {
      if (*face_index < 0) {
        for (int c = 0; c < 3; ++c) samples[c] = m.in.background[m.b * 3 + c];
        continue;
      }
      cache.show(*face_index);
      double e[3];
      edge_functions(cache.screen, x, m.sH - 1 - row, e);
      const TexelWeights texels =
          texel_weights(cache.screen, e, cache.inverse_z, m.scene.T, m.scene.eps);
      const T* cube = m.texture(cache.face);
      const T* light =
          m.in.light ? m.in.light + m.light_index(cache.face, cache.screen.reversed) : nullptr;
      for (int c = 0; c < 3; ++c) {
        double value = 0.0;
        for (int n = 0; n < 8; ++n) value += texels.weight[n] * cube[3 * texels.index[n] + c];
        samples[c] = static_cast<T>(light ? value * light[c] : value);
      }
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
    shade(m, face_index, samples);
    for (int c = 0; c < 3; ++c)
      average(m, out.rgb + (m.b * 3 + c) * pixels, [=](int64_t i) { return samples[3 * i + c]; });
  }
  if (out.depth) {
    FaceCache<T> cache = m.cache();
    average(m, out.depth + m.b * pixels, [&](int64_t i) -> T {
      if (face_index[i] < 0) return static_cast<T>(s.far);
      cache.show(face_index[i]);
      double e[3];
      edge_functions(cache.screen, static_cast<double>(i % m.sW),
                     static_cast<double>(m.sH - 1 - i / m.sW), e);
      return static_cast<T>(depth_at(e, cache.inverse_z));
    });
  }
}

// ---- backward -----------------------------------------------------------------------------------

// For every line of samples (rows and columns), those that can pull an edge outwards, in order
// along the line: position and C numbers for each. Everything else is never looked at again.
template <class T, int C>
class PullLists {
 public:
  // The samples of a line at `outside` and beyond it in `direction`: their positions; each of the C
  // value arrays lies `stride` behind the one before.
  struct Span {
    const T* position;
    int64_t stride;
    int count;
  };

  void reset(int sH, int sW) {
    sH_ = sH, sW_ = sW;
    for (int axis = 0; axis < 2; ++axis) {
      const int lines = axis == 0 ? sH : sW;
      stride_[axis] = (axis == 0 ? sW : sH) + kLanes;  // a group may run over the end
      count_[axis].assign(lines, 0);
      before_[axis].resize(static_cast<size_t>(sH) * sW);
      data_[axis].resize(static_cast<size_t>(C + 1) * lines * stride_[axis]);
    }
  }
  // Row by row, y increasing: first open_row(y), then add() with x increasing, then close_row(y).
  void open_row(int y) {
    std::copy(count_[1].begin(), count_[1].end(), before_[1].begin() + int64_t(y) * sW_);
    filled_ = 0;
  }
  void add(int x, int y, const T (&values)[C]) {
    fill(x + 1, y);
    append(0, y, x, values);
    append(1, x, y, values);
  }
  void close_row(int y) { fill(sW_, y); }

  NR_INLINE Span beyond(int axis, int line, int outside, int direction) const {
    const int64_t at = axis == 0 ? int64_t(line) * sW_ : line, step = axis == 0 ? 1 : sW_;
    const int32_t* before = before_[axis].data() + at;
    const T* position = begin(axis, line);
    if (direction > 0) {
      const int split = before[outside * step];
      return {position + split, stride_[axis], count_[axis][line] - split};
    }
    return {position, stride_[axis], before[(outside + 1) * step]};
  }
  // Whether a line has any entry on that side of a position.
  NR_INLINE bool any_beyond(int axis, int line, double position, int direction) const {
    const int count = count_[axis][line];
    if (count == 0) return false;
    const T* entries = begin(axis, line);
    return direction > 0 ? entries[count - 1] > position : entries[0] < position;
  }

 private:
  const T* begin(int axis, int line) const {
    return data_[axis].data() + static_cast<int64_t>(C + 1) * line * stride_[axis];
  }
  void append(int axis, int line, int position, const T (&values)[C]) {
    T* to = const_cast<T*>(begin(axis, line)) + count_[axis][line]++;
    *to = static_cast<T>(position);
    for (int c = 0; c < C; ++c) *(to += stride_[axis]) = values[c];
  }
  void fill(int end, int y) {
    int32_t* row = before_[0].data() + int64_t(y) * sW_;
    std::fill(row + filled_, row + std::max(filled_, end), count_[0][y]);
    filled_ = std::max(filled_, end);
  }
  int sH_, sW_, filled_, stride_[2];
  std::vector<int> count_[2];
  std::vector<int32_t> before_[2];  // (sH, sW): entries of the line in front of this sample
  std::vector<T> data_[2];
};

// What the samples of a span add to the two ends of an edge, signs apart: the sums over samples of
// gain / (distance / lever + eps), multiplied out so that a lever of 0 adds 0. Distances are taken
// from the first outside pixel, a small exact number, plus `start`, its own distance.
struct PullArguments {
  double outside, start, pixels_to_ndc, eps_a, eps_b;
};

template <class T>
struct PullSums {
  T a, b;
};

// `gain(i)` of sample i, over groups of fixed length: most spans are shorter than a long vector, and
// what lies behind their end counts nothing.
template <class T, class Gain>
NR_INLINE PullSums<T> sum_pulls(const T* position, int count, PullArguments p, Gain&& gain) {
  const T outside = T(p.outside), start = T(p.start), scale = T(p.pixels_to_ndc);
  const T eps_a = T(p.eps_a), eps_b = T(p.eps_b);
  T a[kLanes] = {}, b[kLanes] = {};
  for (int from = 0; from < count; from += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      const int i = from + lane;
      const T g = gain(i), counted = i < count ? g : T(0);
      const T distance = (std::abs(position[i] - outside) + start) * scale;
      a[lane] += counted / (distance + eps_a);
      b[lane] += counted / (distance + eps_b);
    }
  }
  for (int width = kLanes / 2; width; width /= 2)  // halves, to keep the chain of additions short
    for (int lane = 0; lane < width; ++lane) a[lane] += a[lane + width], b[lane] += b[lane + width];
  return {a[0], b[0]};
}

// Values and incoming gradients of single samples. An offset counts from the sample (0, 0) at the
// bottom left: x - y * sW, since rows of images run down and y runs up.
template <class T>
struct SampleView {
  int sW, sH, shift;
  const int32_t* faces;
  const T* samples;      // rgb, or null
  const T* alpha;        // gradients of the pixel at the bottom left, or null
  const T* rgb;
  int64_t W, plane;      // pixels in a row and in an image
  T share;

  SampleView(const Member<T>& m, const RasterizeCotangents<T>& g)
      : sW(m.sW), sH(m.sH), shift(m.shift), W(m.scene.W), plane(W * m.scene.H),
        share(T(1) / (m.scene.S * m.scene.S)) {
    const int64_t bottom = m.b * m.samples + static_cast<int64_t>(sH - 1) * sW;
    faces = g.face_index + bottom;
    samples = g.rgb_samples ? g.rgb_samples + 3 * bottom : nullptr;
    alpha = g.alpha ? g.alpha + m.b * plane + plane - W : nullptr;
    rgb = g.rgb ? g.rgb + 3 * m.b * plane + plane - W : nullptr;
  }
  NR_INLINE int64_t offset(int x, int y) const { return x - static_cast<int64_t>(y) * sW; }
  NR_INLINE int64_t pixel(int x, int y) const { return (x >> shift) - (y >> shift) * W; }
  NR_INLINE int32_t face(int64_t offset) const { return faces[offset]; }
  NR_INLINE T rgb_value(int64_t offset, int c) const { return samples[3 * offset + c]; }
  NR_INLINE T alpha_gradient(int x, int y) const { return alpha[pixel(x, y)] * share; }
  NR_INLINE T rgb_gradient(int x, int y, int c) const { return rgb[c * plane + pixel(x, y)] * share; }
};

// Silhouettes alone: coverage is 0 or 1, so only uncovered samples that want to be covered pull an
// edge outwards, and only edges with nothing behind them can move inwards.
template <class T>
struct SilhouettePolicy {
  using Lists = PullLists<T, 1>;
  SampleView<T> view;

  struct Gradient {
    T alpha;
  };
  Gradient read_gradient(int x, int y) const { return {view.alpha_gradient(x, y)}; }
  // The next sample of a row, at a pixel's start, whose gradient can pull.
  NR_INLINE int next_pull(int x, int y) const {
    const T* gradients = view.alpha + view.pixel(0, y);
    while (x < view.sW && !(gradients[x >> view.shift] < 0)) x += 1 << view.shift;
    return x;
  }
  void list(int x, int y, const Gradient& gradient, Lists& lists) const {
    if (view.face(view.offset(x, y)) < 0) lists.add(x, y, {-gradient.alpha});
  }
  NR_INLINE PullSums<T> pull(int64_t, const typename Lists::Span& span, PullArguments p) const {
    const T* gain = span.position + span.stride;
    return sum_pulls(span.position, span.count, p, [=](int i) NR_LAMBDA_INLINE { return gain[i]; });
  }
  NR_INLINE bool pushes_against_faces() const { return false; }
  NR_INLINE bool may_push(int64_t outside) const { return view.face(outside) < 0; }
  NR_INLINE T gain(int x, int y, int64_t) const { return view.alpha_gradient(x, y); }
};

// rgb, and alpha where both are asked for: the channels are summed before the sign is looked at.
template <class T>
struct RgbPolicy {
  using Lists = PullLists<T, 8>;
  SampleView<T> view;

  void read(int64_t i, T (&value)[4]) const {
    for (int c = 0; c < 3; ++c) value[c] = view.rgb_value(i, c);
    value[3] = static_cast<T>(view.face(i) >= 0);
  }
  struct Gradient {
    T of[4];
  };
  Gradient read_gradient(int x, int y) const {
    return {{view.rgb_gradient(x, y, 0), view.rgb_gradient(x, y, 1), view.rgb_gradient(x, y, 2),
             view.alpha ? view.alpha_gradient(x, y) : T(0)}};
  }
  int next_pull(int x, int y) const {
    for (; x < view.sW; x += 1 << view.shift) {
      const Gradient g = read_gradient(x, y);
      if (!(g.of[0] == 0 && g.of[1] == 0 && g.of[2] == 0 && g.of[3] == 0)) break;
    }
    return x;
  }
  void list(int x, int y, const Gradient& g, Lists& lists) const {
    T value[4];
    read(view.offset(x, y), value);
    lists.add(x, y, {value[0], value[1], value[2], value[3], g.of[0], g.of[1], g.of[2], g.of[3]});
  }
  NR_INLINE PullSums<T> pull(int64_t inside, const typename Lists::Span& span,
                             PullArguments p) const {
    T taken[4];
    read(inside, taken);
    const T* values = span.position + span.stride;  // four channels of them, then of gradients
    const int64_t n = span.stride;
    return sum_pulls(span.position, span.count, p, [=](int i) NR_LAMBDA_INLINE {
      T gain = 0;
      for (int c = 0; c < 4; ++c)
        gain += (values[c * n + i] - taken[c]) * values[(c + 4) * n + i];
      return gain > 0 ? gain : T(0);
    });
  }
  NR_INLINE bool pushes_against_faces() const { return true; }
  NR_INLINE bool may_push(int64_t) const { return true; }
  NR_INLINE T gain(int x, int y, int64_t outside) const {
    T value[4], other[4], sum = 0;
    const Gradient gradient = read_gradient(x, y);
    read(view.offset(x, y), value);
    read(outside, other);
    for (int c = 0; c < 4; ++c) sum += (value[c] - other[c]) * gradient.of[c];
    return sum;
  }
};

// Which samples show nothing, a bit each.
class EmptySamples {
 public:
  void reset(int sH, int sW) {
    words_ = (sW + 63) / 64;
    bits_.assign(static_cast<size_t>(sH) * words_, 0);
  }
  NR_INLINE void read_row(int y, const int32_t* shown, int sW) {
    uint64_t* words = bits_.data() + y * static_cast<int64_t>(words_);
    for (int from = 0; from < sW; from += 64) {
      const int count = std::min(64, sW - from);
      uint64_t word = 0;
      for (int i = 0; i < count; ++i) word |= static_cast<uint64_t>(static_cast<uint32_t>(shown[from + i]) >> 31) << i;
      words[from / 64] = word;
    }
  }
  NR_INLINE bool any(int x0, int x1, int y0, int y1) const {  // in a box, ends included
    for (int y = y0; y <= y1; ++y)
      for (int word = x0 >> 6; word <= x1 >> 6; ++word) {
        uint64_t mask = ~0ull;
        if (word == x0 >> 6) mask &= ~0ull << (x0 & 63);
        if (word == x1 >> 6) mask &= ~0ull >> (63 - (x1 & 63));
        if (bits_[y * static_cast<int64_t>(words_) + word] & mask) return true;
      }
    return false;
  }

 private:
  int words_ = 0;
  std::vector<uint64_t> bits_;
};

template <class T, template <class> class Policy>
struct EdgeScratch {
  typename Policy<T>::Lists lists;
  std::vector<uint8_t> shown;
  EmptySamples empty;
};

template <class T, template <class> class Policy>
NR_INLINE void edges_backward(const Member<T>& m, const RasterizeCotangents<T>& grad, T* grad_vertices,
                    EdgeScratch<T, Policy>& scratch) {
  const RasterizeScene& s = m.scene;
  const Policy<T> policy{SampleView<T>(m, grad)};
  const SampleView<T>& view = policy.view;
  scratch.lists.reset(m.sH, m.sW);
  scratch.shown.assign(2 * s.F + 1, 0);  // by draw order + 1, so that nothing (-1) has a place too
  scratch.empty.reset(m.sH, m.sW);
  for (int y = 0; y < m.sH; ++y) {
    const int32_t* shown = view.faces + view.offset(0, y);
    for (int x = 0; x < m.sW; ++x) scratch.shown[shown[x] + 1] = 1;
    scratch.empty.read_row(y, shown, m.sW);
    scratch.lists.open_row(y);
    for (int x = policy.next_pull(0, y); x < m.sW; x = policy.next_pull(x + s.S, y)) {
      const auto gradient = policy.read_gradient(x, y);
      for (int i = 0; i < s.S; ++i) policy.list(x + i, y, gradient, scratch.lists);
    }
    scratch.lists.close_row(y);
  }
  for (int64_t i = 0; i < s.F; ++i) {
    ScreenFace f;
    if (!(scratch.shown[i + 1] || scratch.shown[s.F + i + 1])) continue;
    const int32_t* face = m.faces() + 3 * i;
    if (!load_face(m.vertices(), face, m.sH, m.sW, s.fill_back, f)) continue;
    const int32_t order = static_cast<int32_t>(draw_order(i, f.reversed, s.F));
    const double low[2] = {min3(f.x[0], f.x[1], f.x[2]), min3(f.y[0], f.y[1], f.y[2])};
    const double high[2] = {max3(f.x[0], f.x[1], f.x[2]), max3(f.y[0], f.y[1], f.y[2])};
    // The inner rule needs something else just beyond the edge: look whether there is any.
    bool may_push = true;
    const auto begin_edge = [&](int a, int b) NR_LAMBDA_INLINE {
      may_push = policy.pushes_against_faces() ||
                 scratch.empty.any(first_in(std::min(f.x[a], f.x[b]) - 1, m.sW),
                                   last_in(std::max(f.x[a], f.x[b]) + 1, m.sW),
                                   first_in(std::min(f.y[a], f.y[b]) - 1, m.sH),
                                   last_in(std::max(f.y[a], f.y[b]) + 1, m.sH));
    };
    const auto wanted = [&](int axis, int line, int direction) NR_LAMBDA_INLINE {
      return may_push || scratch.lists.any_beyond(axis, line, direction > 0 ? low[axis] : high[axis],
                                                  direction);
    };
    T pull[3][2] = {};
    for_each_crossing(f, m.sH, m.sW, begin_edge, wanted, [&](const Crossing& c) NR_LAMBDA_INLINE {
      const int64_t start = c.axis == 0 ? view.offset(0, c.line) : c.line;
      const int64_t stride = c.axis == 0 ? 1 : -static_cast<int64_t>(m.sW);
      const auto sample = [=](int d) NR_LAMBDA_INLINE { return start + d * stride; };
      const int length = c.axis == 0 ? m.sW : m.sH;
      const double pixels_to_ndc = 2.0 / length;
      const int64_t inside = sample(c.inside), outside = sample(c.outside);
      // Outer rule: samples beyond the edge would take the value of the face if it came to them.
      if (view.face(inside) == order) {
        const auto span = scratch.lists.beyond(c.axis, c.line, c.outside, c.direction);
        if (span.count > 0) {
          const PullSums<T> sums =
              policy.pull(inside, span,
                          {double(c.outside), std::abs(c.outside - c.at), pixels_to_ndc,
                           s.eps * c.lever_a, s.eps * c.lever_b});
          pull[c.a][c.axis] -= T(c.direction * c.lever_a) * sums.a;
          pull[c.b][c.axis] -= T(c.direction * c.lever_b) * sums.b;
        }
      }
      // Inner rule: samples that show the face would take the value beyond the edge if it went
      // back past them.
      if (may_push && policy.may_push(outside)) {
        const int stop = c.direction > 0 ? first_in(low[c.axis], length) : last_in(high[c.axis], length);
        for (int d = c.inside; c.direction > 0 ? d >= stop : d <= stop; d -= c.direction) {
          if (view.face(sample(d)) != order) continue;
          const T gain = c.axis == 0 ? policy.gain(d, c.line, outside) : policy.gain(c.line, d, outside);
          if (!(gain > 0)) continue;
          pull[c.a][c.axis] += T(edge_pull(gain, d, c.at, pixels_to_ndc, c.lever_a, s.eps));
          pull[c.b][c.axis] += T(edge_pull(gain, d, c.at, pixels_to_ndc, c.lever_b, s.eps));
        }
      }
    });
    for (int k = 0; k < 3; ++k) {
      T* to = grad_vertices + 3 * static_cast<int64_t>(face[f.corner[k]]);
      to[0] += pull[k][0];
      to[1] += pull[k][1];
    }
  }
}

// Textures and light are linear in what they give; depth is differentiated exactly:
// 1/z = sum(w_k / z_k), and a corner that moves by d changes w_k at a fixed sample by
// -w_corner * grad(w_k) . d.
template <class T>
void samples_backward(const Member<T>& m, const RasterizeCotangents<T>& grad,
                      const RasterizeGradients<T>& out) {
  const RasterizeScene& s = m.scene;
  const SampleView<T> view(m, grad);
  FaceCache<T> cache = m.cache();
  const bool shading = grad.rgb && (out.textures || out.light);
  const bool depths = grad.depth && out.vertices;
  const int64_t cube_size = 3LL * s.T * s.T * s.T;
  for (int row = 0; row < m.sH; ++row)
    for (int x = 0; x < m.sW; ++x) {
      const int y = m.sH - 1 - row;
      const int32_t order = view.face(view.offset(x, y));
      if (order < 0) continue;
      cache.show(order);
      const ScreenFace& f = cache.screen;
      double e[3];
      edge_functions(f, x, y, e);
      if (shading) {
        const TexelWeights texels = texel_weights(f, e, cache.inverse_z, s.T, s.eps);
        const int64_t light_index = m.light_index(cache.face, f.reversed);
        const T* cube = m.texture(cache.face);
        for (int c = 0; c < 3; ++c) {
          const T g = view.rgb_gradient(x, y, c);
          if (g == 0) continue;
          const T light = m.in.light ? m.in.light[light_index + c] : T(1);
          double value = 0.0;
          for (int n = 0; n < 8; ++n) {
            value += texels.weight[n] * cube[3 * texels.index[n] + c];
            if (out.textures)
              out.textures[(m.b * s.F + cache.face) * cube_size + 3 * texels.index[n] + c] +=
                  static_cast<T>(texels.weight[n] * light * g);
          }
          if (out.light) out.light[light_index + c] += static_cast<T>(value * g);
        }
      }
      if (depths) {
        const double g = grad.depth[m.b * view.plane + (row >> m.shift) * view.W + (x >> m.shift)] * view.share;
        if (g == 0.0) continue;
        const double sum = e[0] + e[1] + e[2], z = depth_at(e, cache.inverse_z);
        double slope_x = 0.0, slope_y = 0.0;  // of 1/z on the screen
        for (int k = 0; k < 3; ++k) {
          const int a = (k + 1) % 3, b = (k + 2) % 3;
          slope_x -= (f.y[b] - f.y[a]) * cache.inverse_z[k];
          slope_y += (f.x[b] - f.x[a]) * cache.inverse_z[k];
        }
        const int32_t* face = m.faces() + 3 * cache.face;
        T* vertices = out.vertices + m.b * s.V * 3;
        for (int k = 0; k < 3; ++k) {
          const double w = e[k] / sum, scale = g * z * z * w;
          T* to = vertices + 3 * static_cast<int64_t>(face[f.corner[k]]);
          to[0] += static_cast<T>(scale * slope_x / sum * (0.5 * m.sW));
          to[1] += static_cast<T>(scale * slope_y / sum * (0.5 * m.sH));
          to[2] += static_cast<T>(scale * cache.inverse_z[k] * cache.inverse_z[k]);
        }
      }
    }
}

// Compiled for each processor level, as a whole: what is inlined into a clone becomes part of it.
#define NR_EDGES(T, Policy)                                                                   \
  NR_CLONES void edges_of_member(const Member<T>& m, const RasterizeCotangents<T>& grad,      \
                                 T* grad_vertices, EdgeScratch<T, Policy>& scratch) {         \
    edges_backward<T, Policy>(m, grad, grad_vertices, scratch);                               \
  }
NR_EDGES(float, SilhouettePolicy)
NR_EDGES(double, SilhouettePolicy)
NR_EDGES(float, RgbPolicy)
NR_EDGES(double, RgbPolicy)
#undef NR_EDGES

template <class T, template <class> class Policy>
void all_edges_backward(const RasterizeScene& s, const RasterizeInputs<T>& in,
                        const RasterizeCotangents<T>& grad, T* grad_vertices) {
  std::vector<EdgeScratch<T, Policy>> scratch(std::max(1, s.threads));
  parallel_for(s.B, s.threads, [&](int worker, int64_t b) {
    edges_of_member(Member<T>(s, in, b), grad, grad_vertices + b * s.V * 3, scratch[worker]);
  });
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

template <class T>
void rasterize_backward(const RasterizeScene& s, const RasterizeInputs<T>& in,
                        const RasterizeCotangents<T>& grad, const RasterizeGradients<T>& out) {
  if (out.vertices && grad.rgb)
    all_edges_backward<T, RgbPolicy>(s, in, grad, out.vertices);
  else if (out.vertices && grad.alpha)
    all_edges_backward<T, SilhouettePolicy>(s, in, grad, out.vertices);
  if ((grad.rgb && (out.textures || out.light)) || (grad.depth && out.vertices))
    parallel_for(s.B, s.threads,
                 [&](int, int64_t b) { samples_backward(Member<T>(s, in, b), grad, out); });
}

#define NR_INSTANTIATE(T)                                                                    \
  template void rasterize_forward<T>(const RasterizeScene&, const RasterizeInputs<T>&,       \
                                     const RasterizeOutputs<T>&);                            \
  template void rasterize_backward<T>(const RasterizeScene&, const RasterizeInputs<T>&,      \
                                      const RasterizeCotangents<T>&, const RasterizeGradients<T>&);
NR_INSTANTIATE(float)
NR_INSTANTIATE(double)
#undef NR_INSTANTIATE

}  // namespace nr
