// Rows of a tensor as operands of the products in simd/matmul.h. Included only by files that are compiled
// once per instruction set.
//
// Rows are staged: units along the row, zero-padded to whole vectors, kTile rows at most. They are then
// packed into
// - an A operand: blocks of R rows interleaved, [unit][R];
// - panels "across": depth = the row's units, columns = the tile's rows (K^T for Q K^T);
// - panels "along": depth = the tile's rows, columns = the row's elements (V for P V).
#pragma once

#include "cpu/attention/tiles.h"
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
// Columns of an accumulator of `dim` elements.
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
#if defined(__AVX512F__)
  const __m512i bits = _mm512_cvtepu16_epi32(load_bytes<__m256i>(p));
#elif defined(__AVX2__)
  const __m256i bits = _mm256_cvtepu16_epi32(load_bytes<__m128i>(p));
#else
  typedef uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
  const VecU32 bits = __builtin_convertvector(load_bytes<Half>(p), VecU32);
#endif
  return bit_cast<Vec<float>>(bit_cast<VecU32>(bits) << 16);
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

// Rows of one head are not contiguous, so that the hardware prefetcher does not load the next ones.
inline constexpr int64_t kPrefetchRows = 16;
template <typename T>
inline void prefetch_row(const T* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + d);
  asm volatile("");  // without it GCC treats a function that only prefetches as pure and drops its calls
}

// Stages one row (dim elements); returns whether all are finite.
template <typename U, typename T>
inline bool stage_row(const T* row, int64_t dim, UnitOf<U>* out) {
  using A = AccOf<U>;
  constexpr int L = kLanes<A>;
  if constexpr (U::kDepth == 2) {
    const int64_t padded = staged_units<U>(dim), whole = dim / (2 * L) * L;
    VecInt<A> bad{};
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
    return finite && !any<A>(bad);
  } else {
    const int64_t padded = staged_units<U>(dim);
    VecInt<A> bad{};
    int64_t i = 0;
    for (; i + L <= dim; i += L) {
      const Vec<A> x = widen(row + i);
      bad |= x - x != A{0};  // inf or NaN
      store(x, out + i);
    }
    bool finite = true;
    for (; i < padded; ++i) {
      const A x = i < dim ? to_acc(row[i]) : A{0};
      finite &= x - x == 0;
      out[i] = x;
    }
    return finite && !any<A>(bad);
  }
}

// Interleaves `rows` staged rows into an A operand of block_height(rows) rows; the others are zero.
template <typename U>
inline void pack_block(const UnitOf<U>* staged, int64_t stride, int rows, int64_t depth, UnitOf<U>* block) {
  using E = UnitOf<U>;
  constexpr int L = kLanes<E>;
  if (kRows <= L && rows == kRows) {
    // Lanes beyond a unit's rows are overwritten by the next unit.
    for (int64_t k = 0; k < depth; k += L) {
      Vec<E> x[L]{};
#pragma GCC unroll 16
      for (int r = 0; r < kRows && r < L; ++r) x[r] = load_bytes<Vec<E>>(staged + r * stride + k);
      transpose<E>(x);
      const int64_t whole = smaller(L, depth - 1 - k);
      for (int64_t i = 0; i < whole; ++i) store(x[i], block + (k + i) * kRows);
      if (whole < L) std::memcpy(block + (depth - 1) * kRows, &x[whole], kRows * sizeof(E));
    }
    return;
  }
  const int height = block_height(rows);
  for (int r = 0; r < height; ++r) {
    const E* row = staged + r * stride;
    for (int64_t k = 0; k < depth; ++k) block[k * height + r] = r < rows ? row[k] : E{0};
  }
}

template <bool kFirst, typename A, typename B>
struct ConditionalOf {
  using type = A;
};
template <typename A, typename B>
struct ConditionalOf<false, A, B> {
  using type = B;
};
template <bool kFirst, typename A, typename B>
using Conditional = typename ConditionalOf<kFirst, A, B>::type;

