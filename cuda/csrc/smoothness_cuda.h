// Smoothness on a GPU: as smoothness.h, launched on the caller's stream without waiting. Sums of
// floating-point numbers come in any order.
#pragma once

#include "smoothness.h"

namespace nr {

template <class T>
void smoothness_cuda(int device, void* stream, const SmoothnessScene&, const SmoothnessArrays<T>&);

}  // namespace nr
