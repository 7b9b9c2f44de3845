#include <algorithm>
#include <vector>

#include "parallel.h"
#include "raster_samples.h"

namespace nr {
namespace {

// Samples of a line are summed in groups of fixed length, without branches, so that the compiler makes
// vectors of them: short groups for silhouettes, where few samples pull.
constexpr int kLanes = 16;

// Which samples of each line, row or column, have a property: a bit each.
class SampleBits {
 public:
  void reset(int lines, int length) {
    words_ = (length + 63) / 64;
    bits_.assign(static_cast<size_t>(lines) * words_, 0);
    before_.resize(bits_.size());
  }
  NR_INLINE uint64_t& word(int line, int position) { return bits_[index(line, position)]; }
  NR_INLINE void set(int line, int position) { word(line, position) |= 1ull << (position & 63); }

  // After the last bit is set: lets before() and up_to() count those of a line.
  NR_INLINE void count() {
    for (size_t i = 0; i < bits_.size(); i += words_)
      for (int k = 0, sum = 0; k < words_; sum += __builtin_popcountll(bits_[i + k++])) before_[i + k] = sum;
  }
  NR_INLINE int before(int line, int position) const {
    const int64_t i = index(line, position);
    return before_[i] + __builtin_popcountll(bits_[i] & ~(~0ull << (position & 63)));
  }
  NR_INLINE int up_to(int line, int position) const {
    const int64_t i = index(line, position);
    return before_[i] + __builtin_popcountll(bits_[i] & ~0ull >> (63 - (position & 63)));
  }
  NR_INLINE bool any(int from, int to, int first_line, int last_line) const {  // in a box, ends included
    for (int line = first_line; line <= last_line; ++line)
      for (int word = from >> 6; word <= to >> 6; ++word) {
        uint64_t mask = ~0ull;
        if (word == from >> 6) mask &= ~0ull << (from & 63);
        if (word == to >> 6) mask &= ~0ull >> (63 - (to & 63));
        if (bits_[line * static_cast<int64_t>(words_) + word] & mask) return true;
      }
    return false;
  }

 private:
  NR_INLINE int64_t index(int line, int position) const {
    return line * static_cast<int64_t>(words_) + (position >> 6);
  }
  int words_ = 0;
  std::vector<uint64_t> bits_;
  std::vector<int32_t> before_;  // bits of the line in front of each word
};

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
    for (int axis = 0; axis < 2; ++axis) {
      const int lines = axis == 0 ? sH : sW, length = axis == 0 ? sW : sH;
      stride_[axis] = length + kLanes;  // a group may run over the end
      count_[axis].assign(lines, 0);
      listed_[axis].reset(lines, length);
      data_[axis].resize(static_cast<size_t>(C + 1) * lines * stride_[axis]);
    }
  }
  // Row by row with y increasing, x increasing in each; then finish().
  NR_INLINE void add(int x, int y, const T (&values)[C]) {
    append(0, y, x, values);
    append(1, x, y, values);
  }
  NR_INLINE void finish() {
    for (SampleBits& bits : listed_) bits.count();
  }
  NR_INLINE Span beyond(int axis, int line, int outside, int direction) const {
    const SampleBits& listed = listed_[axis];
    const T* first = begin(axis, line);
    if (direction < 0) return {first, stride_[axis], listed.up_to(line, outside)};
    const int split = listed.before(line, outside);
    return {first + split, stride_[axis], count_[axis][line] - split};
  }

