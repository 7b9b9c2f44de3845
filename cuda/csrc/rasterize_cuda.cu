#include "rasterize_cuda.h"

#include "load_balance.h"
#include "launch.h"
#include "raster_samples.h"

namespace nr {
namespace {

constexpr int kThreads = 128;
constexpr int kMembers = 65535;  // most batch members in the grid of a launch; each block takes every kMembers-th

// The face that a thread of a block loads. Neighbouring faces go to different blocks: they cost alike (they are visible
// together and large together), so spreading them balances the load.
__device__ inline int64_t face_of_thread(int thread) { return blockIdx.x + static_cast<int64_t>(thread) * gridDim.x; }

// Blocks for all faces, one row of blocks per batch member. Small batches get more blocks, to keep the GPU busy.
dim3 blocks_for_faces(const RasterizeScene& s) {
  constexpr int64_t kBusy = 1024;
  const int64_t wanted = kBusy / s.B < s.F ? kBusy / s.B : s.F, least = blocks_for(s.F, kThreads);
  return dim3(static_cast<unsigned>(wanted < least ? least : wanted), blocks_for(s.B, 1, kMembers));
}

// Visibility keys are compared as unsigned numbers with the sign bit flipped. Bytes of 0xff: nothing is drawn.
using Key = unsigned long long;
constexpr Key kSignBit = 1ull << 63;

// ---- forward ------------------------------------------------------------------------------------

// The faces of a block that are to be drawn, in shared memory. Most faces cover a few samples and some cover hundreds,
// so the samples of their bounding boxes are distributed over the threads.
struct FacesToDraw {
  double x[3][kThreads], y[3][kThreads], inverse_z[3][kThreads];
  uint32_t order[kThreads];
  int left[kThreads], bottom[kThreads], width[kThreads];  // the bounding box in samples
  bool clipped[kThreads];
  LoadBalance<kThreads, 1, int64_t> work;

  // A thread calls this to store its own face. Returns the number of samples in the box.
  __device__ int64_t store(const ScreenFace& f, uint32_t place, double near, int sH, int sW) {
    const int mine = threadIdx.x;
    const SampleBox box(f, near, sH, sW);
    const int x0 = box.left, x1 = box.right, y0 = box.bottom, y1 = box.top;
    if (x0 > x1 || y0 > y1) return 0;
    for (int k = 0; k < 3; ++k) x[k][mine] = f.x[k], y[k][mine] = f.y[k], inverse_z[k][mine] = 1.0 / f.z[k];
    clipped[mine] = f.clipped;
    order[mine] = place, left[mine] = x0, bottom[mine] = y0, width[mine] = x1 - x0 + 1;
    return static_cast<int64_t>(x1 - x0 + 1) * (y1 - y0 + 1);
  }

