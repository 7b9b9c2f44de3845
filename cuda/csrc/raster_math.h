// The geometry of the rasteriser, once, for CPU and CUDA.
//
// Conventions. NDC is [-1, 1]^2, x right, y up, z away from the camera. Pixel coordinates are
// p = (ndc * size + size - 1) / 2: the centre of the first pixel is 0, of the last size - 1. Here y
// runs UP; whoever touches an image turns it into a row with row = H - 1 - y.
//
// Everything that decides (is a centre inside, which face is nearest, between which pixels does an
// edge cross) is computed in double from the stored scalar, without fused multiply-add. A float32
// mesh and its float64 copy therefore cover the same pixels, and so do CPU, CUDA and the NumPy
// reference. Depth is rounded to float32 before faces compete for a pixel, so that coplanar faces
// tie instead of being ordered by rounding noise; a tie goes to the lowest order.
#pragma once

#include <cstring>

#include "portable.h"

namespace nr {

// One side of one face on the screen, counter-clockwise.
struct ScreenFace {
  double x[3], y[3], z[3];  // pixel coordinates, and depth
  int corner[3];            // which corner of the stored face each vertex is: (2, 1, 0) if reversed
  bool reversed;            // its back is towards us (only with fill_back)
  bool clipped;             // it reaches behind the eye, see ClippedOutline
};

NR_HD NR_INLINE double to_pixel(double ndc, int size) { return (ndc * size + size - 1) * 0.5; }

// Turns a face to the side that is seen, without branches. False: nothing of it can be drawn, because
// it is seen from behind without fill_back, has no area on the screen (it passes the facing test of
// the original program too, but has no barycentric coordinates there), or a corner is not finite.
//
// `way` is -1 where an odd number of corners lies behind the eye: each mirrors the face on the screen.
NR_HD NR_INLINE bool turn_to_viewer(double x[3], double y[3], double z[3], bool fill_back, bool& reversed,
                                    double way = 1.0) {
  double odd = 0.0;  // NaN as soon as one number is not finite
  for (int k = 0; k < 3; ++k) odd += (x[k] - x[k]) + (y[k] - y[k]) + (z[k] - z[k]);
  const double area = way * ((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0]));
  reversed = area < 0.0;
  const double x0 = x[0], y0 = y[0], z0 = z[0];
  x[0] = reversed ? x[2] : x0, x[2] = reversed ? x0 : x[2];
  y[0] = reversed ? y[2] : y0, y[2] = reversed ? y0 : y[2];
  z[0] = reversed ? z[2] : z0, z[2] = reversed ? z0 : z[2];
  return (odd == 0.0) & ((area > 0.0) | (reversed & fill_back));
}

// Faces that reach behind the eye (some z <= 0, in perspective).
//
// They are clipped here, in the kernels, and not where the camera is known. Dividing by z loses nothing: x z, y z
// and z are the point in the space of the camera again, up to the scale of x and y. So a face on the screen is whole
// in homogeneous coordinates, and what a sample shows of it follows from the formulas for any other face, with
// signs: barycentric weight k is e[k] / z[k] over the sum of these, depth the sum of e over that sum. A sample is
// inside where all weights are >= 0 and near < depth. No triangle is added, nothing is allocated, no array has a
// size that depends on the vertices, the host need not know (a CUDA graph records it), every camera and every
// operator gets it, and a face in front pays with one comparison. Only the edges need more: see ClippedOutline.
//
// z = 0 exactly has no x and y; the cameras put such vertices a hair behind the eye.

// Where the clipped part of a face ends: `near`, or a hair in front of the eye where that is 0.
NR_HD NR_INLINE double clip_plane(const double z[3], double near) {
  return near > 0.0 ? near : 1e-6 * max3(z[0], z[1], z[2]);
}

// A sample with near < depth is inside a face that reaches behind the eye.
NR_HD NR_INLINE bool clipped_covers(const double e[3], const double inverse_z[3]) {
  const double sum = e[0] + e[1] + e[2];
  return (e[0] * inverse_z[0] * sum >= 0.0) & (e[1] * inverse_z[1] * sum >= 0.0) &
         (e[2] * inverse_z[2] * sum >= 0.0);
}

