// The online softmax of a block of rows. Included only by files that are compiled once per instruction set.
//
// All rows are kTile columns long.
#pragma once

#include "cpu/attention/kernel/rows.h"

namespace lck::LCK_ISA {

// The largest s of each lane in the columns [first, stop), without NaN; -inf if there is none.
template <typename A>
[[gnu::always_inline]] inline Vec<A> row_largest(const A* s, int first, int stop) {
  constexpr int L = kLanes<A>;
  Vec<A> most = splat(-kInf<A>), most2 = most;
  int c = first;
  for (; c + 2 * L <= stop; c += 2 * L) {
    most = lane_max(load_bytes<Vec<A>>(s + c), most);
    most2 = lane_max(load_bytes<Vec<A>>(s + c + L), most2);
  }
  if (c < stop) most = lane_max(load_bytes<Vec<A>>(s + c), most);
  return lane_max(most2, most);
}

// Where the probabilities of row r from column c on are stored, one or two vectors: as accumulators.
template <typename A>
struct AsAccumulators {
  using Polynomial = Degree5;
  A* rows;

  void put(int r, int c, Vec<A> x) const { store(x, rows + r * kTile + c); }
  void put(int r, int c, Vec<A> x, Vec<A> y) const { put(r, c, x), put(r, c + kLanes<A>, y); }
};
// As units. They are rounded to 16 bits, so that exp may be less accurate.
template <typename U>
struct AsUnits {
  using Polynomial = Degree4;
  using V = Vec<AccOf<U>>;
  UnitOf<U>* rows;

  void put(int r, int c, V x) const { put_all(r, c, {x}); }
  void put(int r, int c, V x, V y) const { put_all(r, c, {x, y}); }

