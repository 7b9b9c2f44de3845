#include <algorithm>
#include <vector>

#include "parallel.h"
#include "raster_samples.h"

namespace nr {
namespace {

// Samples of a line are summed in groups of fixed length, without branches, so that the compiler vectorises the
// loops. The groups are shorter for silhouettes, where few samples pull.
constexpr int kLanes = 16;

// One bit per sample of each line (row or column): has it a property?
class SampleBits {
 public:
  void reset(int lines, int length) {
    words_ = (length + 63) / 64;
    bits_.assign(static_cast<size_t>(lines) * words_, 0);
    before_.resize(bits_.size());
  }
  NR_INLINE void set(int line, int position) { bits_[index(line, position)] |= 1ull << (position & 63); }

  // Call this after the last set(). Then before() and up_to() can count the bits of a line.
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
 private:
  NR_INLINE int64_t index(int line, int position) const {
    return line * static_cast<int64_t>(words_) + (position >> 6);
  }
  int words_ = 0;
  std::vector<uint64_t> bits_;
  std::vector<int32_t> before_;  // number of bits of the line before each word
};

// For every line of samples (rows and columns), a list of the samples that can pull an edge outwards, in the
// order of the line: the position and C numbers of each. Other samples are never read again.
template <class T, int C>
class PullLists {
 public:
  // The listed samples of a line from `outside` on in `direction`. The array of positions is followed by C arrays
  // of values, each `stride` after the one before.
  struct Span {
    const T* position;
    int64_t stride;
    int count;
  };

  void reset(int sH, int sW) {
    for (int axis = 0; axis < 2; ++axis) {
      const int lines = axis == 0 ? sH : sW, length = axis == 0 ? sW : sH;
      stride_[axis] = length + kLanes;  // a group may pass the end
      count_[axis].assign(lines, 0);
      ends_[axis].assign(lines, {length, -1});
      listed_[axis].reset(lines, length);
      data_[axis].resize(static_cast<size_t>(C + 1) * lines * stride_[axis]);
    }
  }
  // Call this row by row, with y and x increasing, then call finish().
  NR_INLINE void add(int x, int y, const T (&values)[C]) {
    append(0, y, x, values);
    append(1, x, y, values);
  }
  NR_INLINE void finish() {
    for (SampleBits& bits : listed_) bits.count();
  }
  NR_INLINE bool any_beyond(int axis, int line, int outside, bool downwards) const {
    const Ends& ends = ends_[axis][line];
    return downwards ? ends.first <= outside : ends.last >= outside;
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
    Ends& ends = ends_[axis][line];
    ends = {std::min(ends.first, position), position};
    T* to = const_cast<T*>(begin(axis, line)) + count_[axis][line]++;
    *to = static_cast<T>(position);
    for (int c = 0; c < C; ++c) *(to += stride_[axis]) = values[c];
  }
  struct Ends {
    int first, last;
  };
  int64_t stride_[2];
  std::vector<int> count_[2];
  std::vector<Ends> ends_[2];  // first and last listed position of a line
  SampleBits listed_[2];
  std::vector<T> data_[2];
};

// Arguments of sum_pulls(), which computes what the samples of a span add to the two ends of an edge, without
// signs: sums over samples of gain / (distance / lever + eps). The lever is multiplied out, so that a lever of 0
// adds 0. The distance is that from the first outside pixel, a small exact number, plus `start`, the distance of
// that pixel from the crossing.
struct PullArguments {
  double outside, start, pixels_to_ndc, eps_a, eps_b;
};

template <class T>
struct PullSums {
  T a, b;
};

// `gain(i)` is the gain of sample i. Groups have a fixed length, since most spans are shorter than a long vector.
// Values past the end of the span are not counted.
template <int lanes, class T, class Gain>
NR_INLINE PullSums<T> sum_pulls(const T* position, int count, PullArguments p, Gain&& gain) {
  const T outside = T(p.outside), start = T(p.start), scale = T(p.pixels_to_ndc);
  const T eps_a = T(p.eps_a), eps_b = T(p.eps_b);
  T a[lanes] = {}, b[lanes] = {};
  for (int64_t from = 0; from < count; from += lanes) {
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t i = from + lane;  // with 32 bits the compiler would not see contiguous loads
      const T g = gain(i), counted = i < count ? g : T(0);
      const T distance = (std::abs(position[i] - outside) + start) * scale;
      const T to_a = distance + eps_a, to_b = distance + eps_b;
      const T both = counted / (to_a * to_b);  // one division for both ends
      a[lane] += both * to_b;
      b[lane] += both * to_a;
    }
  }
  for (int width = lanes / 2; width; width /= 2)  // pairwise, to keep the chain of additions short
    for (int lane = 0; lane < width; ++lane) a[lane] += a[lane + width], b[lane] += b[lane + width];
  return {a[0], b[0]};
}

// Bit i is is(i), for i < count <= 32. The loop for 32 has no branches, so the compiler vectorises it.
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

// Repeats every bit.
NR_INLINE uint64_t doubled(uint32_t bits) {
  uint64_t spread = bits;
  spread = (spread | spread << 16) & 0x0000ffff0000ffff;
  spread = (spread | spread << 8) & 0x00ff00ff00ff00ff;
  spread = (spread | spread << 4) & 0x0f0f0f0f0f0f0f0f;
  spread = (spread | spread << 2) & 0x3333333333333333;
  spread = (spread | spread << 1) & 0x5555555555555555;
  return spread | spread << 1;
}

// How to list and sum the samples that can pull an edge. Each rule has its own way, for speed.
//
// Silhouettes: coverage is 0 or 1. So only uncovered samples whose loss falls with coverage pull an edge outwards,
// and only edges with nothing outside of them can move inwards.
template <class T>
struct SilhouettePolicy : SilhouetteRule<T> {
  using Lists = PullLists<T, 1>;
  using SilhouetteRule<T>::view;
  explicit SilhouettePolicy(const SampleView<T>& v) : SilhouetteRule<T>{v} {}

