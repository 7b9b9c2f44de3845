// Colours of single samples and their gradients, shared by CPU and CUDA.
#pragma once

#include "raster_math.h"
#include "rasterize.h"

namespace nr {

// One mesh of the batch, with its slices of all arrays.
template <class T>
struct Member {
  const RasterizeScene& scene;
  const RasterizeInputs<T>& in;
  int64_t b;
  int sH, sW, shift;  // image size in samples; sample >> shift is the pixel
  int64_t samples;

  NR_HD Member(const RasterizeScene& s, const RasterizeInputs<T>& i, int64_t member)
      : scene(s), in(i), b(member), sH(s.S * s.H), sW(s.S * s.W),
        shift(s.S - 1), samples(static_cast<int64_t>(sH) * sW) {}

  NR_HD const T* vertices() const { return in.vertices + b * scene.V * 3; }
  NR_HD const int32_t* faces() const { return scene.faces + b * scene.faces_stride; }
  NR_HD bool valid(int64_t face) const {  // Python refuses invalid indices, but cannot look at all
    const int32_t* f = faces() + 3 * face;
    for (int k = 0; k < 3; ++k)
      if (f[k] < 0 || f[k] >= scene.V) return false;
    return true;
  }
  NR_HD int64_t vertex(int64_t face, int corner) const {  // index among the vertices of all meshes
    return b * scene.V + faces()[3 * face + corner];
  }
  NR_HD bool load(int64_t face, ScreenFace& screen) const {
    return load_face(vertices(), faces() + 3 * face, sH, sW, scene.fill_back, scene.perspective && scene.near >= 0.0,
                     scene.near, screen);
  }
  NR_HD const T* colour(int64_t face, int corner) const {
    return in.colours + b * in.colours_stride + 3 * static_cast<int64_t>(faces()[3 * face + corner]);
  }
  NR_HD const T* texture(int64_t face) const {
    const int64_t cube = 3LL * scene.T * scene.T * scene.T;
    return in.textures + b * in.textures_stride + face * cube;
  }
  NR_HD int64_t light_index(int64_t face, bool reversed) const {
    return ((b * scene.F + face) * 2 + reversed) * 3;
  }
};

// The face of a sample. It is loaded again only if it differs from the face of the previous sample.
template <class T>
struct ShownFace {
  const Member<T>& member;
  int32_t order = -1;
  int64_t face = -1;
  ScreenFace screen{};
  double inverse_z[3] = {};

  NR_HD explicit ShownFace(const Member<T>& m) : member(m) {}
  NR_HD void show(int32_t wanted) {
    if (wanted == order) return;
    order = wanted;
    face = wanted < member.scene.F ? wanted : wanted - member.scene.F;
    member.load(face, screen);
    for (int k = 0; k < 3; ++k) inverse_z[k] = 1.0 / screen.z[k];
  }
  NR_HD double depth(int x, int y) const {
    double e[3];
    edge_functions(screen, x, y, e);
    return depth_at(e, inverse_z);
  }
};

// Colour of the sample (x, y), y up: that of the face's texture, or, with kColours, of its vertices. Which of the two
// is one question for a whole image; asked at every sample, it costs.
template <bool kColours, class T>
NR_HD void shade(const ShownFace<T>& shown, int x, int y, T colour[3]) {
  const Member<T>& m = shown.member;
  double e[3];
  edge_functions(shown.screen, x, y, e);
  const T* light = m.in.light ? m.in.light + m.light_index(shown.face, shown.screen.reversed) : nullptr;
  if constexpr (kColours) {
    double weight[3];
    corner_weights(e, shown.inverse_z, weight);
    for (int c = 0; c < 3; ++c) {
      double value = 0.0;
      for (int k = 0; k < 3; ++k) value += weight[k] * m.colour(shown.face, shown.screen.corner[k])[c];
      colour[c] = static_cast<T>(light ? value * light[c] : value);
    }
  } else {
    const TexelWeights texels = texel_weights(shown.screen, e, shown.inverse_z, m.scene.T, m.scene.eps);
    const T* cube = m.texture(shown.face);
    for (int c = 0; c < 3; ++c) {
      double value = 0.0;
      for (int n = 0; n < texels.count; ++n) value += texels.weight[n] * cube[3 * texels.index[n] + c];
      colour[c] = static_cast<T>(light ? value * light[c] : value);
    }
  }
}

// Values and incoming gradients of single samples. Offsets count from sample (0, 0) at the bottom left;
// the offset of (x, y) is x - y * sW, because rows of images run down and y runs up.
template <class T>
struct SampleView {
  int sW, sH, shift;
  const int32_t* faces;
  const T* samples;      // rgb of the sample at the bottom left, or null
  const T* alpha;        // gradient of the pixel at the bottom left, or null
  const T* rgb;
  const T* depth;
  int64_t W, plane;      // pixels in a row and in an image
  T share;