 private:
  template <int N>
  void put_all(int r, int c, const V (&x)[N]) const {
    constexpr int L = kLanes<AccOf<U>>;
    AccOf<U> row[N * L];
    std::memcpy(row, x, sizeof(row));
    store_units<U>(row, 0, N * L, rows + (r * kTile + c) / U::kDepth);
  }
};

template <typename U>
inline auto place_of(UnitOf<U>* rows) {
  if constexpr (U::kDepth == 1) {
    return AsAccumulators<AccOf<U>>{rows};
  } else {
    return AsUnits<U>{rows};
  }
}

// Places prob(s) of the columns [first, stop) of row r; returns the sum of each lane.
template <typename A, typename Prob, typename Place>
[[gnu::always_inline]] inline Vec<A> place_row(const A* s, int r, int first, int stop, const Prob& prob,
                                               const Place& place) {
  constexpr int L = kLanes<A>;
  Vec<A> total{};
  int c = first;
  for (; c + 2 * L <= stop; c += 2 * L) {
    Vec<A> x[2] = {load_bytes<Vec<A>>(s + c), load_bytes<Vec<A>>(s + c + L)};
    prob(x);
    total += x[0] + x[1];
    place.put(r, c, x[0], x[1]);
  }
  if (c < stop) {
    Vec<A> x[1] = {load_bytes<Vec<A>>(s + c)};
    prob(x);
    total += x[0];
    place.put(r, c, x[0]);
  }
  return total;
}

// e^x = power(kPower<A> * x).
template <typename A>
inline constexpr A kPower = A{1};
template <>
inline constexpr float kPower<float> = kLog2EFloat;
template <typename Polynomial, int N>
inline void power(Vec<float> (&x)[N]) {
  exp2<Polynomial>(x);
}
template <typename, int N>
inline void power(Vec<double> (&x)[N]) {
  for (Vec<double>& v : x) v = exp(v);
}

// Scores of rows with larger bases are rounded before the base is subtracted, as those of ScoreRule are:
// otherwise equal scores in two tiles would differ by more than 1e-5.
inline constexpr int kFusedLimit = 64;

// The base of a row is raised only if a score exceeds it by more than this, or a lane's probabilities have a
// larger sum: e^4 costs no accuracy, and rows are rescaled about once. Source: FlashAttention-4.
inline constexpr int kBaseSlack = 4, kMostSum = 54;

// Rescales the row's state to a new base.
template <typename A>
[[gnu::noinline]] void raise_base(A base, A* row_base, A* row_sum, A* out, int64_t out_columns) {
  constexpr int L = kLanes<A>;
  const A before = *row_base;
  *row_base = base;
  if (before == -kInf<A>) return;
  const Vec<A> shrink = exp(splat(before) - base);
  store(load_bytes<Vec<A>>(row_sum) * shrink, row_sum);
  for (int64_t c = 0; c < out_columns; c += L) store(load_bytes<Vec<A>>(out + c) * shrink, out + c);
}

// The states of a block's rows, and the columns of their scores.
template <typename A>
struct SoftmaxRows {
  int rows, first, stop;
  A* base;  // (rows), subtracted from scores before exp
  A* sum;   // (rows, lanes)
  A* out;   // (rows, columns)
  int64_t out_columns;
  BaseFlags* flags;
};

template <typename A>
inline bool is_far(A base) {
  return base != -kInf<A> && (base > kFusedLimit || base < -kFusedLimit);
}

// Raises the base of row r to its largest score (scale * s).
template <typename A>
[[gnu::noinline]] void raise_row(const A* s, const SoftmaxRows<A>& x, int r, A scale) {
  const A most = largest<A>(row_largest(s + r * kTile, x.first, x.stop) * scale);
  if (!(most > x.base[r])) return;
  raise_base(most, x.base + r, x.sum + r * kLanes<A>, x.out + r * x.out_columns, x.out_columns);
  x.flags->far |= is_far(most);
}

// Sets the bases of rows without one to their largest score.
template <typename A>
[[gnu::noinline]] void set_bases(const A* s, const SoftmaxRows<A>& x, A scale) {
  x.flags->unset = false;
  for (int r = 0; r < x.rows; ++r) {
    if (x.base[r] != -kInf<A>) continue;
    x.base[r] = largest<A>(row_largest(s + r * kTile, x.first, x.stop) * scale);
    x.flags->far |= is_far(x.base[r]);
    x.flags->unset |= x.base[r] == -kInf<A>;
  }
}

// The rule of a row: exp(scale * s - base) of N vectors of scores, in place; fused or for bases beyond
// kFusedLimit.
template <typename Polynomial, typename A>
struct FusedExp {
  A factor, shift;
  FusedExp(A scale, A base) : factor(scale * kPower<A>), shift(base * kPower<A>) {}
  template <int N>
  void operator()(Vec<A> (&s)[N]) const {
    for (Vec<A>& x : s) x = x * factor - shift;
    power<Polynomial>(s);
  }
};
template <typename A>
struct ExactExp {
  A scale, base;
  ExactExp(A scale, A base) : scale(scale), base(base) {}
  template <int N>
  void operator()(Vec<A> (&s)[N]) const {
    for (Vec<A>& v : s) {
      const Vec<A> x = rounded(v * scale) - base;
      v = exp(x > 89 ? splat(A{89}) : x);  // inf in float
    }
  }
};

template <typename A>
inline constexpr A kLeastBase = static_cast<A>(-1e30);  // a base of -inf minus a score of -inf would be NaN

// Row r with its base raised.
template <typename A, typename Place>
[[gnu::noinline]] Vec<A> place_raised(const A* s, const SoftmaxRows<A>& x, int r, A scale,
                                      const Place& place) {
  raise_row(s, x, r, scale);
  const A base = x.base[r] > kLeastBase<A> ? x.base[r] : kLeastBase<A>;
  if (is_far(x.base[r])) return place_row(s + r * kTile, r, x.first, x.stop, ExactExp<A>(scale, base), place);
  const FusedExp<typename Place::Polynomial, A> prob(scale, base);
  return place_row(s + r * kTile, r, x.first, x.stop, prob, place);
}

// softmax_rows of the columns [first, stop), which may be constants.
template <typename Exp, typename A, typename Place>
[[gnu::always_inline]] inline void softmax_columns(const A* s, const SoftmaxRows<A>& x, int first, int stop,
                                                   A scale, const Place& place) {
  constexpr int L = kLanes<A>;
  const int rows = x.rows;
  const A* base = x.base;
  Vec<A> total[kRows], most{};
  for (int r = 0; r < rows; ++r) {
    total[r] = place_row(s + r * kTile, r, first, stop, Exp(scale, base[r]), place);
    most = lane_max(total[r], most);
  }
  if (any_above<A>(most, A{kMostSum}) || x.flags->unset) [[unlikely]] {
    for (int r = 0; r < x.rows; ++r) {
      if (any_above<A>(total[r], A{kMostSum}) || !(x.base[r] > kLeastBase<A>)) {
        total[r] = place_raised(s, x, r, scale, place);
      }
    }
  }
  A* sum = x.sum;
  for (int r = 0; r < rows; ++r) store(load_bytes<Vec<A>>(sum + r * L) + total[r], sum + r * L);
}

// The probabilities exp(scale * s - base) of scores (rows, kTile), stored elsewhere; updates the rows'
// states. The largest score is computed only for rows without a base and where probabilities are too large,
// or inf.
template <typename A, typename Place>
[[gnu::noinline]] void softmax_rows(const A* s, const SoftmaxRows<A>& x, A scale, Place place) {
  using Fused = FusedExp<typename Place::Polynomial, A>;
  if (x.flags->unset) set_bases(s, x, scale);
  if (x.flags->far) [[unlikely]] {
    softmax_columns<ExactExp<A>>(s, x, x.first, x.stop, scale, place);
  } else if (x.first == 0 && x.stop == kTile) {
    softmax_columns<Fused>(s, x, 0, kTile, scale, place);
  } else {
    softmax_columns<Fused>(s, x, x.first, x.stop, scale, place);
  }
}

}  // namespace lck::LCK_ISA