  // Bits of the pixels from `column` on, in the row of sample y, whose gradient can pull.
  NR_INLINE uint32_t pulling_pixels(int column, int count, int y) const {
    const T* gradients = view.alpha + view.pixel(0, y) + column;
    return bits_where(count, [=](int i) NR_LAMBDA_INLINE { return gradients[i] < 0; });
  }
  // Of the samples of these pixels, those that can pull.
  NR_INLINE uint64_t pulling(uint64_t samples, uint64_t empty) const { return samples & empty; }
  NR_INLINE void list(int x, int y, Lists& lists) const { lists.add(x, y, {-view.alpha_gradient(x, y)}); }
  NR_INLINE PullSums<T> pull(int64_t, const typename Lists::Span& span, PullArguments p) const {
    const T* gain = span.position + span.stride;
    return sum_pulls<8>(span.position, span.count, p, [=](int64_t i) NR_LAMBDA_INLINE { return gain[i]; });
  }
};

// rgb, with alpha if it has a gradient too.
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
    const T* values = span.position + span.stride;  // four channels of values, then four of gradients
    const int64_t n = span.stride;
    return sum_pulls<16>(span.position, span.count, p, [=](int64_t i) NR_LAMBDA_INLINE {
      T gain = 0;
      for (int c = 0; c < 4; ++c)
        gain += (values[c * n + i] - taken[c]) * values[(c + 4) * n + i];
      return gain > 0 ? gain : T(0);
    });
  }
};

// Eight faces, as in ScreenFace.
constexpr int kFaces = 8;
struct FaceBlock {
  double x[3][kFaces], y[3][kFaces];
  int64_t face[kFaces];
  int32_t order[kFaces];
};

// Where an edge of a face of a block crosses a line.
struct Crossing {
  double at;
  int line, inside, face;
  bool pulled, pushed;  // samples pull it outwards; samples of the face may push it inwards
};

