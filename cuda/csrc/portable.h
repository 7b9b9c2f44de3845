// Macros that let the C++ compiler and nvcc share headers, and let one binary use the vectors of many processors.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define NR_HD __host__ __device__
#else
#define NR_HD
#endif

// Hot CPU loops are compiled once for each x86-64 level, and the loader picks a clone when the module
// loads. So a wheel uses the vectors of the machine it runs on. Contraction to FMA stays off
// (-ffp-contract=off in setup.py): the clones differ in speed, never in which pixels they cover.
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && \
    !defined(__clang__) && !defined(__CUDACC__) && !defined(NR_NO_CLONES)
#define NR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define NR_CLONES
#endif

#if defined(__GNUC__)
#define NR_LAMBDA_INLINE __attribute__((always_inline))
#define NR_INLINE inline NR_LAMBDA_INLINE
#else
#define NR_LAMBDA_INLINE
#define NR_INLINE inline
#endif

namespace nr {

NR_HD NR_INLINE double lesser(double a, double b) { return a < b ? a : b; }
NR_HD NR_INLINE double greater(double a, double b) { return a > b ? a : b; }
NR_HD NR_INLINE double min3(double a, double b, double c) {
  return a < b ? (a < c ? a : c) : (b < c ? b : c);
}
NR_HD NR_INLINE double max3(double a, double b, double c) {
  return a > b ? (a > c ? a : c) : (b > c ? b : c);
}

// The first and last integer in [lo, hi] that also lie in [0, size). No number is cast that an int cannot
// hold, whatever the coordinates are. NaN gives an empty range.
NR_HD NR_INLINE int first_in(double lo, int size) {
  if (!(lo > 0.0)) return lo <= 0.0 ? 0 : size;
  return lo >= size ? size : static_cast<int>(ceil(lo));
}
NR_HD NR_INLINE int last_in(double hi, int size) {
  if (!(hi >= 0.0)) return -1;
  return hi >= size - 1 ? size - 1 : static_cast<int>(floor(hi));
}

NR_HD NR_INLINE int bits_set(uint64_t bits) {
#if defined(__CUDA_ARCH__)
  return __popcll(bits);
#else
  return __builtin_popcountll(bits);
#endif
}
NR_HD NR_INLINE int lowest_bit(uint32_t bits) {  // position of the lowest bit that is set; bits must not be 0
#if defined(__CUDA_ARCH__)
  return __ffs(bits) - 1;
#else
  return __builtin_ctz(bits);
#endif
}

}  // namespace nr