// Whether all elements added so far are finite: the largest magnitude, as an integer.
template <typename U>
struct FiniteCheck {
  static constexpr bool kPair = U::kDepth == 2, kDouble = sizeof(UnitOf<U>) == 8;
  using Part = Conditional<kPair, uint16_t, Conditional<kDouble, uint64_t, uint32_t>>;
  static constexpr Part kInfinity = static_cast<Part>(kPair     ? 0x7f80
                                                      : kDouble ? 0x7ff0000000000000
                                                                : 0x7f800000);
  Vec<Part> most{};

  void show(Vec<UnitOf<U>> units) {
    const Vec<Part> size = bit_cast<Vec<Part>>(units) & static_cast<Part>(static_cast<Part>(~Part{0}) / 2);
    most = size > most ? size : most;
  }
  bool finite() const {
    Part largest = 0;
    for (int i = 0; i < kLanes<Part>; ++i) largest = most[i] > largest ? most[i] : largest;
    return largest < kInfinity;
  }
};

// kTile rows as panels across; load(row, unit) returns a vector of a row's units. Returns whether all
// are finite.
template <typename U, typename Load>
inline bool pack_across(int64_t dim, UnitOf<U>* panels, Load load) {
  using E = UnitOf<U>;
  constexpr int L = kLanes<E>;
  const int64_t depth = units<U>(dim);
  FiniteCheck<U> check;
  for (int row = 0; row < kTile; row += L) {
    E* panel = panels + row / kPanel<U> * across_panel_units<U>(dim) + row % kPanel<U>;
    for (int64_t k = 0; k < depth; k += L) {
      Vec<E> x[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        x[i] = load(row + i, k);
        check.show(x[i]);
      }
      transpose<E>(x);
      const int64_t count = depth - k < L ? depth - k : L;
      for (int64_t i = 0; i < count; ++i) store(x[i], panel + (k + i) * kPanel<U>);
    }
  }
  return check.finite();
}

// kTile rows as panels along. Returns whether all are finite.
template <typename U, typename Load>
inline bool pack_along(int64_t dim, UnitOf<U>* panels, Load load) {
  using E = UnitOf<U>;
  constexpr int L = kLanes<E>;
  const int64_t columns = padded_columns<U>(dim);
  FiniteCheck<U> check;
  for (int n = 0; n < kTile / U::kDepth; ++n) {
    E* to = panels + n * kPanel<U>;
    const auto place = [&](int64_t column, Vec<E> x) {
      store(x, to + column / kPanel<U> * kAlongPanelUnits<U> + column % kPanel<U>);
    };
    if constexpr (U::kDepth == 2) {
      // Pairs along the row of two rows become pairs of the two rows.
      for (int64_t column = 0; column < columns; column += 2 * L) {
        const Vec<E> a = load(2 * n, column / 2), b = load(2 * n + 1, column / 2);
        check.show(a);
        check.show(b);
        Vec<E> low, high;
        interleave<E>((a & 0xffffu) | (b << 16), (a >> 16) | (b & 0xffff0000u), &low, &high);
        place(column, low);
        if (column + L < columns) place(column + L, high);
      }
    } else {
      for (int64_t column = 0; column < columns; column += L) {
        const Vec<E> x = load(n, column);
        check.show(x);
        place(column, x);
      }
    }
  }
  return check.finite();
}

// Loads from staged rows.
template <typename U>
inline auto from_staged(const UnitOf<U>* staged, int64_t dim) {
  return [staged, stride = staged_units<U>(dim)](int row, int64_t unit) {
    return load_bytes<Vec<UnitOf<U>>>(staged + row * stride + unit);
  };
}

// Whether a row is whole vectors, so that it can be packed without staging.
template <typename U>
inline bool whole_vectors(int64_t dim) {
  return dim % (kLanes<AccOf<U>> * U::kDepth) == 0;
}

// Loads from kTile rows in place, which are whole vectors. ahead, if not null: as many bytes as are loaded
// are prefetched from there, so that memory traffic overlaps with arithmetic.
template <typename U, typename T>
inline auto from_rows(const T* rows, int64_t stride, const T* ahead = nullptr) {
  return [rows, stride, ahead](int row, int64_t unit) mutable {
    if (ahead) {
      __builtin_prefetch(ahead);
      ahead += kLanes<AccOf<U>> * U::kDepth;
    }
    const T* p = rows + row * stride + unit * U::kDepth;
    if constexpr (U::kDepth == 2) {
      return load_bytes<VecU32>(p);
    } else {
      return widen(p);
    }
  };
}