// Loads the side of a face that is seen, if any is. `clips`: z <= 0 is behind the eye.
template <class T>
NR_HD NR_INLINE bool load_face(const T* vertices, const int32_t* face, int H, int W, bool fill_back, bool clips,
                               double near, ScreenFace& out) {
  for (int k = 0; k < 3; ++k) {
    const T* v = vertices + 3 * static_cast<int64_t>(face[k]);
    out.x[k] = to_pixel(v[0], W);
    out.y[k] = to_pixel(v[1], H);
    out.z[k] = v[2];
  }
  const double* z = out.z;
  out.clipped = clips && !((z[0] > 0.0) & (z[1] > 0.0) & (z[2] > 0.0));
  bool there = true, odd = false;
  if (out.clipped) {
    odd = ((z[0] < 0.0) != (z[1] < 0.0)) != (z[2] < 0.0);
    there = max3(z[0], z[1], z[2]) > clip_plane(z, near) && z[0] * z[1] * z[2] != 0.0;
  }
  const bool seen = turn_to_viewer(out.x, out.y, out.z, fill_back, out.reversed, odd ? -1.0 : 1.0) & there;
  out.corner[0] = out.reversed ? 2 : 0, out.corner[1] = 1, out.corner[2] = out.reversed ? 0 : 2;
  return seen;
}

// Place of a face among those that compete for a pixel: reversed copies come after all originals.
NR_HD NR_INLINE uint32_t draw_order(int64_t face, bool reversed, int64_t num_faces) {
  return static_cast<uint32_t>(reversed ? face + num_faces : face);
}

// Edge functions e[k] >= 0 for all k: the point is inside, edges included. e[k] / sum(e) is the
// barycentric weight of vertex k.
NR_HD NR_INLINE void edge_functions(const ScreenFace& f, double px, double py, double e[3]) {
  for (int k = 0; k < 3; ++k) {
    const int a = k == 2 ? 0 : k + 1, b = k == 0 ? 2 : k - 1;
    e[k] = (f.x[b] - f.x[a]) * (py - f.y[a]) - (f.y[b] - f.y[a]) * (px - f.x[a]);
  }
}

// Perspective-correct depth: 1/z interpolates linearly on the screen.
NR_HD NR_INLINE double depth_at(const double e[3], const double inverse_z[3]) {
  return (e[0] + e[1] + e[2]) /
         (e[0] * inverse_z[0] + e[1] * inverse_z[1] + e[2] * inverse_z[2]);
}

// Visibility key: smaller wins. The depth, rounded to float32 and written as a double, leaves the
// lowest 29 bits free; the draw order goes there. The bits of positive doubles are ordered like
// integers, those of negative ones the other way round. One atomicMin on it is the whole depth test.
constexpr int64_t kNothing = INT64_MAX;
constexpr int64_t kOrderBits = (int64_t{1} << 29) - 1;

template <bool positive = false>
NR_HD NR_INLINE int64_t visibility_key(double depth, uint32_t order) {
  const double z = static_cast<double>(static_cast<float>(depth));
  int64_t bits;
  memcpy(&bits, &z, sizeof bits);
  if (!positive) bits ^= (bits >> 63) & INT64_MAX;
  return (bits & ~kOrderBits) | static_cast<int64_t>(order);
}
NR_HD NR_INLINE int32_t key_order(int64_t key) {
  return key == kNothing ? -1 : static_cast<int32_t>(key & kOrderBits);
}

// Where exactly an edge from (a0, a1) to (b0, b1), across the lines and along them, crosses a line, in pixels.
// Product before quotient: exact at both ends of the edge.
NR_HD NR_INLINE double crossed_at(double a0, double b0, double a1, double b1, double line) {
  return a1 + (b1 - a1) * (line - a0) / (b0 - a0);
}
// How much of the crossing's movement end a passes on; end b does the rest.
NR_HD NR_INLINE double lever_of_a(double a0, double b0, double line) { return (b0 - line) / (b0 - a0); }

// An edge a -> b of a face, and the lines of pixel centres, rows or columns, that it crosses (NMR, CVPR
// 2018, sec. 3). `axis` is the direction in which a crossing may move: 0 along a row (x), 1 along a
// column (y).
struct CrossedLines {
  double a0, b0, a1, b1;  // the edge's ends across the lines and along them
  double direction;       // +1 or -1, the way out of the face along `axis`
  double least, most;     // between which the last pixel inside must lie
  int length;             // of a line, in pixels
  int first, last;        // lines; none where the edge is parallel to them