  // Any thread may call this: draws one sample of one face.
  __device__ void draw(int64_t item, const RasterizeScene& s, Key* keys) const {
    const int f = work.owner_of(item);
    const unsigned k = static_cast<unsigned>(item - work.first_of(f)), row = k / width[f];  // below 2^30
    const int px = left[f] + static_cast<int>(k - row * width[f]), py = bottom[f] + static_cast<int>(row);
    ScreenFace face;
    double inverse[3], e[3];
    for (int c = 0; c < 3; ++c) face.x[c] = x[c][f], face.y[c] = y[c][f], inverse[c] = inverse_z[c][f];
    edge_functions(face, px, py, e);
    if (!(e[0] >= 0.0 && e[1] >= 0.0 && e[2] >= 0.0) && !clipped[f]) return;
    if (clipped[f] && !clipped_covers(e, inverse)) return;
    const double z = depth_at(e, inverse);
    if (!(z > s.near && z < s.far)) return;
    const Key key = static_cast<Key>(visibility_key(z, order[f])) ^ kSignBit;
    atomicMin(keys + static_cast<int64_t>(py) * (s.S * s.W) + px, key);
  }
};

// The bound of 10 blocks limits the registers: a training batch has ten blocks for each multiprocessor.
template <class T>
__global__ void __launch_bounds__(kThreads, 10) draw_faces(RasterizeScene s, RasterizeInputs<T> in, Key* keys) {
  __shared__ FacesToDraw block;
  const int64_t face = face_of_thread(threadIdx.x);
  for (int64_t b = blockIdx.y; b < s.B; b += gridDim.y) {
    const Member<T> m(s, in, b);
    ScreenFace screen;
    int64_t samples[1] = {};
    if (face < s.F && m.valid(face) && m.load(face, screen))
      samples[0] = block.store(screen, draw_order(face, screen.reversed, s.F), s.near, m.sH, m.sW);
    block.work.set(samples);
    for (int64_t item = threadIdx.x; item < block.work.total(); item += kThreads)
      block.draw(item, s, keys + b * m.samples);
    __syncthreads();
  }
}

// Computes all images from the keys, one pixel per thread. kShaded: colours or depths are wanted. Without them the
// kernel needs a third of the registers, so three times as many pixels load their keys at the same time.
template <class T, bool kShaded>
__global__ void show_pixels(RasterizeScene s, RasterizeInputs<T> in, RasterizeOutputs<T> out,
                            const Key* keys) {
  const int64_t plane = static_cast<int64_t>(s.H) * s.W, step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < s.B * plane; i += step) {
    const int64_t b = i / plane, pixel = i % plane;
    const Member<T> m(s, in, b);
    ShownFace<T> shown(m);
    T alpha = 0, depth = 0, rgb[3] = {};
    for (int n = 0; n < s.S * s.S; ++n) {
      const int row = static_cast<int>(pixel / s.W) * s.S + n / s.S;
      const int x = static_cast<int>(pixel % s.W) * s.S + n % s.S, y = m.sH - 1 - row;
      const Key key = keys[b * m.samples + static_cast<int64_t>(y) * m.sW + x];
      const int32_t order = key == ~Key(0) ? -1 : key_order(static_cast<int64_t>(key ^ kSignBit));
      const int64_t sample = b * m.samples + static_cast<int64_t>(row) * m.sW + x;
      out.face_index[sample] = order;
      alpha += static_cast<T>(order >= 0);
      if (!kShaded) continue;
      if (order >= 0) shown.show(order);
      if (out.depth) depth += order >= 0 ? static_cast<T>(shown.depth(x, y)) : static_cast<T>(s.far);
      if (out.rgb) {
        T* colour = out.rgb_samples + 3 * sample;
        if (order >= 0)
          in.colours ? shade<true>(shown, x, y, colour) : shade<false>(shown, x, y, colour);
        else
          for (int c = 0; c < 3; ++c) colour[c] = in.background[b * 3 + c];
        for (int c = 0; c < 3; ++c) rgb[c] += colour[c];
      }
    }
    const T share = T(1) / (s.S * s.S);
    if (out.alpha) out.alpha[i] = alpha * share;
    if (!kShaded) continue;
    if (out.depth) out.depth[i] = depth * share;
    if (out.rgb)
      for (int c = 0; c < 3; ++c) out.rgb[(b * 3 + c) * plane + pixel] = rgb[c] * share;
  }
}

// ---- backward -----------------------------------------------------------------------------------

// One bit per sample, along rows and along columns: can it pull an edge outwards? And one byte per face: is it visible?
struct PullBits {
  int row_words, column_words;
  int64_t member_words, orders;
  uint32_t* words;  // (B, sH rows of row_words, then sW columns of column_words)
  uint8_t* shown;   // (B, 2F), by draw order

  PullBits(const RasterizeScene& s, void* workspace)
      : row_words((s.S * s.W + 31) / 32), column_words((s.S * s.H + 31) / 32),
        member_words(static_cast<int64_t>(s.S) * (s.H * row_words + s.W * column_words)), orders(2 * s.F),
        words(static_cast<uint32_t*>(workspace)), shown(reinterpret_cast<uint8_t*>(words + s.B * member_words)) {}
  size_t bytes(int64_t B) const { return B * (4 * member_words + orders); }

