// Vectors of the instruction set this file is compiled for, and elements to and from them.
// Included only by files that are compiled once per instruction set, with LCK_ISA naming it.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
  #include <immintrin.h>
#endif

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

// A: what T is accumulated in. kLanes: how many of A a vector holds.
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

inline constexpr int kFloats = kLanes<float>;
typedef uint32_t VecU32 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t VecU16 __attribute__((vector_size(kVectorBytes / 2)));

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

template <typename T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
// pack: a vector of accumulators as elements of type T, ready to be stored.
inline Vec<float> pack(Vec<float> v, const float*) {
  return v;
}
inline Vec<double> pack(Vec<double> v, const double*) {
  return v;
}

inline Vec<float> load(const BFloat16* p) {
  VecU16 half;
  std::memcpy(&half, p, sizeof(half));
  return bit_cast<Vec<float>>(__builtin_convertvector(half, VecU32) << 16);
}
inline VecU16 pack(Vec<float> v, const BFloat16*) {
  const VecU32 bits = bit_cast<VecU32>(v);
  const VecU32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecU32 ordered = bit_cast<VecU32>(v == v);
  const VecU32 result = (rounded & ordered) | (((bits >> 16) | 0x40u) & ~ordered);
  return __builtin_convertvector(result, VecU16);
}

inline Vec<float> load(const Float16* p) {
#if defined(__AVX512F__)
  return bit_cast<Vec<float>>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
  return bit_cast<Vec<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Vec<float> v;
  for (int i = 0; i < kFloats; ++i) v[i] = to_acc(p[i]);
  return v;
#endif
}
inline VecU16 pack(Vec<float> v, const Float16*) {
#if defined(__AVX512F__)
  return bit_cast<VecU16>(
      _mm512_cvtps_ph(bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  return bit_cast<VecU16>(
      _mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  Float16 half[kFloats];
  for (int i = 0; i < kFloats; ++i) from_acc(v[i], half + i);
  return bit_cast<VecU16>(half);
#endif
}

template <typename T>
inline void store(Vec<Acc<T>> v, T* p) {
  const auto elements = pack(v, p);
  std::memcpy(p, &elements, sizeof(elements));
}

// Stores past the caches a vector of elements already in their final form; p is aligned to its size.
template <typename V>
inline void stream(V v, void* p) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), bit_cast<__m512i>(v));
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32) return _mm256_stream_si256(static_cast<__m256i*>(p), bit_cast<__m256i>(v));
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(V) == 16) return _mm_stream_si128(static_cast<__m128i*>(p), bit_cast<__m128i>(v));
#endif
  std::memcpy(p, &v, sizeof(v));
}

// Makes streamed stores visible to other threads before what follows.
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <typename A>
inline A sum(Vec<A> v) {
  A total = 0;
  for (int i = 0; i < kLanes<A>; ++i) total += v[i];
  return total;
}

}  // namespace lck::LCK_ISA
