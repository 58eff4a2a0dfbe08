// Vectors of the instruction set of the build, and conversion of elements.
// Included only by files that are compiled once per instruction set, with LCK_ISA naming it.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
  #include <immintrin.h>
#endif

#include "params.h"

namespace lck::LCK_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// choose.operator()<T>() with the element type T of the dtype. The avx512_bf16 build has bfloat16 alone
// (cpu/common/isa_dispatch.h).
template <typename Choose>
inline decltype(auto) for_element_of([[maybe_unused]] DType dtype, const Choose& choose) {
#if defined(__AVX512BF16__)
  return choose.template operator()<BFloat16>();
#else
  switch (dtype) {
    case DType::kFloat64:
      return choose.template operator()<double>();
    case DType::kBFloat16:
      return choose.template operator()<BFloat16>();
    case DType::kFloat16:
      return choose.template operator()<Float16>();
    default:
      return choose.template operator()<float>();
  }
#endif
}

// A: the accumulator type of T. kLanes: elements of type A in a vector.
template <typename T>
struct Accumulate {
  using A = float;
};
template <>
struct Accumulate<double> {
  using A = double;
};
template <typename T>
using Acc = typename Accumulate<T>::A;

template <typename A>
struct VecOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <typename A>
using Vec = typename VecOf<A>::type;
template <typename A>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

typedef uint32_t VecU32 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t VecU16 __attribute__((vector_size(kVectorBytes)));

// A group: the accumulators of a vector of elements T, one vector or, for 16-bit elements, two.
template <typename T>
inline constexpr int kGroup = static_cast<int>(sizeof(Acc<T>) / sizeof(T));
template <typename T>
inline constexpr int kGroupElements = kVectorBytes / static_cast<int>(sizeof(T));
template <typename T>
struct Group {
  Vec<Acc<T>> v[kGroup<T>];
};

template <typename To, typename From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline float to_acc(float x) {
  return x;
}
inline double to_acc(double x) {
  return x;
}
inline float to_acc(BFloat16 x) {
  return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

// Scales the exponent by a multiplication, which also normalises subnormals; inf and NaN keep theirs.
inline float to_acc(Float16 x) {
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const float scaled = bit_cast<float>(magnitude << 13) * bit_cast<float>(0x77800000u);  // 2^112
  const uint32_t special =
      magnitude >= 0x7c00u ? 0x7f800000u | (magnitude << 13) : bit_cast<uint32_t>(scaled);
  return bit_cast<float>(sign | special);
}

inline void from_acc(float x, float* out) {
  *out = x;
}
inline void from_acc(double x, double* out) {
  *out = x;
}

// Round to nearest even; NaN stays NaN.
inline void from_acc(float x, BFloat16* out) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out->bits = static_cast<uint16_t>(x == x ? rounded : (bits >> 16) | 0x40u);
}

// Round to nearest even; overflow gives inf, NaN stays NaN.
inline void from_acc(float x, Float16* out) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    // Adding 0.5 leaves the subnormal's bits, rounded, at the end of the mantissa.
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

template <typename V>
inline V load_bytes(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

// load: elements as a group, whose order depends on the type.
// pack: the inverse, of a group with results of arithmetic.
inline Group<float> load(const float* p) {
  return {{load_bytes<Vec<float>>(p)}};
}
inline Group<double> load(const double* p) {
  return {{load_bytes<Vec<double>>(p)}};
}
inline Vec<float> pack(const Group<float>& g) {
  return g.v[0];
}
inline Vec<double> pack(const Group<double>& g) {
  return g.v[0];
}

// Even elements, then odd ones: both halves of each 32-bit lane, without a shuffle.
inline Group<BFloat16> load(const BFloat16* p) {
  const VecU32 pairs = load_bytes<VecU32>(p);
  return {{bit_cast<Vec<float>>(pairs << 16), bit_cast<Vec<float>>(pairs & 0xffff0000u)}};
}

// The float's bits with the upper half rounded to nearest even. The lower half of a NaN must not be all ones,
// so that rounding does not carry; this holds for NaN from 16-bit elements or from arithmetic.
inline VecU32 round_upper_half(Vec<float> v) {
#if defined(__AVX512F__)
  const __m512i bits = bit_cast<__m512i>(v);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i biased = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return bit_cast<VecU32>(_mm512_mask_add_epi32(biased, odd, biased, _mm512_set1_epi32(1)));
#else
  const VecU32 bits = bit_cast<VecU32>(v);
  return bits + (0x7fffu + ((bits >> 16) & 1u));
#endif
}

inline VecU32 pack(const Group<BFloat16>& g) {
  return (round_upper_half(g.v[0]) >> 16) | (round_upper_half(g.v[1]) & 0xffff0000u);
}

inline Group<Float16> load(const Float16* p) {
#if defined(__AVX512F__)
  const __m256i low = load_bytes<__m256i>(p), high = load_bytes<__m256i>(p + kGroupElements<Float16> / 2);
  return {{bit_cast<Vec<float>>(_mm512_cvtph_ps(low)), bit_cast<Vec<float>>(_mm512_cvtph_ps(high))}};
#elif defined(__F16C__)
  const __m128i low = load_bytes<__m128i>(p), high = load_bytes<__m128i>(p + kGroupElements<Float16> / 2);
  return {{bit_cast<Vec<float>>(_mm256_cvtph_ps(low)), bit_cast<Vec<float>>(_mm256_cvtph_ps(high))}};
#else
  Group<Float16> g;
  for (int i = 0; i < kGroupElements<Float16>; ++i) g.v[i / kLanes<float>][i % kLanes<float>] = to_acc(p[i]);
  return g;
#endif
}
inline VecU16 pack(const Group<Float16>& g) {
#if defined(__AVX512F__)
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m256i low = _mm512_cvtps_ph(bit_cast<__m512>(g.v[0]), kNearest);
  const __m256i high = _mm512_cvtps_ph(bit_cast<__m512>(g.v[1]), kNearest);
  return bit_cast<VecU16>(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
#elif defined(__F16C__)
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m128i low = _mm256_cvtps_ph(bit_cast<__m256>(g.v[0]), kNearest);
  const __m128i high = _mm256_cvtps_ph(bit_cast<__m256>(g.v[1]), kNearest);
  return bit_cast<VecU16>(_mm256_set_m128i(high, low));
#else
  Float16 half[kGroupElements<Float16>];
  for (int i = 0; i < kGroupElements<Float16>; ++i) {
    from_acc(g.v[i / kLanes<float>][i % kLanes<float>], half + i);
  }
  return bit_cast<VecU16>(half);
#endif
}

template <typename V>
inline void store(V v, void* p) {
  std::memcpy(p, &v, sizeof(v));
}

// Stores a vector with a streaming store; p is aligned to its size.
template <typename V>
inline void stream(V v, void* p) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(p), bit_cast<__m512i>(v));
#elif defined(__AVX2__)
  _mm256_stream_si256(static_cast<__m256i*>(p), bit_cast<__m256i>(v));
#elif defined(__SSE2__)
  _mm_stream_si128(static_cast<__m128i*>(p), bit_cast<__m128i>(v));
#else
  store(v, p);
#endif
}

// Makes streamed stores visible to other threads before what follows.
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <typename A>
inline A sum(Vec<A> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4) return _mm512_reduce_add_ps(bit_cast<__m512>(v));
#endif
  A total = 0;
  for (int i = 0; i < kLanes<A>; ++i) total += v[i];
  return total;
}

}  // namespace lck::LCK_ISA
