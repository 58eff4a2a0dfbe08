// Rows of results: added, scaled, converted to the tensors' dtype. Included only by files
// that are compiled once per instruction set.
#pragma once

#include "cpu/simd/matmul.h"

namespace lck::LCK_ISA {

// Stores kLanes<float> results to p in their order.
inline void narrow(Vec<float> v, float* p) {
  store(v, p);
}
inline void narrow(Vec<double> v, double* p) {
  store(v, p);
}
inline void narrow(Vec<float> v, BFloat16* p) {
#if defined(__AVX512F__)
  store(_mm512_cvtepi32_epi16(bit_cast<__m512i>(round_upper_half(v) >> 16)), p);
#else
  for (int i = 0; i < kLanes<float>; ++i) from_acc(v[i], p + i);
#endif
}
inline void narrow(Vec<float> v, Float16* p) {
#if defined(__AVX512F__)
  store(_mm512_cvtps_ph(bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), p);
#elif defined(__F16C__)
  store(_mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), p);
#else
  for (int i = 0; i < kLanes<float>; ++i) from_acc(v[i], p + i);
#endif
}

// to (dim) += from.
template <typename A>
inline void add_row(const A* from, int64_t dim, A* to) {
  constexpr int L = kLanes<A>;
  int64_t d = 0;
  for (; d + L <= dim; d += L) store(load_bytes<Vec<A>>(to + d) + load_bytes<Vec<A>>(from + d), to + d);
  for (; d < dim; ++d) to[d] += from[d];
}

// to (dim) = factor * from.
template <typename A, typename T>
inline void store_row(const A* from, A factor, int64_t dim, T* to) {
  constexpr int L = kLanes<A>;
  int64_t d = 0;
  for (; d + L <= dim; d += L) narrow(load_bytes<Vec<A>>(from + d) * factor, to + d);
  for (; d < dim; ++d) from_acc(from[d] * factor, to + d);
}

}  // namespace lck::LCK_ISA
