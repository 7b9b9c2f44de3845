#include "rasterize_cuda.h"

#include "launch.h"
#include "raster_samples.h"

namespace nr {
namespace {

constexpr int kThreads = 128;
constexpr int kMembers = 65535;  // of a batch in one launch; each block takes every kMembers-th

// Visibility keys are compared as unsigned: the sign bit turned, so that 0xff bytes are nothing.
using Key = unsigned long long;
constexpr Key kSignBit = 1ull << 63;

// ---- forward ------------------------------------------------------------------------------------

// A face and the box of samples around it, ends included.
struct DrawnFace {
  ScreenFace screen;
  double inverse_z[3];
  uint32_t order;
  int x0, x1, y0, y1;

  template <class T>
  __device__ bool load(const Member<T>& m, int64_t face) {
    if (!m.valid(face) || !m.load(face, screen)) return false;
    const ScreenFace& f = screen;
    x0 = first_in(min3(f.x[0], f.x[1], f.x[2]), m.sW), x1 = last_in(max3(f.x[0], f.x[1], f.x[2]), m.sW);
    y0 = first_in(min3(f.y[0], f.y[1], f.y[2]), m.sH), y1 = last_in(max3(f.y[0], f.y[1], f.y[2]), m.sH);
    order = draw_order(face, f.reversed, m.scene.F);
    for (int k = 0; k < 3; ++k) inverse_z[k] = 1.0 / f.z[k];
    return x0 <= x1 && y0 <= y1;
  }
  __device__ int samples() const { return (x1 - x0 + 1) * (y1 - y0 + 1); }  // below 2^30
  __device__ void draw(int x, int y, const RasterizeScene& s, Key* keys) const {
    double e[3];
    edge_functions(screen, x, y, e);
    if (!(e[0] >= 0.0 && e[1] >= 0.0 && e[2] >= 0.0)) return;
    const double z = depth_at(e, inverse_z);
    if (!(z > s.near && z < s.far)) return;
    const Key key = static_cast<Key>(visibility_key(z, order)) ^ kSignBit;
    atomicMin(keys + static_cast<int64_t>(y) * (s.S * s.W) + x, key);
  }
};

// A thread draws a small face alone; the whole block draws the large ones together.
template <class T>
__global__ void draw_faces(RasterizeScene s, RasterizeInputs<T> in, Key* keys) {
  constexpr int kSmall = 64;  // samples in the box
  __shared__ int large[kThreads];
  __shared__ int count;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads;
  for (int64_t b = blockIdx.y; b < s.B; b += gridDim.y) {
    const Member<T> m(s, in, b);
    Key* mine = keys + b * m.samples;
    DrawnFace face;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (first + threadIdx.x < s.F && face.load(m, first + threadIdx.x)) {
      if (face.samples() > kSmall) {
        large[atomicAdd(&count, 1)] = threadIdx.x;
      } else {
        for (int y = face.y0; y <= face.y1; ++y)
          for (int x = face.x0; x <= face.x1; ++x) face.draw(x, y, s, mine);
      }
    }
    __syncthreads();
    for (int k = 0; k < count; ++k) {
      face.load(m, first + large[k]);
      const int width = face.x1 - face.x0 + 1;
      for (int i = threadIdx.x; i < face.samples(); i += kThreads)
        face.draw(face.x0 + i % width, face.y0 + i / width, s, mine);
    }
    __syncthreads();
  }
}

// All images from the keys, a pixel a thread.
template <class T>
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
      if (order >= 0 && (out.rgb || out.depth)) shown.show(order);
      if (out.depth) depth += order >= 0 ? static_cast<T>(shown.depth(x, y)) : static_cast<T>(s.far);
      if (out.rgb) {
        T* colour = out.rgb_samples + 3 * sample;
        if (order >= 0)
          shade(shown, x, y, colour);
        else
          for (int c = 0; c < 3; ++c) colour[c] = in.background[b * 3 + c];
        for (int c = 0; c < 3; ++c) rgb[c] += colour[c];
      }
    }
    const T share = T(1) / (s.S * s.S);
    if (out.alpha) out.alpha[i] = alpha * share;
    if (out.depth) out.depth[i] = depth * share;
    if (out.rgb)
      for (int c = 0; c < 3; ++c) out.rgb[(b * 3 + c) * plane + pixel] = rgb[c] * share;
  }
}

// ---- backward -----------------------------------------------------------------------------------

// For every line of samples (rows, then columns), the positions of those that can pull an edge
// outwards, in order; and which faces show at all.
struct PullLists {
  int32_t* counts;     // (B, sH + sW)
  int32_t* positions;  // (B, 2, sH * sW)
  uint8_t* shown;      // (B, 2F + 1), by draw order + 1