 private:
  NR_INLINE const T* begin(int axis, int line) const {
    return data_[axis].data() + (C + 1) * line * stride_[axis];
  }
  NR_INLINE void append(int axis, int line, int position, const T (&values)[C]) {
    listed_[axis].set(line, position);
    T* to = const_cast<T*>(begin(axis, line)) + count_[axis][line]++;
    *to = static_cast<T>(position);
    for (int c = 0; c < C; ++c) *(to += stride_[axis]) = values[c];
  }
  int64_t stride_[2];
  std::vector<int> count_[2];
  SampleBits listed_[2];
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

// Bit i: is(i), for i < count <= 32. Without branches for 32, the compiler makes vectors of it.
template <class Is>
NR_INLINE uint32_t bits_where(int count, Is&& is) {
  uint32_t bits = 0;
  if (count == 32) {
#pragma omp simd reduction(| : bits)
    for (int i = 0; i < 32; ++i) bits |= static_cast<uint32_t>(is(i)) << i;
  } else {
    for (int i = 0; i < count; ++i) bits |= static_cast<uint32_t>(is(i)) << i;
  }
  return bits;
}

// Every bit twice.
NR_INLINE uint64_t doubled(uint32_t bits) {
  uint64_t spread = bits;
  spread = (spread | spread << 16) & 0x0000ffff0000ffff;
  spread = (spread | spread << 8) & 0x00ff00ff00ff00ff;
  spread = (spread | spread << 4) & 0x0f0f0f0f0f0f0f0f;
  spread = (spread | spread << 2) & 0x3333333333333333;
  spread = (spread | spread << 1) & 0x5555555555555555;
  return spread | spread << 1;
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

  // Of the pixels from `column` on, in the row of sample y, those whose gradient can pull ...
  NR_INLINE uint32_t pulling_pixels(int column, int count, int y) const {
    const T* gradients = view.alpha + view.pixel(0, y) + column;
    return bits_where(count, [=](int i) NR_LAMBDA_INLINE { return gradients[i] < 0; });
  }
  // ... and of their samples, those that do.
  NR_INLINE uint64_t pulling(uint64_t samples, uint64_t empty) const { return samples & empty; }
  NR_INLINE void list(int x, int y, Lists& lists) const { lists.add(x, y, {-view.alpha_gradient(x, y)}); }
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

  NR_INLINE uint32_t pulling_pixels(int column, int count, int y) const {
    const T *red = view.rgb + view.pixel(0, y) + column, *green = red + view.plane, *blue = green + view.plane;
    const T* alpha = view.alpha ? view.alpha + view.pixel(0, y) + column : red;
    return bits_where(count, [=](int i) NR_LAMBDA_INLINE {
      return (red[i] != 0) | (green[i] != 0) | (blue[i] != 0) | (alpha[i] != 0);
    });
  }
  NR_INLINE uint64_t pulling(uint64_t samples, uint64_t) const { return samples; }
  NR_INLINE void list(int x, int y, Lists& lists) const {
    T v[4], g[4];
    view.values(view.offset(x, y), v);
    view.gradients(x, y, g);
    lists.add(x, y, {v[0], v[1], v[2], v[3], g[0], g[1], g[2], g[3]});
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

// Where an edge crosses a line and something comes of it.
template <class Span>
struct Crossing {
  Span span;                     // samples that may pull it outwards
  double at, lever_a;
  int line, inside;
  int8_t a, axis, direction;
  bool pulled, pushed;           // whether they do, and whether samples of the face may push it inwards
};

template <class T, template <class> class Policy>
struct alignas(kApart) EdgeScratch {
  typename Policy<T>::Lists lists;
  SampleBits empty;            // samples that show nothing
  std::vector<uint8_t> shown;  // whether anything shows a face, by draw order + 1: nothing (-1) has a place too
  std::vector<Crossing<typename Policy<T>::Lists::Span>> crossings;
};

// Takes note of what the samples of a mesh show and of those that can pull.
template <class T, template <class> class Policy>
NR_INLINE void read_samples(const Member<T>& m, const Policy<T>& policy, EdgeScratch<T, Policy>& scratch) {
  scratch.lists.reset(m.sH, m.sW);
  scratch.empty.reset(m.sH, m.sW);
  scratch.shown.assign(2 * m.scene.F + 1, 0);
  uint8_t* shown = scratch.shown.data() + 1;
  for (int y = 0; y < m.sH; ++y) {
    const int32_t* row = policy.view.faces + policy.view.offset(0, y);
    for (int first = 0; first < m.sW; first += 32) {
      const int count = std::min(32, m.sW - first);
      const uint32_t empty =
          bits_where(count, [=](int i) NR_LAMBDA_INLINE { return row[first + i] < 0; });
      scratch.empty.word(y, first) |= static_cast<uint64_t>(empty) << (first & 63);
      if (empty == ~uint32_t(0)) continue;
      for (int i = 0; i < count; ++i) shown[row[first + i]] = 1;
    }
    for (int first = 0; first < m.sW; first += 64) {
      const auto pixels = [&](int column) NR_LAMBDA_INLINE {
        return policy.pulling_pixels(column, std::max(0, std::min(32, m.scene.W - column)), y);
      };
      const uint64_t samples = m.scene.S == 2 ? doubled(pixels(first / 2))
                                              : pixels(first) | static_cast<uint64_t>(pixels(first + 32)) << 32;
      for (uint64_t left = policy.pulling(samples, scratch.empty.word(y, first)); left; left &= left - 1)
        policy.list(first + __builtin_ctzll(left), y, scratch.lists);
    }
  }
  scratch.lists.finish();
}

template <class T, template <class> class Policy>
NR_INLINE void edges_backward(const Member<T>& m, const RasterizeCotangents<T>& grad, T* grad_vertices,
                              EdgeScratch<T, Policy>& scratch) {
  const RasterizeScene& s = m.scene;
  const Policy<T> policy{SampleView<T>(m, grad)};
  const SampleView<T>& view = policy.view;
  read_samples<T, Policy>(m, policy, scratch);
  scratch.crossings.resize(3 * static_cast<size_t>(m.sH + m.sW));  // no face crosses more lines
  const int64_t steps[2] = {1, -static_cast<int64_t>(m.sW)};       // from a sample to the next, along each axis
  constexpr int kLines = 8;                                        // crossed side by side, without branches
  double at[kLines], lever_a[kLines], last_inside[kLines];
  for (int64_t i = 0; i < s.F; ++i) {
    ScreenFace f;
    if (!(scratch.shown[i + 1] || scratch.shown[s.F + i + 1])) continue;
    if (!m.load(i, f)) continue;
    const int32_t order = static_cast<int32_t>(draw_order(i, f.reversed, s.F));
    const double low[2] = {min3(f.x[0], f.x[1], f.x[2]), min3(f.y[0], f.y[1], f.y[2])};
    const double high[2] = {max3(f.x[0], f.x[1], f.x[2]), max3(f.y[0], f.y[1], f.y[2])};
    // Whether anything comes of a crossing cannot be guessed: all are looked at first, and noted without a
    // branch; one of which nothing comes is written over by the next.
    int crossings = 0;
    for (int a = 0; a < 3; ++a) {
      const int b = a == 2 ? 0 : a + 1;
      // The inner rule needs something else just beyond the edge: look whether there is any.
      const bool may_push = policy.pushes_against_faces() ||
                            scratch.empty.any(first_in(std::min(f.x[a], f.x[b]) - 1, m.sW),
                                              last_in(std::max(f.x[a], f.x[b]) + 1, m.sW),
                                              first_in(std::min(f.y[a], f.y[b]) - 1, m.sH),
                                              last_in(std::max(f.y[a], f.y[b]) + 1, m.sH));
      for (int axis = 0; axis < 2; ++axis) {
        const CrossedLines edge(f, m.sH, m.sW, a, axis);
        const int direction = static_cast<int>(edge.direction);
        for (int first = edge.first; first <= edge.last; first += kLines) {
#pragma omp simd
          for (int k = 0; k < kLines; ++k) {
            at[k] = edge.at(first + k);
            lever_a[k] = edge.lever_a(first + k);
            last_inside[k] = edge.inside(at[k]);
          }
          const int count = std::min(kLines, edge.last - first + 1);
          for (int k = 0; k < count; ++k) {
            const int line = first + k, inside = static_cast<int>(last_inside[k]), outside = inside + direction;
            if (inside < 0) continue;
            const int64_t start = axis == 0 ? view.offset(0, line) : line;
            const auto span = scratch.lists.beyond(axis, line, outside, direction);
            const bool pulled = (view.face(start + inside * steps[axis]) == order) & (span.count > 0);
            const bool pushed = may_push && policy.may_push(start + outside * steps[axis]);
            scratch.crossings[crossings] = {span, at[k], lever_a[k], line, inside, static_cast<int8_t>(a),
                                            static_cast<int8_t>(axis), static_cast<int8_t>(direction), pulled, pushed};
            crossings += pulled | pushed;
          }
        }
      }
    }
    T moved[3][2] = {};
    for (int n = 0; n < crossings; ++n) {
      const auto& c = scratch.crossings[n];
      const int a = c.a, b = a == 2 ? 0 : a + 1, axis = c.axis, length = axis == 0 ? m.sW : m.sH;
      const int64_t start = axis == 0 ? view.offset(0, c.line) : c.line, step = steps[axis];
      const int outside = c.inside + c.direction;
      const double lever_b = 1.0 - c.lever_a, pixels_to_ndc = 2.0 / length;
      // Outer rule: samples beyond the edge would take the value of the face if it came to them.
      if (c.pulled) {
        const PullSums<T> sums =
            policy.pull(start + c.inside * step, c.span,
                        {double(outside), std::abs(outside - c.at), pixels_to_ndc, s.eps * c.lever_a, s.eps * lever_b});
        moved[a][axis] -= T(c.direction * c.lever_a) * sums.a;
        moved[b][axis] -= T(c.direction * lever_b) * sums.b;
      }
      // Inner rule: samples that show the face would take the value beyond the edge if it went back past
      // them.
      if (c.pushed) {
        const int64_t other = start + outside * step;
        const int stop = c.direction > 0 ? first_in(low[axis], length) : last_in(high[axis], length);
        for (int d = c.inside; c.direction > 0 ? d >= stop : d <= stop; d -= c.direction) {
          if (view.face(start + d * step) != order) continue;
          const T gain = axis == 0 ? policy.gain(d, c.line, other) : policy.gain(c.line, d, other);
          if (!(gain > 0)) continue;
          moved[a][axis] += T(edge_pull(gain, d, c.at, pixels_to_ndc, c.lever_a, s.eps));
          moved[b][axis] += T(edge_pull(gain, d, c.at, pixels_to_ndc, lever_b, s.eps));
        }
      }
    }
    for (int k = 0; k < 3; ++k) {
      T* to = grad_vertices + 3 * static_cast<int64_t>(m.faces()[3 * i + f.corner[k]]);
      to[0] += moved[k][0];
      to[1] += moved[k][1];
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