  NR_HD NR_INLINE CrossedLines(const ScreenFace& f, int H, int W, int a, int axis)
      : CrossedLines((axis == 0 ? f.y : f.x)[a], (axis == 0 ? f.y : f.x)[a == 2 ? 0 : a + 1],
                     (axis == 0 ? f.x : f.y)[a], (axis == 0 ? f.x : f.y)[a == 2 ? 0 : a + 1], H, W, axis) {}
  NR_HD NR_INLINE CrossedLines(double across_a, double across_b, double along_a, double along_b, int H, int W,
                               int axis)
      : a0(across_a), b0(across_b), a1(along_a), b1(along_b) {
    const int lines = axis == 0 ? H : W;
    direction = (a0 < b0) == (axis == 0) ? 1.0 : -1.0;  // the interior lies left of a -> b
    length = axis == 0 ? W : H;
    least = direction > 0.0 ? 0.0 : 1.0, most = least + (length - 2);
    first = first_in(a0 < b0 ? a0 : b0, lines);
    last = a0 == b0 ? first - 1 : last_in(a0 < b0 ? b0 : a0, lines);
  }
  NR_HD NR_INLINE double at(double line) const { return crossed_at(a0, b0, a1, b1, line); }
  // The last pixel on the face's side; a centre on the edge is inside. -1 if it or the next one outwards
  // is not in the image.
  NR_HD NR_INLINE double inside(double at) const {
    const double pixel = direction * floor(direction * at);
    const bool there = (pixel >= least) & (pixel <= most);
    return there ? pixel : -1.0;
  }
  NR_HD NR_INLINE double lever_a(double line) const { return lever_of_a(a0, b0, line); }
};

// The outline of the part of a face in front of the near plane, where the face reaches behind the eye: its vertices
// in front, and the points where its edges cross the plane, which all its vertices move. The rules of NMR then hold
// for the three or four edges of the outline as for those of any face.
struct ClippedOutline {
  int count = 0;
  double x[4], y[4], plane;  // pixels
  int from[4], to[4];        // vertices of the ScreenFace between which a point lies, the same for one of them
  double share[4];           // of `to`

  NR_HD ClippedOutline(const ScreenFace& f, double near) : plane(clip_plane(f.z, near)) {
    for (int a = 0; a < 3; ++a) {
      const int b = a == 2 ? 0 : a + 1;
      if (f.z[a] > plane) add(f.x[a], f.y[a], a, a, 0.0);
      if ((f.z[a] > plane) == (f.z[b] > plane)) continue;
      const double t = (plane - f.z[a]) / (f.z[b] - f.z[a]);
      add(((1.0 - t) * (f.x[a] * f.z[a]) + t * (f.x[b] * f.z[b])) / plane,
          ((1.0 - t) * (f.y[a] * f.z[a]) + t * (f.y[b] * f.z[b])) / plane, a, b, t);
    }
  }

  // Hands the gradient of point p along an axis, in NDC, to the corners of the stored face by
  // move(corner, axis, value). `length` of a line along the axis, in pixels.
  template <class Move>
  NR_HD void move_point(const ScreenFace& f, int p, int axis, int length, double gradient, Move&& move) const {
    const int a = from[p], b = to[p];
    if (a == b) {
      move(f.corner[a], axis, gradient);
      return;
    }
    const double* along = axis == 0 ? f.x : f.y;
    const double of_a = gradient * (1.0 - share[p]) / plane, of_b = gradient * share[p] / plane;
    const double slope = (along[a] - along[b]) * (2.0 / length) / (f.z[b] - f.z[a]);
    move(f.corner[a], axis, of_a * f.z[a]);
    move(f.corner[b], axis, of_b * f.z[b]);
    move(f.corner[a], 2, of_a * f.z[b] * slope);
    move(f.corner[b], 2, of_b * f.z[a] * slope);
  }

 private:
  NR_HD void add(double px, double py, int a, int b, double t) {
    if (count == 4) return;
    x[count] = px, y[count] = py, from[count] = a, to[count] = b, share[count] = t;
    ++count;
  }
};

// The samples around a face.
struct SampleBox {
  int left, right, bottom, top;

