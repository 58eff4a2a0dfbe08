// Weighted sums of rows. Included only by files that are compiled once per instruction set.
#pragma once

#include "cpu/simd/vec.h"

namespace lck::LCK_ISA {

// Prefetch distance: with the arithmetic of 16-bit elements the processor's own window is too short.
inline constexpr int64_t kPrefetchBytes = 2048;

// The rows and weights of one weighted sum.
template <typename T>
struct Terms {
  const T** rows;
  Acc<T>* weights;
  int64_t count;
};

// Columns [d, d + kGroups groups) of out = sum of weight * row. Inlined, so that a known count is unrolled.
template <typename T, int kGroups, bool kStream>
__attribute__((always_inline)) inline void sum_columns(const T* const* rows, const Acc<T>* weights,
                                                       int64_t count, T* out, int64_t d) {
  Group<T> total[kGroups] = {};
  for (int64_t n = 0; n < count; ++n) {
    for (int j = 0; j < kGroups; ++j) {
      const T* from = rows[n] + d + j * kGroupElements<T>;
      __builtin_prefetch(reinterpret_cast<const char*>(from) + kPrefetchBytes);
      const Group<T> x = load(from);
      for (int h = 0; h < kGroup<T>; ++h) total[j].v[h] += x.v[h] * weights[n];
    }
  }
  for (int j = 0; j < kGroups; ++j) {
    T* to = out + d + j * kGroupElements<T>;
    if constexpr (kStream) {
      stream(pack(total[j]), to);
    } else {
      store(pack(total[j]), to);
    }
  }
}

// out (dim) = sum of weight * row over N terms (N = 0: any number, read from terms). kStream: out is aligned.
template <typename T, int N, bool kStream>
void weighted_sum(const Terms<T>& terms, T* out, int64_t dim) {
  using A = Acc<T>;
  constexpr int kGroups = 4 / kGroup<T>, kWidth = kGroupElements<T>;
  const int64_t count = N > 0 ? N : terms.count;
  // Copies of a known number of terms stay in registers: out could alias the arrays.
  const T* near_rows[N > 0 ? N : 1];
  A near_weights[N > 0 ? N : 1];
  for (int n = 0; n < N; ++n) near_rows[n] = terms.rows[n], near_weights[n] = terms.weights[n];
  const T* const* rows = N > 0 ? near_rows : terms.rows;
  const A* weights = N > 0 ? near_weights : terms.weights;
  int64_t d = 0;
  for (; d + kGroups * kWidth <= dim; d += kGroups * kWidth) {
    sum_columns<T, kGroups, kStream>(rows, weights, count, out, d);
  }
  for (; d + kWidth <= dim; d += kWidth) sum_columns<T, 1, kStream>(rows, weights, count, out, d);
  if (d == dim) return;
  // The last columns as a whole group, which overlaps the previous one.
  if (dim >= kWidth) return sum_columns<T, 1, false>(rows, weights, count, out, dim - kWidth);
  for (; d < dim; ++d) {
    A total = 0;
    for (int64_t n = 0; n < count; ++n) total += to_acc(rows[n][d]) * weights[n];
    from_acc(total, out + d);
  }
}

template <bool kStream>
void copy_row(const void* from, void* out, int64_t bytes) {
  if constexpr (!kStream) {
    std::memcpy(out, from, bytes);
  } else {
    const char* source = static_cast<const char*>(from);
    char* target = static_cast<char*>(out);
    int64_t i = 0;
    for (; i + kVectorBytes <= bytes; i += kVectorBytes) {
      stream(load_bytes<VecU32>(source + i), target + i);
    }
    std::memcpy(target + i, source + i, bytes - i);
  }
}

// out (dim) = the weighted sum, with streaming stores if stream_out and out is aligned.
template <typename T>
void write_row(const Terms<T>& terms, T* out, int64_t dim, bool stream_out) {
  const bool streams = stream_out && reinterpret_cast<uintptr_t>(out) % kVectorBytes == 0;
  const bool copies = terms.count == 1 && terms.weights[0] == 1;
  const int64_t bytes = dim * static_cast<int64_t>(sizeof(T));
  if (streams) {
    if (copies) return copy_row<true>(terms.rows[0], out, bytes);
    if (terms.count == 1) return weighted_sum<T, 1, true>(terms, out, dim);
    if (terms.count == 2) return weighted_sum<T, 2, true>(terms, out, dim);
    return weighted_sum<T, 0, true>(terms, out, dim);
  }
  if (copies) return copy_row<false>(terms.rows[0], out, bytes);
  if (terms.count == 1) return weighted_sum<T, 1, false>(terms, out, dim);
  if (terms.count == 2) return weighted_sum<T, 2, false>(terms, out, dim);
  return weighted_sum<T, 0, false>(terms, out, dim);
}

}  // namespace lck::LCK_ISA