template <class T, template <class> class Policy>
struct alignas(kApart) EdgeScratch {
  typename Policy<T>::Lists lists;
  std::vector<uint8_t> shown;  // is the side visible? index: draw order + 1 (0 for nothing drawn)
  std::vector<Crossing> crossings;
};

// Records which faces of a mesh are visible and which samples can pull.
template <class T, template <class> class Policy>
NR_INLINE void read_samples(const Member<T>& m, const Policy<T>& policy, EdgeScratch<T, Policy>& scratch) {
  scratch.lists.reset(m.sH, m.sW);
  scratch.shown.assign(2 * m.scene.F + 1, 0);
  uint8_t* shown = scratch.shown.data() + 1;
  for (int y = 0; y < m.sH; ++y) {
    const int32_t* row = policy.view.faces + policy.view.offset(0, y);
    for (int first = 0; first < m.sW; first += 64) {
      uint64_t empty = 0;
      for (int half = first; half < std::min(first + 64, m.sW); half += 32) {
        const int count = std::min(32, m.sW - half);
        const uint32_t bits = bits_where(count, [=](int i) NR_LAMBDA_INLINE { return row[half + i] < 0; });
        empty |= static_cast<uint64_t>(bits) << (half - first);
        if (bits == ~uint32_t(0)) continue;
        for (int i = 0; i < count; ++i) shown[row[half + i]] = 1;
      }
      const auto pixels = [&](int column) NR_LAMBDA_INLINE {
        return policy.pulling_pixels(column, std::max(0, std::min(32, m.scene.W - column)), y);
      };
      const uint64_t samples = m.scene.S == 2 ? doubled(pixels(first / 2))
                                              : pixels(first) | static_cast<uint64_t>(pixels(first + 32)) << 32;
      for (uint64_t left = policy.pulling(samples, empty); left; left &= left - 1)
        policy.list(first + __builtin_ctzll(left), y, scratch.lists);
    }
  }
  scratch.lists.finish();
}

// Computes the gradient that moves the edges of a block of faces.
template <class T, template <class> class Policy>
class EdgePuller {
 public:
  using Moved = T[kFaces][3][2];  // gradients of the corners of the faces in x and y

  NR_INLINE EdgePuller(const Member<T>& m, const Policy<T>& policy, EdgeScratch<T, Policy>& scratch)
      : m_(m), policy_(policy), scratch_(scratch) {
    scratch.crossings.resize(kFaces * static_cast<size_t>(std::max(m.sH, m.sW)) + 1);
  }

  NR_INLINE void operator()(const FaceBlock& t, Moved& moved) {
    for (int a = 0; a < 3; ++a) {
      pull<0>(t, a, find<0>(t, a), moved);
      pull<1>(t, a, find<1>(t, a), moved);
    }
  }

 private:
  // An edge that crosses more lines than this is processed alone, not together with edges of other faces.
  static constexpr int kSteps = 8;