  __device__ uint32_t* line(int64_t b, int axis, int line, int sH) const {
    return words + b * member_words + (axis == 0 ? static_cast<int64_t>(line) * row_words
                                                 : static_cast<int64_t>(sH) * row_words + line * column_words);
  }
};

// Fills PullBits. A block takes a square of 32 x 32 samples and each of its warps eight rows, so that a thread waits
// only once for the loads of its eight samples. Byte k of a word has the bits of rows (or columns) 8k to 8k + 7.
template <class T, template <class> class Rule>
__global__ void note_samples(RasterizeScene s, RasterizeInputs<T> in, RasterizeCotangents<T> grad, PullBits bits) {
  __shared__ uint32_t columns[32], rows[32];
  constexpr int kRows = 8;
  static_assert(kThreads == 32 * (32 / kRows), "a block has one thread for each eight samples of a square");
  const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
  const int64_t squares = static_cast<int64_t>(bits.row_words) * bits.column_words, all = s.B * squares;
  for (int64_t i = blockIdx.x; i < all; i += gridDim.x) {
    const int64_t b = i / squares;
    const int place = static_cast<int>(i % squares), across = place % bits.row_words, up = place / bits.row_words;
    const Member<T> m(s, in, b);
    const Rule<T> rule{SampleView<T>(m, grad)};
    const int x = 32 * across + lane, y = 32 * up + kRows * part, count = min(kRows, m.sH - y);
    unsigned column = 0;
    if (x < m.sW && count > 0) {
      int32_t orders[kRows];
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
        const int above = min(k, count - 1);  // past the end, repeat the last sample
        orders[k] = rule.view.face(rule.view.offset(x, y + above));
        column |= static_cast<unsigned>(rule.may_pull(x, y + above)) << above;
      }
      uint8_t* shown = bits.shown + b * bits.orders;
#pragma unroll
      for (int k = 0; k < kRows; ++k)
        if (orders[k] >= 0) shown[orders[k]] = 1;
    }
    reinterpret_cast<uint8_t*>(columns + lane)[part] = static_cast<uint8_t>(column);
    __syncthreads();
    unsigned row = 0;  // of sample row `lane` of the square
    for (int k = 0; k < kRows; ++k) row |= (columns[kRows * part + k] >> lane & 1) << k;
    reinterpret_cast<uint8_t*>(rows + lane)[part] = static_cast<uint8_t>(row);
    __syncthreads();
    if (part == 0 && x < m.sW) bits.line(b, 1, x, m.sH)[up] = columns[lane];
    if (part == 1 && 32 * up + lane < m.sH) bits.line(b, 0, 32 * up + lane, m.sH)[across] = rows[lane];
    __syncthreads();
  }
}

// The faces of a block whose edges get gradients, in shared memory. Few faces are visible, these cross many lines, and
// few crossings pull at samples, some at dozens. So the work is distributed twice: the crossings over the threads, and
// then the samples of the crossings. Owner 6 f + 2 a + axis stands for the edge of face f that begins at corner a,
// moved along an axis. The pulls of a crossing are added in the order of its samples, and those of an owner in the
// order of lines, whichever thread computed them.
struct EdgesToPull {
  static constexpr int kSamples = 2 * kThreads;  // samples between two barriers
  double x[3][kThreads], y[3][kThreads];
  bool reversed[kThreads];
  LoadBalance<kThreads, 6> crossings;

  // The last kThreads crossings, one a thread.
  double at[kThreads], lever_a[kThreads];
  int owner[kThreads], line[kThreads], inside[kThreads], outside[kThreads];
  int outward[kThreads];  // to how many samples the outer rule moves it
  LoadBalance<kThreads, 1> samples;
  double pulls[2][kSamples];     // on both ends of an edge: of samples, then of crossings
  double pixels_to_ndc[2];
  double unfinished[2][2];  // sums of the owner whose crossings go on in the next round; used in turn
  int clipped_count, clipped[kThreads];  // threads whose faces reach behind the eye; pull_clipped() does these

