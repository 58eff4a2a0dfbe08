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

// All of x are computed before what follows, so that GCC does not order the instructions vector by vector:
// with AVX2, where the registers hold few vectors, they would wait for each other.
template <int N>
[[gnu::always_inline]] inline void side_by_side([[maybe_unused]] Vec<float> (&x)[N]) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (N == 2) asm volatile("" : "+x"(x[0]), "+x"(x[1]));
#endif
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
// a where a < b, otherwise b, also if one of them is NaN.
inline Vec<float> lane_min(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return bit_cast<Vec<float>>(_mm512_min_ps(bit_cast<__m512>(a), bit_cast<__m512>(b)));
#elif defined(__AVX2__)
  return bit_cast<Vec<float>>(_mm256_min_ps(bit_cast<__m256>(a), bit_cast<__m256>(b)));
#elif defined(__SSE2__)
  return bit_cast<Vec<float>>(_mm_min_ps(bit_cast<__m128>(a), bit_cast<__m128>(b)));
#else
  return a < b ? a : b;
#endif
}

// Minimax polynomials for 2^f on [-0.5, 0.5], highest power first; relative errors 7.5e-8 and 2.6e-6.
struct Degree5 {
  static constexpr float kFactors[] = {1.3276471736147922e-3f, 9.6755415401765955e-3f, 5.5507132760977955e-2f,
                                       2.4022119720072979e-1f, 6.9314696706203893e-1f, 1.0000000716554325f};
};
struct Degree4 {
  static constexpr float kFactors[] = {9.5701019080843622e-3f, 5.5917860319305158e-2f, 2.4024744827943950e-1f,
                                       6.9312181473677048e-1f, 9.9999926144571438e-1f};
};

// p = 2^f of N vectors.
template <typename Polynomial, int N>
[[gnu::always_inline]] inline void polynomial_of(const Vec<float> (&f)[N], Vec<float> (&p)[N]) {
  constexpr int kSteps = sizeof(Polynomial::kFactors) / sizeof(float);
  for (int i = 0; i < N; ++i) p[i] = splat(Polynomial::kFactors[0]);
#pragma GCC unroll 6
  for (int k = 1; k < kSteps; ++k) {
    for (int i = 0; i < N; ++i) p[i] = p[i] * f[i] + Polynomial::kFactors[k];
    side_by_side(p);
  }
}
template <typename Polynomial>
inline Vec<float> polynomial_of(Vec<float> x) {
  const Vec<float> f[1] = {x};
  Vec<float> p[1];
  polynomial_of<Polynomial>(f, p);
  return p[0];
}

inline constexpr float kLog2EFloat = static_cast<float>(kLog2E);

#if defined(__AVX512F__)
// p 2^n with whole n for lanes with x > least or NaN, otherwise 0: no subnormal results, which are slow.
inline Vec<float> times_power(Vec<float> p, Vec<float> n, Vec<float> x, float least) {
  const __mmask16 there = _mm512_cmp_ps_mask(bit_cast<__m512>(x), _mm512_set1_ps(least), _CMP_NLE_UQ);
  return bit_cast<Vec<float>>(_mm512_maskz_scalef_ps(there, bit_cast<__m512>(p), bit_cast<__m512>(n)));
}
inline Vec<float> nearest_whole(Vec<float> x) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return bit_cast<Vec<float>>(_mm512_roundscale_ps(bit_cast<__m512>(x), kNearest));
}
#else
// A whole number n in [-127, 128] that is added to it is not rounded; the sum's lowest bits are 2^n's
// exponent.
inline constexpr float kWhole = 12582912 + 127;  // 1.5 * 2^23 + bias
  #if defined(__AVX2__)
inline Vec<float> nearest_whole(Vec<float> x) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return bit_cast<Vec<float>>(_mm256_round_ps(bit_cast<__m256>(x), kNearest));
}
inline Vec<float> least_integer(Vec<float> x, float most) {
  return bit_cast<Vec<float>>(_mm256_min_epi32(bit_cast<__m256i>(x), bit_cast<__m256i>(splat(most))));
}
  #endif
inline Vec<float> times_power(Vec<float> p, Vec<float> whole_and_n) {
  return p * bit_cast<Vec<float>>(bit_cast<VecInt<float>>(whole_and_n) << 23);
}
#endif

// e^x and 2^x as 2^n 2^f. Relative error of e^x below 2e-7 + 2e-8 |x|, of 2^x below 2e-7 with Degree5;
// exactly 0 for x <= -88.03 (-127); NaN stays NaN; e^x is for x <= 88, 2^x becomes inf.
inline Vec<float> exp(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> n = nearest_whole(rounded(x * kLog2EFloat));
  return times_power(polynomial_of<Degree5>(x * kLog2EFloat - n), n, x, -87.33f);
#else
  x = lane_max(splat(static_cast<float>(-127 * kLn2)), x);
  const Vec<float> n = x * kLog2EFloat + kWhole;
  return times_power(polynomial_of<Degree5>(x * kLog2EFloat - (n - kWhole)), n);
#endif
}
template <typename Polynomial, int N>
[[gnu::always_inline]] inline void exp2(Vec<float> (&x)[N]) {
#if defined(__AVX512F__)
  for (Vec<float>& v : x) {
    const Vec<float> n = nearest_whole(v);
    v = times_power(polynomial_of<Polynomial>(v - n), n, v, -126);
  }
#else
  Vec<float> n[N], p[N];
  side_by_side(x);
  for (Vec<float>& v : x) v = lane_max(splat(-127.0f), v);
  side_by_side(x);
  #if defined(__AVX2__)
  // As integers, positive floats have the same order; this minimum starts on any of four units. It precedes
  // the difference, which would be NaN for inf.
  for (int i = 0; i < N; ++i) n[i] = least_integer(nearest_whole(x[i]), 128.0f);
  side_by_side(n);
  for (int i = 0; i < N; ++i) x[i] -= n[i];
  side_by_side(x);
  for (int i = 0; i < N; ++i) n[i] = n[i] + kWhole;
  #else
  for (int i = 0; i < N; ++i) {
    x[i] = lane_min(splat(128.0f), x[i]);
    n[i] = x[i] + kWhole;
    x[i] -= n[i] - kWhole;
  }
  #endif
  polynomial_of<Polynomial>(x, p);
  for (int i = 0; i < N; ++i) x[i] = times_power(p[i], n[i]);
#endif
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

// Whether a lane is above the limit.
template <typename A>
inline bool any_above(Vec<A> v, A limit) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4)
    return _mm512_cmp_ps_mask(bit_cast<__m512>(v), _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
#endif
  return any<A>(v > limit);
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
