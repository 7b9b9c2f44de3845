#include <algorithm>
#include <vector>

#include "parallel.h"
#include "raster_samples.h"

namespace nr {
namespace {

// Samples of a line are summed in groups of fixed length, without branches, so that the compiler makes
// vectors of them: short groups for silhouettes, where few samples pull.
constexpr int kLanes = 16;

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
template <int lanes, class T, class Gain>
NR_INLINE PullSums<T> sum_pulls(const T* position, int count, PullArguments p, Gain&& gain) {
  const T outside = T(p.outside), start = T(p.start), scale = T(p.pixels_to_ndc);
  const T eps_a = T(p.eps_a), eps_b = T(p.eps_b);
  T a[lanes] = {}, b[lanes] = {};
  for (int64_t from = 0; from < count; from += lanes) {
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t i = from + lane;  // 64 bits, or the loads are not seen to be contiguous
      const T g = gain(i), counted = i < count ? g : T(0);
      const T distance = (std::abs(position[i] - outside) + start) * scale;
      const T to_a = distance + eps_a, to_b = distance + eps_b;
      const T both = counted / (to_a * to_b);  // one division serves the two ends
      a[lane] += both * to_b;
      b[lane] += both * to_a;
    }
  }
  for (int width = lanes / 2; width; width /= 2)  // halves, to keep the chain of additions short
    for (int lane = 0; lane < width; ++lane) a[lane] += a[lane + width], b[lane] += b[lane + width];
  return {a[0], b[0]};
}

// How the samples that can pull an edge are listed and summed: each rule's own way, for speed.
//
// Silhouettes: coverage is 0 or 1, so only uncovered samples that want to be covered pull an edge
// outwards, and only edges with nothing behind them can move inwards.
template <class T>
struct SilhouettePolicy : SilhouetteRule<T> {
  using Lists = PullLists<T, 1>;
  using SilhouetteRule<T>::view;
  explicit SilhouettePolicy(const SampleView<T>& v) : SilhouetteRule<T>{v} {}

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
    return sum_pulls<8>(span.position, span.count, p, [=](int64_t i) NR_LAMBDA_INLINE { return gain[i]; });
  }
  NR_INLINE bool pushes_against_faces() const { return false; }
};

// rgb, and alpha where both are asked for.
template <class T>
struct RgbPolicy : RgbRule<T> {
  using Lists = PullLists<T, 8>;
  using RgbRule<T>::view;
  explicit RgbPolicy(const SampleView<T>& v) : RgbRule<T>{v} {}

  struct Gradient {
    T of[4];
  };
  Gradient read_gradient(int x, int y) const {
    Gradient g;
    view.gradients(x, y, g.of);
    return g;
  }
  int next_pull(int x, int y) const {
    while (x < view.sW && !this->may_pull(x, y)) x += 1 << view.shift;
    return x;
  }
  void list(int x, int y, const Gradient& g, Lists& lists) const {
    T value[4];
    view.values(view.offset(x, y), value);
    lists.add(x, y, {value[0], value[1], value[2], value[3], g.of[0], g.of[1], g.of[2], g.of[3]});
  }
  NR_INLINE PullSums<T> pull(int64_t inside, const typename Lists::Span& span,
                             PullArguments p) const {
    T taken[4];
    view.values(inside, taken);
    const T* values = span.position + span.stride;  // four channels of them, then of gradients
    const int64_t n = span.stride;
    return sum_pulls<16>(span.position, span.count, p, [=](int64_t i) NR_LAMBDA_INLINE {
      T gain = 0;
      for (int c = 0; c < 4; ++c)
        gain += (values[c * n + i] - taken[c]) * values[(c + 4) * n + i];
      return gain > 0 ? gain : T(0);
    });
  }
  NR_INLINE bool pushes_against_faces() const { return true; }
};

