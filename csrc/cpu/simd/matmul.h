// Small matrix products from registers: C[R][columns] (+)= A[R][depth] * B[depth][columns].
//
// An operand consists of units: one element, or a pair of bf16 that are adjacent along the depth, so that one
// lane of a vector is one unit and has one accumulator. B is stored in panels of kPanel
// columns, each [depth][kPanel] units and contiguous. Included only by files that are compiled once per
// instruction set.
#pragma once

#include "cpu/simd/math.h"
#include "cpu/simd/vec.h"

namespace lck::LCK_ISA {

struct Float32Unit {
  using Acc = float;
  using Unit = float;
  static constexpr int kDepth = 1;  // elements in a unit
};
struct Float64Unit {
  using Acc = double;
  using Unit = double;
  static constexpr int kDepth = 1;
};
// For processors that multiply pairs; on others only for tests (LCK_BF16_PAIRS).
struct BFloat16Pair {
  using Acc = float;
  using Unit = uint32_t;
  static constexpr int kDepth = 2;
};

#if defined(__AVX512BF16__) || defined(LCK_BF16_PAIRS)
using BFloat16Unit = BFloat16Pair;
#else
using BFloat16Unit = Float32Unit;
#endif

// choose.operator()<U, T>() with the element type T of the dtype and the type U of its products. The
// avx512_bf16 build has bfloat16 alone (cpu/common/isa_dispatch.h).
template <typename Choose>
inline decltype(auto) for_units_of([[maybe_unused]] DType dtype, const Choose& choose) {
#if defined(__AVX512BF16__)
  return choose.template operator()<BFloat16Unit, BFloat16>();
#else
  switch (dtype) {
    case DType::kFloat64:
      return choose.template operator()<Float64Unit, double>();
    case DType::kBFloat16:
      return choose.template operator()<BFloat16Unit, BFloat16>();
    case DType::kFloat16:
      return choose.template operator()<Float32Unit, Float16>();
    default:
      return choose.template operator()<Float32Unit, float>();
  }
#endif
}

template <typename U>
using AccOf = typename U::Acc;
template <typename U>
using UnitOf = typename U::Unit;

// Columns of a panel: two vectors, so that kRows * 2 accumulators fill the registers.
template <typename U>
inline constexpr int kPanel = 2 * kLanes<AccOf<U>>;

// Rows of a block: the largest R.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kRows = 12;
#else
inline constexpr int kRows = 6;
#endif

template <typename U>
inline Vec<AccOf<U>> multiply_add(Vec<AccOf<U>> acc, UnitOf<U> a, Vec<UnitOf<U>> b) {
  if constexpr (U::kDepth == 1) {
    return acc + a * b;
  } else {
#if defined(__AVX512BF16__)
    const auto pairs = _mm512_set1_epi32(static_cast<int>(a));
    return bit_cast<Vec<float>>(
        _mm512_dpbf16_ps(bit_cast<__m512>(acc), bit_cast<__m512bh>(pairs), bit_cast<__m512bh>(b)));
#else
    const auto product = [&](uint32_t x, Vec<uint32_t> y) {
      return bit_cast<float>(x) * bit_cast<Vec<float>>(y);
    };
    return acc + product(a << 16, b << 16) + product(a & 0xffff0000u, b & 0xffff0000u);
#endif
  }
}

// kRowStep, kStep: units from one row of A to the next, and from one unit of the depth to the next.
template <typename U, int R, int C, int kRowStep, int kStep>
[[gnu::noinline]] void multiply_panel(const UnitOf<U>* a, const UnitOf<U>* b, int64_t depth, AccOf<U>* c,
                                      int64_t c_stride, bool accumulate) {
  using A = AccOf<U>;
  using V = Vec<A>;
  constexpr int L = kLanes<A>;
  V acc[R][C] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<UnitOf<U>> row[C];
#pragma GCC unroll 2
    for (int j = 0; j < C; ++j) row[j] = load_bytes<Vec<UnitOf<U>>>(b + k * kPanel<U> + j * L);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int j = 0; j < C; ++j) acc[r][j] = multiply_add<U>(acc[r][j], a[r * kRowStep + k * kStep], row[j]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < C; ++j) {
      A* to = c + r * c_stride + j * L;
      store(accumulate ? load_bytes<V>(to) + acc[r][j] : acc[r][j], to);
    }
  }
}

struct Nothing {
  void operator()() const {}
};

// C[R][columns [first, stop)] (+)= A * B; first and stop are multiples of a vector's lanes. B's panels are
// panel_units apart. each() is called once per panel.
template <typename U, int R, int kRowStep, int kStep, typename Each>
inline void multiply(const UnitOf<U>* a, const UnitOf<U>* b, int64_t panel_units, int64_t depth, AccOf<U>* c,
                     int64_t c_stride, int64_t first, int64_t stop, bool accumulate, const Each& each) {
  constexpr int L = kLanes<AccOf<U>>;
  for (int64_t column = first; column < stop;) {
    each();
    const int64_t inside = column % kPanel<U>;
    const UnitOf<U>* panel = b + column / kPanel<U> * panel_units + inside;
    if (inside == 0 && column + L < stop) {
      multiply_panel<U, R, 2, kRowStep, kStep>(a, panel, depth, c + column, c_stride, accumulate);
      column += 2 * L;
    } else {
      multiply_panel<U, R, 1, kRowStep, kStep>(a, panel, depth, c + column, c_stride, accumulate);
      column += L;
    }
  }
}

// The smallest block height of at least `rows` rows.
inline constexpr int block_height(int rows) {
  return rows <= 1 ? 1 : rows <= 2 ? 2 : rows <= 4 ? 4 : kRows > 6 && rows <= 8 ? 8 : kRows;
}

// Calls body with block_height(rows) as a constant.
template <typename Body>
inline void with_height(int rows, Body body) {
  switch (block_height(rows)) {
    case 1:
      return body.template operator()<1>();
    case 2:
      return body.template operator()<2>();
    case 4:
      return body.template operator()<4>();
    case kRows:
      return body.template operator()<kRows>();
    default:
      return body.template operator()<8>();
  }
}

}  // namespace lck::LCK_ISA