  static size_t bytes(const RasterizeScene& s) {
    const int64_t sH = s.S * s.H, sW = s.S * s.W;
    return s.B * (4 * (sH + sW + 2 * sH * sW) + 2 * s.F + 1);
  }
  PullLists(const RasterizeScene& s, void* workspace) {
    const int64_t sH = s.S * s.H, sW = s.S * s.W;
    counts = static_cast<int32_t*>(workspace);
    positions = counts + s.B * (sH + sW);
    shown = reinterpret_cast<uint8_t*>(positions + s.B * 2 * sH * sW);
  }
  __device__ int32_t* line(int64_t b, int axis, int line, int sH, int sW) const {
    return positions + (b * 2 + axis) * sH * sW + static_cast<int64_t>(line) * (axis == 0 ? sW : sH);
  }
};

template <class T, template <class> class Rule>
__global__ void list_pulls(RasterizeScene s, RasterizeInputs<T> in, RasterizeCotangents<T> grad,
                           PullLists lists) {
  const int lines = s.S * (s.H + s.W);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < s.B * lines; i += step) {
    const int64_t b = i / lines;
    const int place = static_cast<int>(i % lines);
    const Member<T> m(s, in, b);
    const Rule<T> rule{SampleView<T>(m, grad)};
    const int axis = place < m.sH ? 0 : 1, line = axis == 0 ? place : place - m.sH;
    int32_t* to = lists.line(b, axis, line, m.sH, m.sW);
    int count = 0;
    for (int d = 0; d < (axis == 0 ? m.sW : m.sH); ++d) {
      const int x = axis == 0 ? d : line, y = axis == 0 ? line : d;
      if (axis == 0) lists.shown[b * (2 * s.F + 1) + rule.view.face(rule.view.offset(x, y)) + 1] = 1;
      if (rule.may_pull(x, y)) to[count++] = d;
    }
    lists.counts[i] = count;
  }
}

// The first place of a sorted list whose value is not below `least`.
__device__ inline int first_from(const int32_t* list, int count, int least) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (list[middle] < least)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// What moves one edge of one face along one axis, a thread each.
template <class T, template <class> class Rule>
__global__ void pull_edges(RasterizeScene s, RasterizeInputs<T> in, RasterizeCotangents<T> grad,
                           PullLists lists, T* grad_vertices, T* edge_shares) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < s.B * s.F * 6; i += step) {
    const int64_t b = i / (6 * s.F), face = i / 6 % s.F;
    const int axis = static_cast<int>(i % 2), a = static_cast<int>(i / 2 % 3), end = a == 2 ? 0 : a + 1;
    const uint8_t* shown = lists.shown + b * (2 * s.F + 1) + 1;
    if (!shown[face] && !shown[s.F + face]) continue;
    const Member<T> m(s, in, b);
    ScreenFace f;
    if (!m.load(face, f)) continue;
    const Rule<T> rule{SampleView<T>(m, grad)};
    const SampleView<T>& view = rule.view;
    const int32_t order = static_cast<int32_t>(draw_order(face, f.reversed, s.F));
    const CrossedLines edge(f, m.sH, m.sW, a, axis);
    const double* along = axis == 0 ? f.x : f.y;
    const int low = first_in(min3(along[0], along[1], along[2]), edge.length);
    const int high = last_in(max3(along[0], along[1], along[2]), edge.length);
    const int direction = static_cast<int>(edge.direction);
    const double pixels_to_ndc = 2.0 / edge.length;
    double pull_a = 0.0, pull_b = 0.0;
    for (int line = edge.first; line <= edge.last; ++line) {
      const double at = edge.at(line), lever_a = edge.lever_a(line), lever_b = 1.0 - lever_a;
      const int inside = static_cast<int>(edge.inside(at)), outside = inside + direction;
      if (inside < 0) continue;
      const auto sample = [&](int d) { return axis == 0 ? view.offset(d, line) : view.offset(line, d); };
      const auto add = [&](int d, int other) {
        const T gain = axis == 0 ? rule.gain(d, line, sample(other)) : rule.gain(line, d, sample(other));
        if (!(gain > 0)) return;
        pull_a += edge_pull(gain, d, at, pixels_to_ndc, lever_a, s.eps);
        pull_b += edge_pull(gain, d, at, pixels_to_ndc, lever_b, s.eps);
      };
      // Outer rule: samples beyond the edge would take the value of the face if it came to them.
      if (view.face(sample(inside)) == order) {
        const int32_t* list = lists.line(b, axis, line, m.sH, m.sW);
        const int count = lists.counts[b * (m.sH + m.sW) + (axis == 0 ? 0 : m.sH) + line];
        const int split = first_from(list, count, direction > 0 ? outside : outside + 1);
        for (int k = direction > 0 ? split : 0; k < (direction > 0 ? count : split); ++k) add(list[k], inside);
      }
      // Inner rule: samples that show the face would take the value beyond the edge if it went
      // back past them.
      if (rule.may_push(sample(outside)))
        for (int d = inside; low <= d && d <= high; d -= direction)
          if (view.face(sample(d)) == order) add(d, outside);
    }
    if (edge_shares) {
      T* to = edge_shares + (b * s.F + face) * 12 + axis;
      to[4 * f.corner[a]] = static_cast<T>(pull_a);
      to[4 * f.corner[end] + 2] = static_cast<T>(pull_b);
    } else {
      const int32_t* corners = m.faces() + 3 * face;
      T* to = grad_vertices + b * s.V * 3 + axis;
      if (pull_a != 0.0) atomicAdd(to + 3 * static_cast<int64_t>(corners[f.corner[a]]), static_cast<T>(pull_a));
      if (pull_b != 0.0) atomicAdd(to + 3 * static_cast<int64_t>(corners[f.corner[end]]), static_cast<T>(pull_b));
    }
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
    sample_backward(shown, view, static_cast<int>(sample % m.sW),
                    m.sH - 1 - static_cast<int>(sample / m.sW), out, AtomicAdd());
  }
}

