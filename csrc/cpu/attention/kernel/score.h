// From a product q.k to a score, and dropout. Included only by files that are compiled once per instruction
// set.
//
// All rows are kTile columns long.
#pragma once

#include "cpu/attention/kernel/result_rows.h"
#include "cpu/attention/kernel/rows.h"
#include "philox.h"

namespace lck::LCK_ISA {

template <typename A>
struct ScoreRule {
  A scale;        // q.k to score, or to the tanh's argument
  A cap;          // 0: none
  const A* bias;  // (num_heads, bias_len), or null
  int64_t bias_len, bias_center;

  static ScoreRule of(const AttentionParams& p) {
    const double scale = p.softcap ? p.softmax_scale / p.softcap : p.softmax_scale;
    return {static_cast<A>(scale), static_cast<A>(p.softcap), static_cast<const A*>(p.rel_bias), p.bias_len,
            p.bias_center};
  }

  // Whether a score is a positive multiple of its product.
  bool plain() const { return cap == 0 && !bias && scale > 0; }

  // s: products of one row, replaced by scores, for columns [first, stop). distance: index in the bias table
  // of column 0. tanh (kTile), if given, receives the softcap's tanh.
  void apply(A* s, int first, int stop, int64_t head, int64_t distance, A* tanh_out) const {
    constexpr int L = kLanes<A>;
    for (int c = first; c < stop; c += L) {
      Vec<A> t = load_bytes<Vec<A>>(s + c) * scale;
      if (cap != 0) {
        t = tanh(t);
        if (tanh_out) store(t, tanh_out + c);
        t *= cap;
      }
      store(t, s + c);
    }
    if (bias) add_bias(s, first, stop, bias + head * bias_len, distance + bias_center);
  }

 private:
  void add_bias(A* s, int first, int stop, const A* row, int64_t index) const {
    if (index + first >= 0 && index + stop <= bias_len)
      return add_row(row + index + first, stop - first, s + first);
    for (int c = first; c < stop; ++c) s[c] += row[smaller(larger(index + c, 0), bias_len - 1)];
  }
};

// dbias_row (bias_len) += ds of one row, columns [first, stop); hidden columns hold 0.
template <typename A>
inline void add_bias_gradient(const A* ds, int first, int stop, int64_t index, int64_t bias_len,
                              A* dbias_row) {
  if (index + first >= 0 && index + stop <= bias_len) {
    return add_row(ds + first, stop - first, dbias_row + index + first);
  }
  for (int c = first; c < stop; ++c) dbias_row[smaller(larger(index + c, 0), bias_len - 1)] += ds[c];
}

// keep (kTile) of one query and the keys from n0, a multiple of 4: the factor of each probability.
template <typename A>
inline void dropout_row(const AttentionParams& p, const Sequence& sequence, int64_t head, int64_t position,
                        int64_t n0, A* keep) {
  const A scale = static_cast<A>(p.keep_scale);
  for (int c = 0; c < kTile; c += 4) {
    const Draws draws = dropout_draws(n0 + c, position, head, sequence.index, p.seed);
    for (int i = 0; i < 4; ++i) keep[c + i] = draws.at[i] >= p.dropout_threshold ? scale : A{0};
  }
}

}  // namespace lck::LCK_ISA