  // Finds the crossings of the edge that begins at corner a of each face, with the operations of CrossedLines.
  // Returns the number of crossings that are pulled or pushed. A branch on that could not be predicted, so every
  // crossing is stored without a branch, and the next one overwrites it if it is neither pulled nor pushed.
  template <int axis>
  NR_INLINE int find(const FaceBlock& t, int a) {
    const int b = a == 2 ? 0 : a + 1;
    const double *a0 = (axis == 0 ? t.y : t.x)[a], *b0 = (axis == 0 ? t.y : t.x)[b];
    const double *a1 = (axis == 0 ? t.x : t.y)[a], *b1 = (axis == 0 ? t.x : t.y)[b];
    const double last_line = (axis == 0 ? m_.sH : m_.sW) - 1, range = (axis == 0 ? m_.sW : m_.sH) - 2;
    double first[kFaces], lines[kFaces], direction[kFaces], least[kFaces], longest = 0.0;
#pragma omp simd reduction(max : longest)
    for (int f = 0; f < kFaces; ++f) {
      const double low = ceil(greater(lesser(a0[f], b0[f]), 0.0));
      const double high = floor(lesser(greater(a0[f], b0[f]), last_line));
      const double crossed = greater(high - low + 1.0, 0.0);
      direction[f] = (a0[f] < b0[f]) == (axis == 0) ? 1.0 : -1.0;
      least[f] = direction[f] > 0.0 ? 0.0 : 1.0;
      first[f] = low, lines[f] = a0[f] != b0[f] ? crossed : 0.0;
      longest = greater(longest, lines[f]);
    }
    int found = 0;
    const auto note = [&](int f, int line, double at, double inside) NR_LAMBDA_INLINE {
      const int in = static_cast<int>(inside), out = static_cast<int>(inside + direction[f]);
      const SampleView<T>& view = policy_.view;
      const auto sample = [&](int along) NR_LAMBDA_INLINE {
        return axis == 0 ? view.offset(along, line) : view.offset(line, along);
      };
      const bool beyond = scratch_.lists.any_beyond(axis, line, out, direction[f] < 0.0);
      const bool pulled = beyond & (view.face(sample(in)) == t.order[f]), pushed = policy_.may_push(sample(out));
      scratch_.crossings[found] = {at, line, in, f, pulled, pushed};
      found += pulled | pushed;
    };
    if (longest > kSteps) {  // long edges go alone, with vectors over lines
      longest = 0.0;
      for (int f = 0; f < kFaces; ++f) {
        if (lines[f] <= kSteps) {
          longest = greater(longest, lines[f]);
          continue;
        }
        const double across_a = a0[f], across_b = b0[f], along_a = a1[f], along_b = b1[f], end = first[f] + lines[f];
        const double way = direction[f], low = least[f], high = low + range;
        for (double line = first[f]; line < end; line += kFaces) {
          double at[kFaces], inside[kFaces];
          uint64_t there = 0;
#pragma omp simd reduction(| : there)
          for (int k = 0; k < kFaces; ++k) {
            at[k] = crossed_at(across_a, across_b, along_a, along_b, line + k);
            inside[k] = way * floor(way * at[k]);
            const bool is = (line + k < end) & (inside[k] >= low) & (inside[k] <= high);
            there |= (is ? uint64_t{1} : uint64_t{0}) << k;
          }
          for (; there; there &= there - 1) {
            const int k = __builtin_ctzll(there);
            note(f, static_cast<int>(line) + k, at[k], inside[k]);
          }
        }
        lines[f] = 0.0;
      }
    }
    static_assert(kSteps * kFaces <= 64, "one bit for each crossing");
    double at[kSteps * kFaces], inside[kSteps * kFaces];
    uint64_t there[kFaces] = {};
    const int steps = static_cast<int>(longest);
    for (int step = 0; step < steps; ++step) {
      double *at_here = at + kFaces * step, *inside_here = inside + kFaces * step;
#pragma omp simd
      for (int f = 0; f < kFaces; ++f) {
        at_here[f] = crossed_at(a0[f], b0[f], a1[f], b1[f], first[f] + step);
        inside_here[f] = direction[f] * floor(direction[f] * at_here[f]);
        const bool is = (step < lines[f]) & (inside_here[f] >= least[f]) & (inside_here[f] <= least[f] + range);
        there[f] |= (is ? uint64_t{1} : uint64_t{0}) << kFaces * step;
      }
    }
    uint64_t all = 0;
#pragma omp simd reduction(| : all)
    for (int f = 0; f < kFaces; ++f) all |= there[f] << f;
    for (; all; all &= all - 1) {
      const int i = __builtin_ctzll(all), f = i % kFaces;
      note(f, static_cast<int>(first[f]) + i / kFaces, at[i], inside[i]);
    }
    return found;
  }