  // A thread calls this to store its own face.
  __device__ void store(const ScreenFace& f, int H, int W, int (&counts)[6]) {
    for (int k = 0; k < 3; ++k) x[k][threadIdx.x] = f.x[k], y[k][threadIdx.x] = f.y[k];
    reversed[threadIdx.x] = f.reversed;
    for (int k = 0; k < 6; ++k) {
      const CrossedLines edge(f, H, W, k / 2, k % 2);
      counts[k] = edge.first <= edge.last ? edge.last - edge.first + 1 : 0;
    }
  }

  __device__ CrossedLines edge_of(int owner, int sH, int sW) const {
    const int axis = owner % 2, a = owner / 2 % 3, end = a == 2 ? 0 : a + 1, f = owner / 6;
    const double(*across)[kThreads] = axis == 0 ? y : x, (*along)[kThreads] = axis == 0 ? x : y;
    return CrossedLines(across[a][f], across[end][f], along[a][f], along[end][f], sH, sW, axis);
  }

  // The words of PullBits that the outer rule reads, from sample `from` to sample `to` of the line.
  struct OutwardBits {
    const uint32_t* words;
    int from, to;
    __device__ int first() const { return from >> 5; }
    __device__ int last() const { return to >> 5; }
    __device__ uint32_t word(int w) const {
      uint32_t word = words[w];
      if (w == first()) word &= ~0u << (from & 31);
      if (w == last()) word &= ~0u >> (31 - (to & 31));
      return word;
    }
  };
  template <class T>
  __device__ OutwardBits outward_bits(const Member<T>& m, const PullBits& bits, int axis, int line, int outside,
                                 int direction) const {
    const int length = axis == 0 ? m.sW : m.sH;
    return {bits.line(m.b, axis, line, m.sH), direction > 0 ? outside : 0, direction > 0 ? length - 1 : outside};
  }

  // A thread calls this to find its crossing, the samples to which the rules of NMR may move it, and their number.
  template <class T, template <class> class Rule>
  __device__ int find(int item, const Rule<T>& rule, const Member<T>& m, const PullBits& bits) {
    const int mine = threadIdx.x, edge_owner = crossings.owner_of(item), axis = edge_owner % 2, f = edge_owner / 6;
    const CrossedLines edge = edge_of(edge_owner, m.sH, m.sW);
    const int its_line = edge.first + (item - crossings.first_of(edge_owner));
    const double its_at = edge.at(its_line);
    const int direction = static_cast<int>(edge.direction);
    const int its_inside = static_cast<int>(edge.inside(its_at)), its_outside = its_inside + direction;
    owner[mine] = edge_owner;
    if (its_inside < 0) return 0;
    const SampleView<T>& view = rule.view;
    const auto sample = [&](int d) { return axis == 0 ? view.offset(d, its_line) : view.offset(its_line, d); };
    const int32_t order = static_cast<int32_t>(draw_order(face_of_thread(f), reversed[f], m.scene.F));
    const bool may_push = rule.may_push(sample(its_outside));
    int outward_count = 0, inward_count = 0;
    // Outer rule: if the edge moved outwards past a sample, the sample would take the value of the face.
    if (view.face(sample(its_inside)) == order) {
      const OutwardBits there = outward_bits(m, bits, axis, its_line, its_outside, direction);
      for (int w = there.first(); w <= there.last(); ++w) outward_count += bits_set(there.word(w));
    }
    // Inner rule: if the edge moved inwards past a sample of the face, the sample would take the value outside of the
    // edge.
    if (may_push) {
      const double(*along)[kThreads] = axis == 0 ? x : y;
      const int low = first_in(min3(along[0][f], along[1][f], along[2][f]), edge.length);
      const int high = last_in(max3(along[0][f], along[1][f], along[2][f]), edge.length);
      if (low <= its_inside && its_inside <= high)
        inward_count = (direction > 0 ? its_inside - low : high - its_inside) + 1;
    }
    at[mine] = its_at, lever_a[mine] = edge.lever_a(its_line);
    line[mine] = its_line, inside[mine] = its_inside, outside[mine] = its_outside, outward[mine] = outward_count;
    return outward_count + inward_count;
  }

