// Rows of a tensor as operands of the products in simd/matmul.h. Included only by files that are compiled
// once per instruction set.
//
// Rows are staged: units along the row, zero-padded to whole vectors, kTile rows at most. From there they
// become
// - an A operand: blocks of R rows interleaved, [unit][R];
// - panels "across": depth = the row's units, columns = the tile's rows (K^T for Q K^T);
// - panels "along": depth = the tile's rows, columns = the row's elements (V for P V).
#pragma once

#include "cpu/attention_tiles.h"
#include "cpu/simd/matmul.h"
#include "cpu/simd/transpose.h"

namespace lck::LCK_ISA {

inline constexpr int64_t round_up(int64_t x, int64_t to) {
  return (x + to - 1) / to * to;
}

template <typename U>
inline int64_t units(int64_t elements) {
  return (elements + U::kDepth - 1) / U::kDepth;
}
// Units of a staged row.
template <typename U>
inline int64_t staged_units(int64_t dim) {
  return round_up(units<U>(dim), kLanes<UnitOf<U>>);
}
// Columns of an accumulator of so many elements.
template <typename U>
inline int64_t padded_columns(int64_t dim) {
  return round_up(dim, kLanes<AccOf<U>>);
}
template <typename U>
inline int64_t across_panel_units(int64_t dim) {
  return units<U>(dim) * kPanel<U>;
}
template <typename U>
inline int64_t across_units(int64_t dim) {
  return units<U>(dim) * kTile;
}
template <typename U>
inline constexpr int64_t kAlongPanelUnits = kTile / U::kDepth * kPanel<U>;
template <typename U>
inline int64_t along_units(int64_t dim) {
  return round_up(dim, kPanel<U>) / kPanel<U> * kAlongPanelUnits<U>;
}

// kLanes<float> elements from p in their order.
inline Vec<float> widen(const float* p) {
  return load_bytes<Vec<float>>(p);
}
inline Vec<double> widen(const double* p) {
  return load_bytes<Vec<double>>(p);
}
inline Vec<float> widen(const BFloat16* p) {
  typedef uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
  return bit_cast<Vec<float>>(__builtin_convertvector(load_bytes<Half>(p), VecU32) << 16);
}
inline Vec<float> widen(const Float16* p) {
#if defined(__AVX512F__)
  return bit_cast<Vec<float>>(_mm512_cvtph_ps(load_bytes<__m256i>(p)));
#elif defined(__F16C__)
  return bit_cast<Vec<float>>(_mm256_cvtph_ps(load_bytes<__m128i>(p)));
#else
  Vec<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = to_acc(p[i]);
  return v;
#endif
}

// Rows of one head lie apart, so that the processor does not fetch the next ones by itself.
inline constexpr int64_t kPrefetchRows = 16;
template <typename T>
inline void prefetch_row(const T* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + d);
}

// Stages one row (dim elements) and says whether all are finite.
template <typename U, typename T>
inline bool stage_row(const T* row, int64_t dim, UnitOf<U>* out) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  if constexpr (U::kDepth == 2) {
    const int64_t padded = staged_units<U>(dim), whole = dim / (2 * L) * L;
    VecU32 bad{};
    int64_t i = 0;
    for (; i < whole; i += L) {
      const VecU32 pair = load_bytes<VecU32>(row + 2 * i);
      bad |= ((pair & 0x7f80u) == 0x7f80u) | ((pair & 0x7f800000u) == 0x7f800000u);
      store(pair, out + i);
    }
    bool finite = true;
    for (; i < padded; ++i) {
      uint32_t pair = 0;
      for (int half = 0; half < 2 && 2 * i + half < dim; ++half) {
        const uint32_t bits = row[2 * i + half].bits;
        finite &= (bits & 0x7f80u) != 0x7f80u;
        pair |= bits << (16 * half);
      }
      out[i] = pair;
    }
    for (int lane = 0; lane < L; ++lane) finite &= bad[lane] == 0;
    return finite;
  } else {
    const int64_t padded = staged_units<U>(dim);
    Vec<A> difference{};
    int64_t i = 0;
    for (; i + L <= dim; i += L) {
      const Vec<A> x = widen(row + i);
      difference += x - x;  // NaN from here on once x is inf or NaN
      store(x, out + i);
    }
    A rest = 0;
    for (; i < padded; ++i) {
      const A x = i < dim ? to_acc(row[i]) : A{0};
      rest += x - x;
      out[i] = x;
    }
    return sum<A>(difference) + rest == 0;
  }
}

// Interleaves `rows` staged rows into an A operand of block_height(rows) rows; those beyond are zero.
template <typename U>
inline void pack_block(const UnitOf<U>* staged, int64_t stride, int rows, int64_t depth, UnitOf<U>* block) {
  const int height = block_height(rows);
  for (int r = 0; r < height; ++r) {
    const UnitOf<U>* row = staged + r * stride;
    for (int64_t k = 0; k < depth; ++k) block[k * height + r] = r < rows ? row[k] : UnitOf<U>{0};
  }
}