  template <int axis>
  NR_INLINE void pull(const FaceBlock& t, int a, int count, Moved& moved) {
    const SampleView<T>& view = policy_.view;
    const int b = a == 2 ? 0 : a + 1, length = axis == 0 ? m_.sW : m_.sH;
    const double(*across)[kFaces] = axis == 0 ? t.y : t.x;
    const double(*along)[kFaces] = axis == 0 ? t.x : t.y;
    const double pixels_to_ndc = 2.0 / length, eps = m_.scene.eps;
    const int64_t step = axis == 0 ? 1 : -static_cast<int64_t>(m_.sW);  // offset from a sample of a line to the next
    for (int n = 0; n < count; ++n) {
      const Crossing& c = scratch_.crossings[n];
      const int f = c.face, direction = (across[a][f] < across[b][f]) == (axis == 0) ? 1 : -1;
      const int outside = c.inside + direction;
      const double lever_a = lever_of_a(across[a][f], across[b][f], c.line), lever_b = 1.0 - lever_a;
      const int64_t start = axis == 0 ? view.offset(0, c.line) : c.line;
      T &to_a = moved[f][a][axis], &to_b = moved[f][b][axis];
      // Outer rule: if the edge moved outwards past a sample, the sample would take the value of the face.
      if (c.pulled) {
        const auto span = scratch_.lists.beyond(axis, c.line, outside, direction);
        const PullSums<T> sums =
            policy_.pull(start + c.inside * step, span,
                         {double(outside), std::abs(outside - c.at), pixels_to_ndc, eps * lever_a, eps * lever_b});
        to_a -= T(direction * lever_a) * sums.a;
        to_b -= T(direction * lever_b) * sums.b;
      }
      // Inner rule: if the edge moved inwards past a sample of the face, the sample would take the value outside of it.
      if (c.pushed) {
        const int64_t other = start + outside * step;
        const int stop = direction > 0 ? first_in(min3(along[0][f], along[1][f], along[2][f]), length)
                                       : last_in(max3(along[0][f], along[1][f], along[2][f]), length);
        for (int d = c.inside; direction > 0 ? d >= stop : d <= stop; d -= direction) {
          if (view.face(start + d * step) != t.order[f]) continue;
          const T gain = axis == 0 ? policy_.gain(d, c.line, other) : policy_.gain(c.line, d, other);
          if (!(gain > 0)) continue;
          to_a += T(edge_pull(gain, d, c.at, pixels_to_ndc, lever_a, eps));
          to_b += T(edge_pull(gain, d, c.at, pixels_to_ndc, lever_b, eps));
        }
      }
    }
  }

  const Member<T>& m_;
  const Policy<T>& policy_;
  EdgeScratch<T, Policy>& scratch_;
};

// The gradient of the edges of a face that reaches behind the eye.
template <class T, template <class> class Policy>
void clipped_edges_backward(const Member<T>& m, const Policy<T>& policy, const ScreenFace& f, int64_t face,
                            T* grad_vertices) {
  const ClippedOutline outline(f, m.scene.near);
  const int32_t order = static_cast<int32_t>(draw_order(face, f.reversed, m.scene.F));
  const auto move = [&](int corner, int axis, double value) {
    grad_vertices[3 * static_cast<int64_t>(m.faces()[3 * face + corner]) + axis] += static_cast<T>(value);
  };
  for (int axis = 0; axis < 2; ++axis) {
    double low, high;
    outline_span(outline, axis, low, high);
    for (int p = 0; p < outline.count; ++p) {
      const CrossedLines edge = outline_edge(outline, p, axis, m.sH, m.sW);
      double pull_a = 0.0, pull_b = 0.0;
      for (int line = edge.first; line <= edge.last; ++line)
        pull_line<T>(policy, m.scene, edge, axis, line, order, low, high, pull_a, pull_b);
      outline.move_point(f, p, axis, edge.length, pull_a, move);
      outline.move_point(f, p + 1 == outline.count ? 0 : p + 1, axis, edge.length, pull_b, move);
    }
  }
}