  // Any thread may call this: computes the pulls of one sample of one of the crossings, and stores them at `place`.
  template <class T, template <class> class Rule>
  __device__ void pull(int item, int place, const Rule<T>& rule, const Member<T>& m, const PullBits& bits) {
    const int c = samples.owner_of(item), axis = owner[c] % 2, f = owner[c] / 6, its_line = line[c];
    const int direction = outside[c] - inside[c];
    const SampleView<T>& view = rule.view;
    const auto sample = [&](int d) { return axis == 0 ? view.offset(d, its_line) : view.offset(its_line, d); };
    int left = item - samples.first_of(c), d;  // left: samples of the crossing before this one
    T gain = 0;
    if (left < outward[c]) {
      const OutwardBits there = outward_bits(m, bits, axis, its_line, outside[c], direction);
      int w = there.first();
      uint32_t word = there.word(w);
      for (int count; (count = bits_set(word)) <= left; word = there.word(++w)) left -= count;
      for (; left > 0; --left) word &= word - 1;
      d = 32 * w + lowest_bit(word);
      gain = axis == 0 ? rule.pulled(d, its_line, sample(inside[c])) : rule.pulled(its_line, d, sample(inside[c]));
    } else {
      d = inside[c] - direction * (left - outward[c]);
      const int32_t order = static_cast<int32_t>(draw_order(face_of_thread(f), reversed[f], m.scene.F));
      if (view.face(sample(d)) == order)
        gain = axis == 0 ? rule.pushed(d, its_line, sample(outside[c])) : rule.pushed(its_line, d, sample(outside[c]));
    }
    const bool counts = gain > 0;
    const double lever = lever_a[c];
    pulls[0][place] = counts ? edge_pull(gain, d, at[c], pixels_to_ndc[axis], lever, m.scene.eps) : 0.0;
    pulls[1][place] = counts ? edge_pull(gain, d, at[c], pixels_to_ndc[axis], 1.0 - lever, m.scene.eps) : 0.0;
  }

  // All threads call this: computes the pulls of the crossings `first` to `end` - 1, one a thread, into `pulls`.
  template <class T, template <class> class Rule>
  __device__ void pull_crossings(int first, int end, const Rule<T>& rule, const Member<T>& m, const PullBits& bits) {
    const int mine = threadIdx.x, item = first + mine;
    const int count[1] = {item < end ? find(item, rule, m, bits) : 0};
    samples.set(count);
    double pull_a = 0.0, pull_b = 0.0;
    for (int start = 0; start < samples.total(); start += kSamples) {
      const int stop = min(start + kSamples, samples.total());
      for (int i = start + mine; i < stop; i += kThreads) pull(i, i - start, rule, m, bits);
      __syncthreads();
      const int last = min(samples.ends[mine], stop);
      for (int i = max(samples.first_of(mine), start); i < last; ++i)
        pull_a += pulls[0][i - start], pull_b += pulls[1][i - start];
      __syncthreads();
    }
    pulls[0][mine] = pull_a, pulls[1][mine] = pull_b;
    __syncthreads();
  }
};

