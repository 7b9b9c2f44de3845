// The geometry of the rasteriser, shared by CPU and CUDA.
//
// Conventions. NDC is [-1, 1]^2, x right, y up, z away from the camera. Pixel coordinates are
// p = (ndc * size + size - 1) / 2: the centre of the first pixel is 0, of the last size - 1. Here y
// runs UP; code that reads or writes an image uses row = H - 1 - y.
//
// All decisions (is a centre inside, which face is nearest, between which pixels does an edge cross)
// are computed in double from the stored scalar, without fused multiply-add. So a float32 mesh and its
// float64 copy cover the same pixels, and so do CPU, CUDA and the NumPy reference. Depths are rounded
// to float32 before they are compared: coplanar faces then tie, and rounding noise does not order
// them. The lowest draw order wins a tie.
#pragma once

#include <cstring>

#include "portable.h"

namespace nr {

// The visible side of a face on the screen, with its vertices counter-clockwise.
struct ScreenFace {
  double x[3], y[3], z[3];  // pixel coordinates, and depth
  int corner[3];            // corner of the stored face of each vertex: (2, 1, 0) if reversed
  bool reversed;            // the camera sees its back (only with fill_back)
  bool clipped;             // it reaches behind the eye, see ClippedOutline
};

NR_HD NR_INLINE double to_pixel(double ndc, int size) { return (ndc * size + size - 1) * 0.5; }

// Orders the vertices of a face counter-clockwise, without branches. Returns false if the face cannot be
// drawn: the camera sees its back and fill_back is false, it has no area on the screen (the original's
// facing test lets it pass, but it has no barycentric coordinates), or a corner is not finite.
//
// `way` is -1 if an odd number of corners lies behind the eye: each such corner mirrors the face on the screen.
NR_HD NR_INLINE bool turn_to_viewer(double x[3], double y[3], double z[3], bool fill_back, bool& reversed,
                                    double way = 1.0) {
  double odd = 0.0;  // becomes NaN if any number is not finite
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
// The kernels clip them, not the camera code. Dividing by z loses nothing: (x z, y z, z) is the point in camera space
// again, up to the scale of x and y. So homogeneous coordinates describe the whole face, and the formulas for other
// faces hold with signs: barycentric weight k is e[k] / z[k] divided by the sum of these quotients, and the depth is
// the sum of e divided by that sum. A sample is inside if all weights are >= 0 and near < depth. This adds no triangles
// and allocates nothing; no array size depends on the vertices, so a CUDA graph can record it; it works for every
// camera and operator; and a face in front of the eye costs one comparison more. Only the edges need more work: see
// ClippedOutline.
//
// A vertex at exactly z = 0 would have no x and y; the cameras move it to z = -1e-6.

// The depth at which a face is clipped: `near`, or just in front of the eye if near is 0.
NR_HD NR_INLINE double clip_plane(const double z[3], double near) {
  return near > 0.0 ? near : 1e-6 * max3(z[0], z[1], z[2]);
}

// Whether a sample with near < depth lies inside a face that reaches behind the eye.
NR_HD NR_INLINE bool clipped_covers(const double e[3], const double inverse_z[3]) {
  const double sum = e[0] + e[1] + e[2];
  return (e[0] * inverse_z[0] * sum >= 0.0) & (e[1] * inverse_z[1] * sum >= 0.0) &
         (e[2] * inverse_z[2] * sum >= 0.0);
}

// Loads the visible side of a face; returns false if there is none. `clips`: vertices with z <= 0 are behind the eye.
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

// The rank of a face in depth ties: backs come after all fronts.
NR_HD NR_INLINE uint32_t draw_order(int64_t face, bool reversed, int64_t num_faces) {
  return static_cast<uint32_t>(reversed ? face + num_faces : face);
}

// Edge functions. If e[k] >= 0 for all k, the point is inside or on an edge. e[k] / sum(e) is the
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

// Visibility key: the smallest key wins. A depth rounded to float32 and stored as a double leaves the
// lowest 29 bits free for the draw order. The bits of positive doubles are ordered like integers, those
// of negative doubles in reverse. So one atomicMin on the key is the whole depth test.
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

// Position along a line, in pixels, at which an edge crosses it. The edge runs from (a0, a1) to (b0, b1): a0 and b0 are
// positions across the lines, a1 and b1 along them. Multiplying before dividing is exact at both ends of the edge.
NR_HD NR_INLINE double crossed_at(double a0, double b0, double a1, double b1, double line) {
  return a1 + (b1 - a1) * (line - a0) / (b0 - a0);
}
// How far the crossing moves when end a moves by 1. For end b it is 1 minus this.
NR_HD NR_INLINE double lever_of_a(double a0, double b0, double line) { return (b0 - line) / (b0 - a0); }

// An edge a -> b of a face, and the lines of pixel centres, rows or columns, that it crosses (NMR, CVPR
// 2018, sec. 3). `axis` is the direction in which a crossing may move: 0 along a row (x), 1 along a
// column (y).
struct CrossedLines {
  double a0, b0, a1, b1;  // the edge's ends across the lines and along them
  double direction;       // +1 or -1: the direction out of the face along `axis`
  double least, most;     // limits of the last pixel inside
  int length;             // length of a line in pixels
  int first, last;        // the lines crossed; an empty range if the edge is parallel to them

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
  // The last pixel inside the face, for a crossing at `at`; a centre on the edge is inside. -1 if this pixel
  // or the next one outside is not in the image.
  NR_HD NR_INLINE double inside(double at) const {
    const double pixel = direction * floor(direction * at);
    const bool there = (pixel >= least) & (pixel <= most);
    return there ? pixel : -1.0;
  }
  NR_HD NR_INLINE double lever_a(double line) const { return lever_of_a(a0, b0, line); }
};

// The outline of the part in front of the near plane, for a face that reaches behind the eye. Its points are the
// face's vertices in front of the plane and the points where edges cross the plane, which move with both ends of the
// edge. The rules of NMR apply to the three or four edges of the outline as to those of any face.
struct ClippedOutline {
  int count = 0;
  double x[4], y[4], plane;  // pixels
  int from[4], to[4];        // the two vertices of the ScreenFace between which a point lies; equal for a vertex
  double share[4];           // weight of `to`

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

  // Distributes the gradient of point p along an axis, in NDC, to the corners of the stored face with
  // move(corner, axis, value). `length` is the length of a line along the axis in pixels.
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

// The bounding box of a face in samples.
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
    if (!(odd == 0.0)) low_x = low_y = -1.0, high_x = sW, high_y = sH;  // the outline overflowed
    const double margin = 1e-3;  // far above the rounding errors of a crossing
    *this = SampleBox(low_x - margin, high_x + margin, low_y - margin, high_y + margin, sH, sW);
  }

 private:
  NR_HD SampleBox(double low_x, double high_x, double low_y, double high_y, int sH, int sW)
      : left(first_in(low_x, sW)), right(last_in(high_x, sW)), bottom(first_in(low_y, sH)), top(last_in(high_y, sH)) {}
};

// What one pixel at position d on the crossing's line adds to the gradient of an edge's end. If the edge
// moved to the pixel, the loss would change by -gain. The gradient is -gain divided by the distance that the
// end would have to move, which is the pixel's distance over the end's lever; eps keeps the quotient finite.
// The lever is multiplied out, so that one division is enough.
NR_HD NR_INLINE double edge_pull(double gain, double d, double at, double pixels_to_ndc, double lever,
                              double eps) {
  if (lever == 0.0) return 0.0;
  const double distance = (d - at) * pixels_to_ndc, least = eps * lever;
  return -gain * lever / (distance > 0.0 ? distance + least : distance - least);
}

// Perspective-correct barycentric weights of the vertices of a face at a sample. They lie in [0, 1] and add up to 1,
// however large or small the coordinates are.
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

// The eight texels around a sample, with their trilinear weights. Axis k of a texture cube belongs to corner
// k of the stored face; on the back `corner` swaps axes 0 and 2.
struct TexelWeights {
  int count;  // 8, or 1 of a cube of one texel, which has no interpolation to pay for
  int64_t index[8];
  double weight[8];
};

NR_HD NR_INLINE TexelWeights texel_weights(const ScreenFace& f, const double e[3],
                                        const double inverse_z[3], int T, double eps) {
  TexelWeights out;
  out.count = T > 1 ? 8 : 1;
  if (T == 1) {
    out.index[0] = 0;
    out.weight[0] = 1.0;
    return out;
  }
  const double sum = e[0] + e[1] + e[2], depth = depth_at(e, inverse_z);
  const double top = T - 1 - eps;
  int64_t place[3][2];  // offsets of both texels along each axis, in texels of the cube
  double share[3][2];
  for (int k = 0; k < 3; ++k) {
    double position = e[k] / sum * (T - 1) * (depth * inverse_z[k]);
    position = position < top ? position : top;
    position = position > 0.0 ? position : 0.0;
    const int axis = f.corner[k], cell = static_cast<int>(position);
    const int64_t stride = axis == 2 ? 1 : axis == 1 ? T : static_cast<int64_t>(T) * T;
    place[axis][0] = cell * stride;
    place[axis][1] = (cell + 1 < T ? cell + 1 : T - 1) * stride;  // past the last texel the weight is 0
    share[axis][1] = position - cell;
    share[axis][0] = 1.0 - share[axis][1];
  }
  for (int n = 0; n < 8; ++n) {
    const int a = n & 1, b = n >> 1 & 1, c = n >> 2;
    out.index[n] = place[0][a] + place[1][b] + place[2][c];
    out.weight[n] = share[0][a] * share[1][b] * share[2][c];
  }
  return out;
}

}  // namespace nr