template <class T, template <class> class Rule>
void edges_backward(const CudaCall& call, const RasterizeScene& s, const RasterizeInputs<T>& in,
                    const RasterizeCotangents<T>& grad, T* grad_vertices, T* edge_shares) {
  const auto stream = static_cast<cudaStream_t>(call.stream);
  const PullLists lists(s, call.workspace);
  check(cudaMemsetAsync(lists.shown, 0, s.B * (2 * s.F + 1), stream), "clearing the workspace");
  const unsigned lines = blocks_for(s.B * s.S * (s.H + s.W), kThreads);
  NR_LAUNCH((list_pulls<T, Rule>), lines, kThreads, 0, stream, s, in, grad, lists);
  const unsigned edges = blocks_for(s.B * s.F * 6, kThreads);
  NR_LAUNCH((pull_edges<T, Rule>), edges, kThreads, 0, stream, s, in, grad, lists, grad_vertices, edge_shares);
}

}  // namespace

size_t rasterize_forward_workspace(const RasterizeScene& s) {
  return sizeof(Key) * s.B * (s.S * s.H) * (s.S * s.W);
}

size_t rasterize_backward_workspace(const RasterizeScene& s) { return PullLists::bytes(s); }

template <class T>
void rasterize_forward_cuda(const CudaCall& call, const RasterizeScene& s, const RasterizeInputs<T>& in,
                            const RasterizeOutputs<T>& out) {
  if (s.B == 0) return;
  const DeviceGuard guard(call.device);
  const auto stream = static_cast<cudaStream_t>(call.stream);
  Key* keys = static_cast<Key*>(call.workspace);
  check(cudaMemsetAsync(keys, 0xff, rasterize_forward_workspace(s), stream), "clearing the workspace");
  if (s.F > 0) {
    const dim3 blocks(blocks_for(s.F, kThreads), blocks_for(s.B, 1, kMembers));
    NR_LAUNCH((draw_faces<T>), blocks, kThreads, 0, stream, s, in, keys);
  }
  const unsigned pixels = blocks_for(s.B * s.H * s.W, kThreads);
  NR_LAUNCH((show_pixels<T>), pixels, kThreads, 0, stream, s, in, out, keys);
  check(cudaGetLastError(), "drawing");
}

template <class T>
void rasterize_backward_cuda(const CudaCall& call, const RasterizeScene& s, const RasterizeInputs<T>& in,
                             const RasterizeCotangents<T>& grad, const RasterizeGradients<T>& out,
                             T* edge_shares) {
  if (s.B == 0 || s.F == 0) return;
  const DeviceGuard guard(call.device);
  if (out.vertices && grad.rgb)
    edges_backward<T, RgbRule>(call, s, in, grad, out.vertices, edge_shares);
  else if (out.vertices && grad.alpha)
    edges_backward<T, SilhouetteRule>(call, s, in, grad, out.vertices, edge_shares);
  if ((grad.rgb && (out.textures || out.light)) || (grad.depth && out.vertices)) {
    const unsigned samples = blocks_for(s.B * (s.S * s.H) * static_cast<int64_t>(s.S * s.W), kThreads);
    NR_LAUNCH((give_back_samples<T>), samples, kThreads, 0, static_cast<cudaStream_t>(call.stream), s, in,
              grad, out);
  }
  check(cudaGetLastError(), "the gradient");
}

#define NR_INSTANTIATE(T)                                                                            \
  template void rasterize_forward_cuda<T>(const CudaCall&, const RasterizeScene&,                    \
                                          const RasterizeInputs<T>&, const RasterizeOutputs<T>&);    \
  template void rasterize_backward_cuda<T>(const CudaCall&, const RasterizeScene&,                   \
                                           const RasterizeInputs<T>&, const RasterizeCotangents<T>&, \
                                           const RasterizeGradients<T>&, T*);
NR_INSTANTIATE(float)
NR_INSTANTIATE(double)
#undef NR_INSTANTIATE

}  // namespace nr