// The edges of a face that reaches behind the eye. All threads of a block work on it, one line each. It is not inlined
// into pull_edges(), which would then need more registers; and it makes its own Member and Rule, for a pointer to those
// of pull_edges() would keep them in memory instead of registers.
template <class T, template <class> class Rule>
__device__ __attribute__((noinline)) void pull_clipped(EdgesToPull& block, const RasterizeScene& s,
                                                       const RasterizeInputs<T>& in, const RasterizeCotangents<T>& grad,
                                                       int64_t b, int64_t face, T* grad_vertices, T* sample_shares) {
  const Member<T> m(s, in, b);
  const Rule<T> rule{SampleView<T>(m, grad)};
  ScreenFace f;
  m.load(face, f);
  const ClippedOutline outline(f, m.scene.near);
  const int32_t order = static_cast<int32_t>(draw_order(face, f.reversed, m.scene.F));
  const auto move = [&](int corner, int axis, double value) {
    if (sample_shares)
      sample_shares[9 * (m.b * m.scene.F + face) + 3 * corner + axis] += static_cast<T>(value);
    else
      atomicAdd(grad_vertices + 3 * m.vertex(face, corner) + axis, static_cast<T>(value));
  };
  for (int axis = 0; axis < 2; ++axis) {
    double low, high;
    outline_span(outline, axis, low, high);
    for (int p = 0; p < outline.count; ++p) {
      const CrossedLines edge = outline_edge(outline, p, axis, m.sH, m.sW);
      double pull_a = 0.0, pull_b = 0.0;
      for (int line = edge.first + static_cast<int>(threadIdx.x); line <= edge.last; line += kThreads)
        pull_line<T>(rule, m.scene, edge, axis, line, order, low, high, pull_a, pull_b);
      block.pulls[0][threadIdx.x] = pull_a, block.pulls[1][threadIdx.x] = pull_b;
      __syncthreads();
      if (threadIdx.x == 0) {
        pull_a = pull_b = 0.0;
        for (int i = 0; i < kThreads; ++i) pull_a += block.pulls[0][i], pull_b += block.pulls[1][i];
        outline.move_point(f, p, axis, edge.length, pull_a, move);
        outline.move_point(f, p + 1 == outline.count ? 0 : p + 1, axis, edge.length, pull_b, move);
      }
      __syncthreads();
    }
  }
}

// 10 blocks as in draw_faces().
template <class T, template <class> class Rule>
__global__ void __launch_bounds__(kThreads, 10)
    pull_edges(const __grid_constant__ RasterizeScene s, const __grid_constant__ RasterizeInputs<T> in,
               const __grid_constant__ RasterizeCotangents<T> grad, PullBits bits, T* grad_vertices, T* edge_shares,
               T* sample_shares) {
  __shared__ EdgesToPull block;
  if (threadIdx.x == 0) {
    block.clipped_count = 0;
    block.pixels_to_ndc[0] = 2.0 / (s.S * s.W), block.pixels_to_ndc[1] = 2.0 / (s.S * s.H);
  }
  __syncthreads();
  for (int64_t b = blockIdx.y; b < s.B; b += gridDim.y) {
    const Member<T> m(s, in, b);
    const Rule<T> rule{SampleView<T>(m, grad)};
    const int64_t mine = face_of_thread(threadIdx.x);
    const uint8_t* shown = bits.shown + b * bits.orders;
    ScreenFace face;
    int counts[6] = {};
    if (mine < s.F && (shown[mine] || shown[s.F + mine]) && m.load(mine, face)) {
      if (face.clipped)
        block.clipped[atomicAdd(&block.clipped_count, 1)] = threadIdx.x;
      else
        block.store(face, m.sH, m.sW, counts);
    }
    // Adds the gradient of an edge to its ends.
    const auto give = [&](int owner, const double (&sums)[2]) {
      const int64_t owned = face_of_thread(owner / 6);
      for (int e = 0; e < 2; ++e) {
        if (sums[e] == 0.0) continue;
        const T sum = static_cast<T>(sums[e]);
        const int turned = (owner / 2 % 3 + e) % 3, corner = block.reversed[owner / 6] ? 2 - turned : turned;
        const int axis = owner % 2;
        if (edge_shares)
          edge_shares[(b * s.F + owned) * 12 + 4 * corner + 2 * e + axis] = sum;
        else
          atomicAdd(grad_vertices + 3 * m.vertex(owned, corner) + axis, sum);
      }
    };
    block.crossings.set(counts);
    const int total = block.crossings.total();
    for (int first = 0, round = 0; first < total; first += kThreads, round ^= 1) {
      const int end = min(first + kThreads, total);
      block.pull_crossings(first, end, rule, m, bits);
      const int last_owner = block.owner[end - first - 1];
      for (int owner = block.owner[0] + threadIdx.x; owner <= last_owner; owner += kThreads) {
        const int begins = block.crossings.first_of(owner), ends = block.crossings.ends[owner], last = min(ends, end);
        double sums[2] = {};
        if (begins < first) sums[0] = block.unfinished[round][0], sums[1] = block.unfinished[round][1];
        for (int i = max(begins, first); i < last; ++i)
          sums[0] += block.pulls[0][i - first], sums[1] += block.pulls[1][i - first];
        if (ends > end)
          block.unfinished[round ^ 1][0] = sums[0], block.unfinished[round ^ 1][1] = sums[1];
        else
          give(owner, sums);
      }
      __syncthreads();
    }
    for (int i = 0; i < block.clipped_count; ++i)
      pull_clipped<T, Rule>(block, s, in, grad, b, face_of_thread(block.clipped[i]), grad_vertices, sample_shares);
    __syncthreads();
    if (threadIdx.x == 0) block.clipped_count = 0;
    __syncthreads();
  }
}