  NR_HD SampleView(const Member<T>& m, const RasterizeCotangents<T>& g)
      : sW(m.sW), sH(m.sH), shift(m.shift), W(m.scene.W), plane(W * m.scene.H),
        share(T(1) / (m.scene.S * m.scene.S)) {
    const int64_t bottom = m.b * m.samples + static_cast<int64_t>(sH - 1) * sW;
    faces = g.face_index + bottom;
    samples = g.rgb_samples ? g.rgb_samples + 3 * bottom : nullptr;
    alpha = g.alpha ? g.alpha + m.b * plane + plane - W : nullptr;
    rgb = g.rgb ? g.rgb + 3 * m.b * plane + plane - W : nullptr;
    depth = g.depth ? g.depth + m.b * plane + plane - W : nullptr;
  }
  NR_HD NR_INLINE int64_t offset(int x, int y) const { return x - static_cast<int64_t>(y) * sW; }
  NR_HD NR_INLINE int64_t pixel(int x, int y) const { return (x >> shift) - (y >> shift) * W; }
  NR_HD NR_INLINE int32_t face(int64_t offset) const { return faces[offset]; }
  NR_HD NR_INLINE T rgb_value(int64_t offset, int c) const { return samples[3 * offset + c]; }
  NR_HD NR_INLINE T alpha_gradient(int x, int y) const { return alpha[pixel(x, y)] * share; }
  NR_HD NR_INLINE T rgb_gradient(int x, int y, int c) const { return rgb[c * plane + pixel(x, y)] * share; }
  NR_HD NR_INLINE T depth_gradient(int x, int y) const { return depth[pixel(x, y)] * share; }
  // rgb and alpha as one vector.
  NR_HD NR_INLINE void values(int64_t offset, T value[4]) const {
    for (int c = 0; c < 3; ++c) value[c] = rgb_value(offset, c);
    value[3] = static_cast<T>(face(offset) >= 0);
  }
  NR_HD NR_INLINE void gradients(int x, int y, T gradient[4]) const {
    for (int c = 0; c < 3; ++c) gradient[c] = rgb_gradient(x, y, c);
    gradient[3] = alpha ? alpha_gradient(x, y) : T(0);
  }
};

// The NMR rules. A gain is the first-order decrease of the loss if a sample took the value of another
// sample. Only gains above 0 move an edge. With rgb, the channels are summed before the sign is tested.
template <class T>
struct SilhouetteRule {
  SampleView<T> view;
  NR_HD NR_INLINE bool may_pull(int x, int y) const {  // may the sample pull an edge outwards?
    return view.face(view.offset(x, y)) < 0 && view.alpha_gradient(x, y) < 0;
  }
  NR_HD NR_INLINE bool may_push(int64_t outside) const { return view.face(outside) < 0; }
  NR_HD NR_INLINE T gain(int x, int y, int64_t other) const {
    const int change = (view.face(view.offset(x, y)) >= 0) - (view.face(other) >= 0);
    return T(change) * view.alpha_gradient(x, y);
  }
  // pulled: the gain if an empty sample took the value of a covered one; pushed: the gain of the reverse.
  NR_HD NR_INLINE T pulled(int x, int y, int64_t) const { return -view.alpha_gradient(x, y); }
  NR_HD NR_INLINE T pushed(int x, int y, int64_t) const { return view.alpha_gradient(x, y); }
};

template <class T>
struct RgbRule {
  SampleView<T> view;
  NR_HD NR_INLINE bool may_pull(int x, int y) const {
    T g[4];
    view.gradients(x, y, g);
    return !(g[0] == 0 && g[1] == 0 && g[2] == 0 && g[3] == 0);
  }
  NR_HD NR_INLINE bool may_push(int64_t) const { return true; }
  NR_HD NR_INLINE T gain(int x, int y, int64_t other) const {
    T value[4], taken[4], gradient[4], sum = 0;
    view.gradients(x, y, gradient);
    view.values(view.offset(x, y), value);
    view.values(other, taken);
    for (int c = 0; c < 4; ++c) sum += (value[c] - taken[c]) * gradient[c];
    return sum;
  }
  NR_HD NR_INLINE T pulled(int x, int y, int64_t other) const { return gain(x, y, other); }
  NR_HD NR_INLINE T pushed(int x, int y, int64_t other) const { return gain(x, y, other); }
};

// Applies the rules along one line to an edge of a clipped face's outline, sample by sample, and adds the gradients of
// the edge's two ends. The outline lies between `low` and `high` along the line.
template <class T, class Rule>
NR_HD void pull_line(const Rule& rule, const RasterizeScene& s, const CrossedLines& edge, int axis, int line,
                     int32_t order, double low, double high, double& pull_a, double& pull_b) {
  const double at = edge.at(line);
  const int direction = static_cast<int>(edge.direction);
  const int inside = static_cast<int>(edge.inside(at)), outside = inside + direction;
  if (inside < 0) return;
  const SampleView<T>& view = rule.view;
  const double lever_a = edge.lever_a(line), lever_b = 1.0 - lever_a, pixels_to_ndc = 2.0 / edge.length;
  const auto sample = [&](int d) { return axis == 0 ? view.offset(d, line) : view.offset(line, d); };
  const auto add = [&](int d, int other) {
    const T gain = axis == 0 ? rule.gain(d, line, sample(other)) : rule.gain(line, d, sample(other));
    if (!(gain > 0)) return;
    pull_a += edge_pull(gain, d, at, pixels_to_ndc, lever_a, s.eps);
    pull_b += edge_pull(gain, d, at, pixels_to_ndc, lever_b, s.eps);
  };
  if (view.face(sample(inside)) == order)
    for (int d = outside; d >= 0 && d < edge.length; d += direction) add(d, inside);
  if (rule.may_push(sample(outside))) {
    const int first = first_in(low, edge.length), last = last_in(high, edge.length);
    for (int d = inside; first <= d && d <= last; d -= direction)
      if (view.face(sample(d)) == order) add(d, outside);
  }
}

// The edge of an outline that begins at point p, with the lines along an axis that cross it.
NR_HD inline CrossedLines outline_edge(const ClippedOutline& o, int p, int axis, int sH, int sW) {
  const int q = p + 1 == o.count ? 0 : p + 1;
  const double *across = axis == 0 ? o.y : o.x, *along = axis == 0 ? o.x : o.y;
  return CrossedLines(across[p], across[q], along[p], along[q], sH, sW, axis);
}
NR_HD inline void outline_span(const ClippedOutline& o, int axis, double& low, double& high) {
  const double* along = axis == 0 ? o.x : o.y;
  low = INFINITY, high = -INFINITY;
  for (int p = 0; p < o.count; ++p) low = lesser(low, along[p]), high = greater(high, along[p]);
}

// Whether any gradient comes from single samples.
template <class T>
bool samples_count(const RasterizeInputs<T>& in, const RasterizeCotangents<T>& grad, const RasterizeGradients<T>& out) {
  return (grad.rgb && (out.textures || out.light || out.colours || (in.colours && out.vertices))) ||
         (grad.depth && out.vertices);
}

// The gradient of vertex colours. The value is sum(b_k c_k) with b_k = (w_k / z_k) / sum(w / z); moving a corner
// changes w_k at a fixed sample as in sample_backward(). This gradient is exact and is added to that of the edges.
template <class T, class Add, class Move, class Tint>
NR_HD void colours_backward(const ShownFace<T>& shown, const SampleView<T>& view, int x, int y, const double e[3],
                            const RasterizeGradients<T>& out, Add&& add, Move&& move, Tint&& tint) {
  const Member<T>& m = shown.member;
  const ScreenFace& f = shown.screen;
  const int64_t light_index = m.light_index(shown.face, f.reversed);
  double weight[3], pull[3] = {};  // pull: derivative of the loss by the weight of vertex k
  corner_weights(e, shown.inverse_z, weight);
  for (int c = 0; c < 3; ++c) {
    const T g = view.rgb_gradient(x, y, c);
    if (g == 0) continue;
    const double light = m.in.light ? m.in.light[light_index + c] : T(1);
    double value = 0.0;
    for (int k = 0; k < 3; ++k) {
      const double colour = m.colour(shown.face, f.corner[k])[c];
      value += weight[k] * colour;
      pull[k] += g * light * colour;
      if (out.colours) tint(f.corner[k], c, static_cast<T>(weight[k] * light * g));
    }
    if (out.light) add(out.light + light_index + c, static_cast<T>(value * g));
  }
  if (!out.vertices) return;
  const double sum = e[0] + e[1] + e[2], z = depth_at(e, shown.inverse_z);
  const double mean = weight[0] * pull[0] + weight[1] * pull[1] + weight[2] * pull[2];
  double slope_x = 0.0, slope_y = 0.0;
  for (int k = 0; k < 3; ++k) {
    const int a = (k + 1) % 3, b = (k + 2) % 3;
    const double more = (pull[k] - mean) * shown.inverse_z[k];
    slope_x -= (f.y[b] - f.y[a]) * more;
    slope_y += (f.x[b] - f.x[a]) * more;
  }
  for (int k = 0; k < 3; ++k) {
    const double scale = -z * (e[k] / sum);
    move(f.corner[k], 0, static_cast<T>(scale * slope_x / sum * (0.5 * m.sW)));
    move(f.corner[k], 1, static_cast<T>(scale * slope_y / sum * (0.5 * m.sH)));
    move(f.corner[k], 2, static_cast<T>(scale * (pull[k] - mean) * shown.inverse_z[k] * shown.inverse_z[k]));
  }
}

// Gradients from one covered sample, kColours as in shade(). Those of textures and light go to add(address, value),
// those of corner k of the stored face along an axis to move(k, axis, value), those of its colour to tint(k, channel,
// value). The sample is linear in textures and light. The derivative of depth is exact: 1/z = sum(w_k / z_k), and moving
// a corner by d changes w_k at a fixed sample by -w_corner * grad(w_k) . d.
template <bool kColours, class T, class Add, class Move, class Tint>
NR_HD void sample_backward(const ShownFace<T>& shown, const SampleView<T>& view, int x, int y,
                           const RasterizeGradients<T>& out, Add&& add, Move&& move, Tint&& tint) {
  const Member<T>& m = shown.member;
  const RasterizeScene& s = m.scene;
  const ScreenFace& f = shown.screen;
  double e[3];
  edge_functions(f, x, y, e);
  if constexpr (kColours) {
    if (view.rgb) colours_backward(shown, view, x, y, e, out, add, move, tint);
  } else if (view.rgb && (out.textures || out.light)) {
    const TexelWeights texels = texel_weights(f, e, shown.inverse_z, s.T, s.eps);
    const int64_t light_index = m.light_index(shown.face, f.reversed);
    const int64_t cube_size = 3LL * s.T * s.T * s.T;
    const T* cube = m.texture(shown.face);
    for (int c = 0; c < 3; ++c) {
      const T g = view.rgb_gradient(x, y, c);
      if (g == 0) continue;
      const T light = m.in.light ? m.in.light[light_index + c] : T(1);
      double value = 0.0;
      for (int n = 0; n < texels.count; ++n) {
        value += texels.weight[n] * cube[3 * texels.index[n] + c];
        if (out.textures)
          add(out.textures + (m.b * s.F + shown.face) * cube_size + 3 * texels.index[n] + c,
              static_cast<T>(texels.weight[n] * light * g));
      }
      if (out.light) add(out.light + light_index + c, static_cast<T>(value * g));
    }
  }
  if (view.depth && out.vertices) {
    const double g = view.depth_gradient(x, y);
    if (g == 0.0) return;
    const double sum = e[0] + e[1] + e[2], z = depth_at(e, shown.inverse_z);
    double slope_x = 0.0, slope_y = 0.0;  // derivative of 1/z on the screen
    for (int k = 0; k < 3; ++k) {
      const int a = (k + 1) % 3, b = (k + 2) % 3;
      slope_x -= (f.y[b] - f.y[a]) * shown.inverse_z[k];
      slope_y += (f.x[b] - f.x[a]) * shown.inverse_z[k];
    }
    for (int k = 0; k < 3; ++k) {
      const double scale = g * z * z * (e[k] / sum);
      move(f.corner[k], 0, static_cast<T>(scale * slope_x / sum * (0.5 * m.sW)));
      move(f.corner[k], 1, static_cast<T>(scale * slope_y / sum * (0.5 * m.sH)));
      move(f.corner[k], 2, static_cast<T>(scale * shown.inverse_z[k] * shown.inverse_z[k]));
    }
  }
}

}  // namespace nr
