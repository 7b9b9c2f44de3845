// Smoothness on a GPU, as in smoothness.h, launched on the caller's stream without waiting. The order of
// floating-point sums varies, so results may differ in the last bits.
#pragma once

#include "smoothness.h"

namespace nr {

template <class T>
void smoothness_cuda(int device, void* stream, const SmoothnessScene&, const SmoothnessArrays<T>&);

}  // namespace nr