struct AtomicAdd {
  template <class T>
  __device__ void operator()(T* to, T value) const {
    atomicAdd(to, value);
  }
};

template <class T>
__global__ void give_back_samples(RasterizeScene s, RasterizeInputs<T> in, RasterizeCotangents<T> grad,
                                  RasterizeGradients<T> out) {
  const int64_t samples = static_cast<int64_t>(s.S * s.H) * (s.S * s.W);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < s.B * samples; i += step) {
    if (grad.face_index[i] < 0) continue;
    const Member<T> m(s, in, i / samples);
    const SampleView<T> view(m, grad);
    ShownFace<T> shown(m);
    shown.show(grad.face_index[i]);
    const int64_t sample = i % samples;
    const int x = static_cast<int>(sample % m.sW), y = m.sH - 1 - static_cast<int>(sample / m.sW);
    const auto to_vertex = [&](T* array) {
      return [&, array](int corner, int axis, T value) {
        atomicAdd(array + 3 * m.vertex(shown.face, corner) + axis, value);
      };
    };
    if (in.colours)
      sample_backward<true>(shown, view, x, y, out, AtomicAdd(), to_vertex(out.vertices), to_vertex(out.colours));
    else
      sample_backward<false>(shown, view, x, y, out, AtomicAdd(), to_vertex(out.vertices), to_vertex(out.colours));
  }
}

// The same in a fixed order. Texels, light and corner shares belong to one face, so one thread adds all samples of the
// face.
template <class T>
__global__ void give_back_faces(RasterizeScene s, RasterizeInputs<T> in, RasterizeCotangents<T> grad,
                                RasterizeGradients<T> out, T* sample_shares, T* colour_shares) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < s.B * s.F; i += step) {
    const Member<T> m(s, in, i / s.F);
    ScreenFace f;
    if (!m.valid(i % s.F) || !m.load(i % s.F, f)) continue;
    const SampleView<T> view(m, grad);
    ShownFace<T> shown(m);
    shown.show(static_cast<int32_t>(draw_order(i % s.F, f.reversed, s.F)));
    const SampleBox box(f, s.near, m.sH, m.sW);
    const auto add = [](T* to, T value) { *to += value; };
    const auto to_share = [i](T* shares) {
      return [=](int corner, int axis, T value) { shares[9 * i + 3 * corner + axis] += value; };
    };
    for (int y = box.bottom; y <= box.top; ++y)
      for (int x = box.left; x <= box.right; ++x) {
        if (view.face(view.offset(x, y)) != shown.order) continue;
        if (in.colours)
          sample_backward<true>(shown, view, x, y, out, add, to_share(sample_shares), to_share(colour_shares));
        else
          sample_backward<false>(shown, view, x, y, out, add, to_share(sample_shares), to_share(colour_shares));
      }
  }
}