// Units summed in one accumulator: longer chains would round more than torch's products.
inline constexpr int64_t kMostDepth = 128;

// S (rows, kTile), columns [first, stop) = A * B: A interleaved, B panels across of `dim` elements.
// each() is called once per panel.
template <typename U, typename Each = Nothing>
[[gnu::noinline]] void multiply_across(int rows, const UnitOf<U>* a, const UnitOf<U>* b, int64_t dim,
                                       AccOf<U>* s, int first, int stop, const Each& each = {}) {
  with_height(rows, [&]<int R>() {
    const int64_t depth = units<U>(dim);
    int64_t k = 0;
    do {  // without depth: zeros
      multiply<U, R, 1, R>(a + k * R, b + k * kPanel<U>, across_panel_units<U>(dim),
                           smaller(kMostDepth, depth - k), s, kTile, first, stop, k > 0, each);
      k += kMostDepth;
    } while (k < depth);
  });
}

// out (rows, columns) += A * B: A is (rows, kTile / kDepth) units of which [first, stop) are used, B panels
// along.
template <typename U, typename Each = Nothing>
[[gnu::noinline]] void multiply_along(int rows, const UnitOf<U>* a, const UnitOf<U>* b, int first, int stop,
                                      AccOf<U>* out, int64_t columns, const Each& each = {}) {
  const int64_t skip = first / U::kDepth;
  with_height(rows, [&]<int R>() {
    multiply<U, R, kTile / U::kDepth, 1>(a + skip, b + skip * kPanel<U>, kAlongPanelUnits<U>,
                                         (stop - first) / U::kDepth, out, columns, 0, columns, true, each);
  });
}

// The same with A transposed: (kTile / kDepth, kTile) units, of which rows [first, stop) are used, both
// multiples of kDepth.
template <typename U>
[[gnu::noinline]] void multiply_transposed(int rows, const UnitOf<U>* a, const UnitOf<U>* b, int first,
                                           int stop, AccOf<U>* out, int64_t columns) {
  const int64_t skip = first / U::kDepth;
  with_height(rows, [&]<int R>() {
    multiply<U, R, 1, kTile>(a + skip * kTile, b + skip * kPanel<U>, kAlongPanelUnits<U>,
                             (stop - first) / U::kDepth, out, columns, 0, columns, true, Nothing{});
  });
}

// (rows, kTile) accumulators as units along the rows, (rows / kDepth, kTile); rows is a multiple of kDepth.
// Where a unit is an element, the accumulators themselves.
template <typename U>
inline void store_row_units(const AccOf<U>* in, int rows, UnitOf<U>* out) {
  if constexpr (U::kDepth == 2) {
    constexpr int L = kLanes<float>;
    for (int r = 0; r < rows; r += 2) {
      for (int c = 0; c < kTile; c += L) {
        const VecU32 even = round_upper_half(plain_nan<float>(load_bytes<Vec<float>>(in + r * kTile + c)));
        const VecU32 odd =
            round_upper_half(plain_nan<float>(load_bytes<Vec<float>>(in + (r + 1) * kTile + c)));
        store((even >> 16) | (odd & 0xffff0000u), out + r / 2 * kTile + c);
      }
    }
  } else {
    (void)in, (void)rows, (void)out;
  }
}

// (rows, kTile) accumulators as units along the columns [first, stop); where a unit is an element,
// the accumulators themselves.
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
#else
    for (int c = first; c < stop; c += 2) {
      BFloat16 low, high;
      from_acc(row[c], &low);
      from_acc(row[c + 1], &high);
      out[c / 2] = low.bits | static_cast<uint32_t>(high.bits) << 16;
    }
#endif
  } else {
    (void)row, (void)first, (void)stop, (void)out;
  }
}

}  // namespace lck::LCK_ISA
