// The smoothness of one edge and its gradient, for CPU and CUDA (Kato et al., CVPR 2018, section 4).
#pragma once

#include "portable.h"

namespace nr {

// The smoothness of an edge a -> b with the opposite corners c and d of its two faces is (cos + 1)^2, where
// cos is the cosine of the angle between the perpendiculars from the edge to c and to d; it is 0 if flat.
// Returns it, and its gradient by b, c and d; the gradient by a is minus their sum. eps is added in the same
// places as in the published program.
template <class T>
NR_HD NR_INLINE T wing_smoothness(const T (&a)[3], const T (&b)[3], const T (&c)[3], const T (&d)[3], T eps,
                                  T (&by_b)[3], T (&by_c)[3], T (&by_d)[3]) {
  const T e0 = b[0] - a[0], e1 = b[1] - a[1], e2 = b[2] - a[2];
  const T l0 = c[0] - a[0], l1 = c[1] - a[1], l2 = c[2] - a[2];
  const T r0 = d[0] - a[0], r1 = d[1] - a[1], r2 = d[2] - a[2];
  const T ee = e0 * e0 + e1 * e1 + e2 * e2;
  const T ll = l0 * l0 + l1 * l1 + l2 * l2, rr = r0 * r0 + r1 * r1 + r2 * r2;
  const T el = e0 * l0 + e1 * l1 + e2 * l2, er = e0 * r0 + e1 * r1 + e2 * r2;
  const T lr = l0 * r0 + l1 * r1 + l2 * r2;
  // The dot product and the lengths of the perpendiculars l - e (el / ee) and r - e (er / ee).
  const T inverse = T(1) / (ee + eps), tail = ee * inverse - T(2);
  const T dot = lr + el * er * inverse * tail;
  const T edge = sqrt(ee + eps), left = sqrt(ll + eps), right = sqrt(rr + eps);
  const T left_norm = T(1) / (edge * left + eps), right_norm = T(1) / (edge * right + eps);
  const T left_cos = el * left_norm, right_cos = er * right_norm;
  const T left_sin = sqrt(T(1) - left_cos * left_cos + eps), right_sin = sqrt(T(1) - right_cos * right_cos + eps);
  const T left_length = left * left_sin, right_length = right * right_sin;
  const T product = T(1) / (left_length * right_length + eps);
  const T cosine = dot * product;

  // The chain rule through the lines above, in reverse order.
  const T by_dot = T(2) * (cosine + T(1)) * product;
  const T by_product = -by_dot * cosine;
  const T by_left_length = by_product * right_length, by_right_length = by_product * left_length;
  const T by_left_cos = -by_left_length * left * left_cos / left_sin;
  const T by_right_cos = -by_right_length * right * right_cos / right_sin;
  const T by_left_norm = -by_left_cos * left_cos * left_norm;    // derivative by edge * left
  const T by_right_norm = -by_right_cos * right_cos * right_norm;
  const T by_el = by_dot * er * inverse * tail + by_left_cos * left_norm;
  const T by_er = by_dot * el * inverse * tail + by_right_cos * right_norm;
  const T twice_by_ll = (by_left_length * left_sin + by_left_norm * edge) / left;
  const T twice_by_rr = (by_right_length * right_sin + by_right_norm * edge) / right;
  const T twice_by_ee = T(2) * by_dot * el * er * inverse * inverse * (T(1) - ee * inverse - tail) +
                        (by_left_norm * left + by_right_norm * right) / edge;
  const T e[3] = {e0, e1, e2}, l[3] = {l0, l1, l2}, r[3] = {r0, r1, r2};
  for (int i = 0; i < 3; ++i) {
    by_b[i] = twice_by_ee * e[i] + by_el * l[i] + by_er * r[i];
    by_c[i] = twice_by_ll * l[i] + by_el * e[i] + by_dot * r[i];
    by_d[i] = twice_by_rr * r[i] + by_er * e[i] + by_dot * l[i];
  }
  return (cosine + T(1)) * (cosine + T(1));
}

}  // namespace nr
