// exp and tanh of vectors. Included only by files that are compiled once per instruction set.
#pragma once

#include "cpu/simd/vec.h"

namespace lck::LCK_ISA {

inline constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// The integer vector that a comparison of Vec<A> returns.
template <typename A>
struct IntOf;
template <>
struct IntOf<float> {
  using type = int32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
};
template <typename A>
using VecInt = Vec<typename IntOf<A>::type>;

template <typename A>
inline Vec<A> splat(A x) {
  return Vec<A>{} + x;
}

// x rounded to its type, so that the product x is not fused into a multiply-add.
template <typename V>
inline V rounded(V x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__x86_64__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#else
  asm("" : "+m"(x));
#endif
  return x;
}

// a where a > b, otherwise b, also if one of them is NaN.
inline Vec<float> lane_max(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return bit_cast<Vec<float>>(_mm512_max_ps(bit_cast<__m512>(a), bit_cast<__m512>(b)));
#elif defined(__AVX2__)
  return bit_cast<Vec<float>>(_mm256_max_ps(bit_cast<__m256>(a), bit_cast<__m256>(b)));
#elif defined(__SSE2__)
  return bit_cast<Vec<float>>(_mm_max_ps(bit_cast<__m128>(a), bit_cast<__m128>(b)));
#else
  return a > b ? a : b;
#endif
}
inline Vec<double> lane_max(Vec<double> a, Vec<double> b) {
  return a > b ? a : b;
}

// e^x = 2^n 2^f with n + f = x log2(e): the minimax polynomial of degree 5 for 2^f on [-0.5, 0.5]. Relative
// error below 2e-7 + 2e-8 |x|; exactly 0 for x <= -88.03; NaN stays NaN. For x <= 88.
inline Vec<float> exp(Vec<float> x) {
  constexpr float kLeast = static_cast<float>(-127 * kLn2), kToLog2 = static_cast<float>(kLog2E);
  x = lane_max(splat(kLeast), x);
  const Vec<float> shifted = x * kToLog2 + 12582912.0f;  // 1.5 * 2^23: n in the mantissa's low bits
  const Vec<float> f = x * kToLog2 - (shifted - 12582912.0f);
  Vec<float> p = splat(1.3276471736147922e-3f) * f + 9.6755415401765955e-3f;
  p = p * f + 5.5507132760977955e-2f;
  p = p * f + 2.4022119720072979e-1f;
  p = p * f + 6.9314696706203893e-1f;
  p = p * f + 1.0000000716554325f;
  const VecInt<float> exponent = (bit_cast<VecInt<float>>(shifted) << 23) + (127 << 23);
  return p * bit_cast<Vec<float>>(exponent);
}

inline Vec<double> exp(Vec<double> x) {
  Vec<double> y;
  for (int i = 0; i < kLanes<double>; ++i) y[i] = __builtin_exp(x[i]);
  return y;
}

// Odd polynomial below 0.625 (no cancellation), 1 - 2 / (e^2x + 1) above. Source: Cephes, tanhf.
inline Vec<float> tanh(Vec<float> x) {
  const Vec<float> size = x < 0.0f ? -x : x;
  const Vec<float> square = x * x;
  Vec<float> p = splat(-5.70498872745e-3f) * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const Vec<float> near_zero = p * square * x + x;
  const Vec<float> bounded = size > 20.0f ? splat(20.0f) : size;
  const Vec<float> far = 1.0f - 2.0f / (exp(2.0f * bounded) + 1.0f);
  return size < 0.625f ? near_zero : (x < 0.0f ? -far : far);
}

inline Vec<double> tanh(Vec<double> x) {
  Vec<double> y;
  for (int i = 0; i < kLanes<double>; ++i) y[i] = __builtin_tanh(x[i]);
  return y;
}

inline float log(float x) {
  return __builtin_logf(x);
}
inline double log(double x) {
  return __builtin_log(x);
}
inline float exp(float x) {
  return __builtin_expf(x);
}
inline double exp(double x) {
  return __builtin_exp(x);
}

template <typename A>
inline constexpr A kInf = static_cast<A>(__builtin_inff());
template <typename A>
inline constexpr A kNan = static_cast<A>(__builtin_nanf(""));

// A NaN whose bits survive rounding to 16 bits.
template <typename A>
inline Vec<A> plain_nan(Vec<A> x) {
  return x == x ? x : splat(kNan<A>);
}

// Whether a lane of a comparison's result is set.
template <typename A>
inline bool any(VecInt<A> mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask(bit_cast<__m512i>(mask), bit_cast<__m512i>(mask)) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256(bit_cast<__m256i>(mask), bit_cast<__m256i>(mask));
#else
  bool found = false;
  for (int i = 0; i < kLanes<A>; ++i) found |= mask[i] != 0;
  return found;
#endif
}

// The largest lane; lanes must not be NaN.
template <typename A>
inline A largest(Vec<A> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4) return _mm512_reduce_max_ps(bit_cast<__m512>(v));
#endif
  A most = v[0];
  for (int i = 1; i < kLanes<A>; ++i) most = v[i] > most ? v[i] : most;
  return most;
}

}  // namespace lck::LCK_ISA