  NR_HD SampleBox(const ScreenFace& f, double near, int sH, int sW)
      : SampleBox(min3(f.x[0], f.x[1], f.x[2]), max3(f.x[0], f.x[1], f.x[2]), min3(f.y[0], f.y[1], f.y[2]),
                  max3(f.y[0], f.y[1], f.y[2]), sH, sW) {
    if (!f.clipped) return;
    const ClippedOutline o(f, near);
    double low_x = INFINITY, high_x = -INFINITY, low_y = INFINITY, high_y = -INFINITY, odd = 0.0;
    for (int p = 0; p < o.count; ++p) {
      low_x = lesser(low_x, o.x[p]), high_x = greater(high_x, o.x[p]);
      low_y = lesser(low_y, o.y[p]), high_y = greater(high_y, o.y[p]);
      odd += (o.x[p] - o.x[p]) + (o.y[p] - o.y[p]);
    }
    if (!(odd == 0.0)) low_x = low_y = -1.0, high_x = sW, high_y = sH;  // coordinates too large to mix
    const double margin = 1e-3;  // far above the rounding of a crossing
    *this = SampleBox(low_x - margin, high_x + margin, low_y - margin, high_y + margin, sH, sW);
  }

 private:
  NR_HD SampleBox(double low_x, double high_x, double low_y, double high_y, int sH, int sW)
      : left(first_in(low_x, sW)), right(last_in(high_x, sW)), bottom(first_in(low_y, sH)), top(last_in(high_y, sH)) {}
};

// The share of one pixel at position d on the crossing's line in the gradient of an end with the
// given lever arm: the pixel would change by -gain if the edge moved to it, so the end is pushed by
// -gain over the distance it would have to go, eps keeping the quotient finite.
NR_HD NR_INLINE double edge_pull(double gain, double d, double at, double pixels_to_ndc, double lever,
                              double eps) {
  if (lever == 0.0) return 0.0;
  const double distance = (d - at) * pixels_to_ndc / lever;
  return -gain / (distance > 0.0 ? distance + eps : distance - eps);
}

// Perspective-correct barycentric weights of the vertices of a face at a sample: 0 to 1, together 1, however large or
// small the coordinates are.
NR_HD NR_INLINE void corner_weights(const double e[3], const double inverse_z[3], double weight[3]) {
  const double sum = e[0] + e[1] + e[2];
  double total = 0.0;
  for (int k = 0; k < 3; ++k) {
    weight[k] = greater(e[k] / sum * inverse_z[k], 0.0);
    total += weight[k];
  }
  const bool usual = total > 0.0 && total < INFINITY;
  for (int k = 0; k < 3; ++k) weight[k] = usual ? weight[k] / total : 1.0 / 3.0;
}

// Texture cube: axis k of the cube belongs to corner k of the stored face; on the back side axes 0
// and 2 are exchanged, which `corner` does. Eight texels with their trilinear weights.
struct TexelWeights {
  int64_t index[8];
  double weight[8];
};

NR_HD NR_INLINE TexelWeights texel_weights(const ScreenFace& f, const double e[3],
                                        const double inverse_z[3], int T, double eps) {
  const double sum = e[0] + e[1] + e[2], depth = depth_at(e, inverse_z);
  const double top = T > 1 ? T - 1 - eps : 0.0;
  int64_t place[3][2];  // of both texels along each axis, counted in texels of the cube
  double share[3][2];
  for (int k = 0; k < 3; ++k) {
    double position = e[k] / sum * (T - 1) * (depth * inverse_z[k]);
    position = position < top ? position : top;
    position = position > 0.0 ? position : 0.0;
    const int axis = f.corner[k], cell = static_cast<int>(position);
    const int64_t stride = axis == 2 ? 1 : axis == 1 ? T : static_cast<int64_t>(T) * T;
    place[axis][0] = cell * stride;
    place[axis][1] = (cell + 1 < T ? cell + 1 : T - 1) * stride;  // beyond the last texel only with share 0
    share[axis][1] = position - cell;
    share[axis][0] = 1.0 - share[axis][1];
  }
  TexelWeights out;
  for (int n = 0; n < 8; ++n) {
    const int a = n & 1, b = n >> 1 & 1, c = n >> 2;
    out.index[n] = place[0][a] + place[1][b] + place[2][c];
    out.weight[n] = share[0][a] * share[1][b] * share[2][c];
  }
  return out;
}

}  // namespace nr