template <class T, template <class> class Rule>
void edges_backward(const CudaCall& call, const RasterizeScene& s, const RasterizeInputs<T>& in,
                    const RasterizeCotangents<T>& grad, T* grad_vertices, const FixedOrder<T>& fixed) {
  const auto stream = static_cast<cudaStream_t>(call.stream);
  const PullBits bits(s, call.workspace);
  check(cudaMemsetAsync(bits.shown, 0, s.B * bits.orders, stream), "clearing the workspace");
  const int64_t squares = s.B * bits.row_words * bits.column_words;
  NR_LAUNCH((note_samples<T, Rule>), blocks_for(squares, 1), kThreads, 0, stream, s, in, grad, bits);
  NR_LAUNCH((pull_edges<T, Rule>), blocks_for_faces(s), kThreads, 0, stream, s, in, grad, bits, grad_vertices,
            fixed.edge_shares, fixed.sample_shares);
}

}  // namespace

size_t rasterize_forward_workspace(const RasterizeScene& s) {
  return sizeof(Key) * s.B * (s.S * s.H) * (s.S * s.W);
}

size_t rasterize_backward_workspace(const RasterizeScene& s) { return PullBits(s, nullptr).bytes(s.B); }

template <class T>
void rasterize_forward_cuda(const CudaCall& call, const RasterizeScene& s, const RasterizeInputs<T>& in,
                            const RasterizeOutputs<T>& out) {
  if (s.B == 0) return;
  const DeviceGuard guard(call.device);
  const auto stream = static_cast<cudaStream_t>(call.stream);
  Key* keys = static_cast<Key*>(call.workspace);
  check(cudaMemsetAsync(keys, 0xff, rasterize_forward_workspace(s), stream), "clearing the workspace");
  if (s.F > 0) {
    NR_LAUNCH((draw_faces<T>), blocks_for_faces(s), kThreads, 0, stream, s, in, keys);
  }
  const unsigned pixels = blocks_for(s.B * s.H * s.W, kThreads);
  if (out.rgb || out.depth) {
    NR_LAUNCH((show_pixels<T, true>), pixels, kThreads, 0, stream, s, in, out, keys);
  } else {
    NR_LAUNCH((show_pixels<T, false>), pixels, kThreads, 0, stream, s, in, out, keys);
  }
  check(cudaGetLastError(), "drawing");
}

template <class T>
void rasterize_backward_cuda(const CudaCall& call, const RasterizeScene& s, const RasterizeInputs<T>& in,
                             const RasterizeCotangents<T>& grad, const RasterizeGradients<T>& out,
                             const FixedOrder<T>& fixed) {
  if (s.B == 0 || s.F == 0) return;
  const DeviceGuard guard(call.device);
  if (out.vertices && grad.rgb)
    edges_backward<T, RgbRule>(call, s, in, grad, out.vertices, fixed);
  else if (out.vertices && grad.alpha)
    edges_backward<T, SilhouetteRule>(call, s, in, grad, out.vertices, fixed);
  if (samples_count(in, grad, out)) {
    const auto stream = static_cast<cudaStream_t>(call.stream);
    if (fixed.sample_shares) {
      NR_LAUNCH((give_back_faces<T>), blocks_for(s.B * s.F, kThreads), kThreads, 0, stream, s, in, grad, out,
                fixed.sample_shares, fixed.colour_shares);
    } else {
      const unsigned samples = blocks_for(s.B * (s.S * s.H) * static_cast<int64_t>(s.S * s.W), kThreads);
      NR_LAUNCH((give_back_samples<T>), samples, kThreads, 0, stream, s, in, grad, out);
    }
  }
  check(cudaGetLastError(), "working out the gradient");
}

#define NR_INSTANTIATE(T)                                                                            \
  template void rasterize_forward_cuda<T>(const CudaCall&, const RasterizeScene&,                    \
                                          const RasterizeInputs<T>&, const RasterizeOutputs<T>&);    \
  template void rasterize_backward_cuda<T>(const CudaCall&, const RasterizeScene&,                   \
                                           const RasterizeInputs<T>&, const RasterizeCotangents<T>&, \
                                           const RasterizeGradients<T>&, const FixedOrder<T>&);
NR_INSTANTIATE(float)
NR_INSTANTIATE(double)
#undef NR_INSTANTIATE

}  // namespace nr