// Which samples show nothing, a bit each.
class EmptySamples {
 public:
  void reset(int sH, int sW) {
    words_ = (sW + 63) / 64;
    bits_.assign(static_cast<size_t>(sH) * words_, 0);
  }
  // Takes note of a row of samples, and in `shown` of the faces on it, by draw order.
  NR_INLINE void read_row(int y, const int32_t* row, int sW, uint8_t* shown) {
    uint64_t* words = bits_.data() + y * static_cast<int64_t>(words_);
    for (int from = 0; from < sW; from += 32) {
      const int count = std::min(32, sW - from);
      uint32_t word = 0;
      if (count == 32) {
#pragma omp simd reduction(| : word)
        for (int i = 0; i < 32; ++i) word |= (static_cast<uint32_t>(row[from + i]) >> 31) << i;
      } else {
        for (int i = 0; i < count; ++i) word |= (static_cast<uint32_t>(row[from + i]) >> 31) << i;
      }
      words[from / 64] |= static_cast<uint64_t>(word) << from % 64;
      if (word == ~uint32_t(0)) continue;
      for (int i = 0; i < count; ++i) shown[row[from + i]] = 1;
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
struct alignas(kApart) EdgeScratch {
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
    scratch.empty.read_row(y, view.faces + view.offset(0, y), m.sW, scratch.shown.data() + 1);
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
    if (!m.load(i, f)) continue;
    const int32_t order = static_cast<int32_t>(draw_order(i, f.reversed, s.F));
    const double low[2] = {min3(f.x[0], f.x[1], f.x[2]), min3(f.y[0], f.y[1], f.y[2])};
    const double high[2] = {max3(f.x[0], f.x[1], f.x[2]), max3(f.y[0], f.y[1], f.y[2])};
    // The inner rule needs something else just beyond the edge: look whether there is any.
    bool may_push = true;
    const auto wanted = [&](int axis, int line, int direction) NR_LAMBDA_INLINE {
      return may_push || scratch.lists.any_beyond(axis, line, direction > 0 ? low[axis] : high[axis],
                                                  direction);
    };
    T pull[3][2] = {};
    const auto visit = [&](const Crossing& c) NR_LAMBDA_INLINE {
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
    };
    for (int a = 0; a < 3; ++a) {
      const int b = a == 2 ? 0 : a + 1;
      may_push = policy.pushes_against_faces() ||
                 scratch.empty.any(first_in(std::min(f.x[a], f.x[b]) - 1, m.sW),
                                   last_in(std::max(f.x[a], f.x[b]) + 1, m.sW),
                                   first_in(std::min(f.y[a], f.y[b]) - 1, m.sH),
                                   last_in(std::max(f.y[a], f.y[b]) + 1, m.sH));
      for (int axis = 0; axis < 2; ++axis) for_each_crossing(f, m.sH, m.sW, a, axis, wanted, visit);
    }
    for (int k = 0; k < 3; ++k) {
      T* to = grad_vertices + 3 * static_cast<int64_t>(face[f.corner[k]]);
      to[0] += pull[k][0];
      to[1] += pull[k][1];
    }
  }
}

template <class T>
void samples_backward(const Member<T>& m, const RasterizeCotangents<T>& grad,
                      const RasterizeGradients<T>& out) {
  const SampleView<T> view(m, grad);
  ShownFace<T> shown(m);
  for (int y = m.sH - 1; y >= 0; --y)
    for (int x = 0; x < m.sW; ++x) {
      const int32_t order = view.face(view.offset(x, y));
      if (order < 0) continue;
      shown.show(order);
      sample_backward(shown, view, x, y, out, [](T* to, T value) { *to += value; });
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

template void rasterize_backward<float>(const RasterizeScene&, const RasterizeInputs<float>&,
                                        const RasterizeCotangents<float>&,
                                        const RasterizeGradients<float>&);
template void rasterize_backward<double>(const RasterizeScene&, const RasterizeInputs<double>&,
                                         const RasterizeCotangents<double>&,
                                         const RasterizeGradients<double>&);

}  // namespace nr
