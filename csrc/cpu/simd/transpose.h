// Interleaving, transposing and summing across vectors. Included only by files that are compiled once per
// instruction set.
#pragma once

#include "cpu/simd/vec.h"

namespace lck::LCK_ISA {

// a0 b0 a1 b1 ...: the lower halves of a and b interleaved, and the upper ones.
template <typename E>
inline void interleave(Vec<E> a, Vec<E> b, Vec<E>* low, Vec<E>* high) {
  constexpr int L = kLanes<E>;
  if constexpr (L == 16) {
    *low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    *high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  } else if constexpr (L == 8) {
    *low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    *high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  } else if constexpr (L == 4) {
    *low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    *high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  } else {
    *low = __builtin_shufflevector(a, b, 0, 2);
    *high = __builtin_shufflevector(a, b, 1, 3);
  }
}

// A group's accumulators in the order of the elements.
template <typename T>
inline void in_element_order(Group<T>*) {}
template <>
inline void in_element_order(Group<BFloat16>* x) {
  const Group<BFloat16> halves = *x;
  interleave<float>(halves.v[0], halves.v[1], &x->v[0], &x->v[1]);
}

// x (L, L) becomes its transpose: log2(L) perfect shuffles of its rows.
template <typename E>
inline void transpose(Vec<E> (&x)[kLanes<E>]) {
  constexpr int L = kLanes<E>;
  Vec<E> y[L];
#pragma GCC unroll 4
  for (int stage = 1; stage < L; stage *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < L / 2; ++i) interleave<E>(x[i], x[i + L / 2], &y[2 * i], &y[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) x[i] = y[i];
  }
}

// Lane i of the result is the sum of x[i]'s lanes; x is overwritten.
template <typename E>
inline Vec<E> lane_sums(Vec<E> (&x)[kLanes<E>]) {
#pragma GCC unroll 4
  for (int half = kLanes<E> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      Vec<E> low, high;
      interleave<E>(x[i], x[i + half], &low, &high);
      x[i] = low + high;
    }
  }
  return x[0];
}

}  // namespace lck::LCK_ISA