// kTile staged rows as panels across.
template <typename U>
inline void pack_across(const UnitOf<U>* staged, int64_t dim, UnitOf<U>* panels) {
  using E = UnitOf<U>;
  constexpr int L = kLanes<E>;
  const int64_t stride = staged_units<U>(dim), depth = units<U>(dim);
  for (int row = 0; row < kTile; row += L) {
    E* panel = panels + row / kPanel<U> * across_panel_units<U>(dim) + row % kPanel<U>;
    for (int64_t k = 0; k < depth; k += L) {
      Vec<E> x[L];
      for (int i = 0; i < L; ++i) x[i] = load_bytes<Vec<E>>(staged + (row + i) * stride + k);
      transpose<E>(x);
      const int64_t count = depth - k < L ? depth - k : L;
      for (int64_t i = 0; i < count; ++i) store(x[i], panel + (k + i) * kPanel<U>);
    }
  }
}

// kTile staged rows as panels along.
template <typename U>
inline void pack_along(const UnitOf<U>* staged, int64_t dim, UnitOf<U>* panels) {
  using E = UnitOf<U>;
  constexpr int L = kLanes<E>;
  const int64_t stride = staged_units<U>(dim), columns = padded_columns<U>(dim);
  for (int64_t n = 0; n < kTile / U::kDepth; ++n) {
    const E* row = staged + n * U::kDepth * stride;
    E* to = panels + n * kPanel<U>;
    auto place = [&](int64_t column, Vec<E> x) {
      store(x, to + column / kPanel<U> * kAlongPanelUnits<U> + column % kPanel<U>);
    };
    if constexpr (U::kDepth == 2) {
      // Pairs along the row of two rows become pairs of the two rows.
      for (int64_t column = 0; column < columns; column += 2 * L) {
        const Vec<E> a = load_bytes<Vec<E>>(row + column / 2),
                     b = load_bytes<Vec<E>>(row + stride + column / 2);
        Vec<E> low, high;
        interleave<E>((a & 0xffffu) | (b << 16), (a >> 16) | (b & 0xffff0000u), &low, &high);
        place(column, low);
        if (column + L < columns) place(column + L, high);
      }
    } else {
      for (int64_t column = 0; column < columns; column += L) place(column, load_bytes<Vec<E>>(row + column));
    }
  }
}

// S (rows, kTile), columns [first, stop) = A * B: A interleaved, B panels across of `dim` elements.
template <typename U>
[[gnu::noinline]] void multiply_across(int rows, const UnitOf<U>* a, const UnitOf<U>* b, int64_t dim,
                                       AccOf<U>* s, int first, int stop) {
  with_height(rows, [&]<int R>() {
    multiply<U, R, 1, R>(a, b, across_panel_units<U>(dim), units<U>(dim), s, kTile, first, stop, false);
  });
}

// out (rows, columns) += A * B: A is (rows, kTile / kDepth) units of which those of [first, stop) count, B
// panels along.
template <typename U>
[[gnu::noinline]] void multiply_along(int rows, const UnitOf<U>* a, const UnitOf<U>* b, int first, int stop,
                                      AccOf<U>* out, int64_t columns) {
  const int64_t skip = first / U::kDepth;
  with_height(rows, [&]<int R>() {
    multiply<U, R, kTile / U::kDepth, 1>(a + skip, b + skip * kPanel<U>, kAlongPanelUnits<U>,
                                         (stop - first) / U::kDepth, out, columns, 0, columns, true);
  });
}

// (rows, kTile) accumulators as units along the columns [first, stop); for elements they are their own units.
template <typename U>
inline void store_units(const AccOf<U>* row, int first, int stop, UnitOf<U>* out) {
  if constexpr (U::kDepth == 2) {
#if defined(__AVX512BF16__)
    constexpr int L = kLanes<float>;
    int c = first;
    for (; c + 2 * L <= stop; c += 2 * L) {
      const __m512 low = bit_cast<__m512>(load_bytes<Vec<float>>(row + c));
      const __m512 high = bit_cast<__m512>(load_bytes<Vec<float>>(row + c + L));
      store(_mm512_cvtne2ps_pbh(high, low), out + c / 2);
    }
    if (c < stop) store(_mm512_cvtneps_pbh(bit_cast<__m512>(load_bytes<Vec<float>>(row + c))), out + c / 2);
#endif
  } else {
    (void)row, (void)first, (void)stop, (void)out;
  }
}

// kLanes<float> results to p in their order.
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

// to (dim) = factor * from.
template <typename A, typename T>
inline void store_row(const A* from, A factor, int64_t dim, T* to) {
  constexpr int L = kLanes<A>;
  int64_t d = 0;
  for (; d + L <= dim; d += L) narrow(load_bytes<Vec<A>>(from + d) * factor, to + d);
  for (; d < dim; ++d) from_acc(from[d] * factor, to + d);
}

}  // namespace lck::LCK_ISA