template <class T, template <class> class Policy>
NR_INLINE void edges_backward(const Member<T>& m, const RasterizeCotangents<T>& grad, T* grad_vertices,
                              EdgeScratch<T, Policy>& scratch) {
  const RasterizeScene& s = m.scene;
  const Policy<T> policy{SampleView<T>(m, grad)};
  read_samples<T, Policy>(m, policy, scratch);
  EdgePuller<T, Policy> pull_edges(m, policy, scratch);
  constexpr int kBlocks = 4;  // load several blocks first: vector loads right after scalar stores stall
  FaceBlock blocks[kBlocks] = {};
  for (int64_t next = 0; next < s.F;) {
    int loaded = 0;
    for (; next < s.F && loaded < kBlocks * kFaces; ++next) {
      ScreenFace f;
      if (!(scratch.shown[next + 1] || scratch.shown[s.F + next + 1])) continue;
      if (!m.load(next, f)) continue;
      if (f.clipped) {
        clipped_edges_backward<T, Policy>(m, policy, f, next, grad_vertices);
        continue;
      }
      FaceBlock& t = blocks[loaded / kFaces];
      const int place = loaded++ % kFaces;
      for (int k = 0; k < 3; ++k) t.x[k][place] = f.x[k], t.y[k][place] = f.y[k];
      t.face[place] = next, t.order[place] = static_cast<int32_t>(draw_order(next, f.reversed, s.F));
    }
    for (int first = 0; first < loaded; first += kFaces) {
      FaceBlock& t = blocks[first / kFaces];
      const int count = std::min(kFaces, loaded - first);
      for (int f = count; f < kFaces; ++f)  // fill up with points, which cross no line
        for (int k = 0; k < 3; ++k) t.x[k][f] = t.y[k][f] = 0.0;
      T moved[kFaces][3][2] = {};
      pull_edges(t, moved);
      for (int f = 0; f < count; ++f) {
        const bool reversed = t.order[f] != t.face[f];
        for (int k = 0; k < 3; ++k) {
          T* to = grad_vertices + 3 * static_cast<int64_t>(m.faces()[3 * t.face[f] + (reversed ? 2 - k : k)]);
          to[0] += moved[f][k][0];
          to[1] += moved[f][k][1];
        }
      }
    }
  }
}

template <bool kColours, class T>
void samples_backward(const Member<T>& m, const RasterizeCotangents<T>& grad,
                      const RasterizeGradients<T>& out) {
  const SampleView<T> view(m, grad);
  ShownFace<T> shown(m);
  for (int y = m.sH - 1; y >= 0; --y)
    for (int x = 0; x < m.sW; ++x) {
      const int32_t order = view.face(view.offset(x, y));
      if (order < 0) continue;
      shown.show(order);
      const auto add = [](T* to, T value) { *to += value; };
      const auto to_vertex = [&](T* array) {
        return [&, array](int corner, int axis, T value) {
          add(array + 3 * m.vertex(shown.face, corner) + axis, value);
        };
      };
      sample_backward<kColours>(shown, view, x, y, out, add, to_vertex(out.vertices), to_vertex(out.colours));
    }
}

// The whole gradient is compiled for each processor level: functions inlined into a clone become part of the clone.
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
  if (samples_count(in, grad, out))
    parallel_for(s.B, s.threads,
                 [&](int, int64_t b) {
                   const Member<T> m(s, in, b);
                   in.colours ? samples_backward<true>(m, grad, out) : samples_backward<false>(m, grad, out);
                 });
}

template void rasterize_backward<float>(const RasterizeScene&, const RasterizeInputs<float>&,
                                        const RasterizeCotangents<float>&,
                                        const RasterizeGradients<float>&);
template void rasterize_backward<double>(const RasterizeScene&, const RasterizeInputs<double>&,
                                         const RasterizeCotangents<double>&,
                                         const RasterizeGradients<double>&);

}  // namespace nr
