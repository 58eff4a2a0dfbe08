// Blocks of query rows, and which keys of a tile each row sees. Included only by files that are compiled once
// per instruction set.
#pragma once

#include "cpu/attention/kernel/operands.h"
#include "cpu/attention/tiles.h"
#include "params.h"

namespace lck::LCK_ISA {

// Positions of the tensors' rows.
template <typename T>
inline T* row_of(const HeadsTensor& x, int64_t batch, int64_t row, int64_t head) {
  return static_cast<T*>(const_cast<void*>(x.data)) + batch * x.batch_stride + row * x.row_stride +
         head * x.head_stride;
}

inline int64_t lse_index(const AttentionParams& p, const Sequence& sequence, QueryRow row) {
  return (sequence.batch * p.num_heads + row.head) * p.seqlen_q + sequence.q_begin + row.query;
}

// Keys seen by the query at a position of a sequence.
inline VisibleKeys keys_seen(const AttentionParams& p, const Sequence& sequence, int64_t position) {
  return visible_keys(p.window, sequence.bounds, segment_of(p, sequence, position), position);
}

// Of the bases of a block's softmax.
struct BaseFlags {
  bool unset;  // some are -inf
  bool far;    // some are beyond kFusedLimit
};

// Up to kRows queries that are multiplied together.
struct RowBlock {
  int rows;  // in use
  BaseFlags bases;
  Span hull[2];  // of all rows' windows, and of their sinks
  Span common;   // keys in every row's window
  QueryRow row[kRows];
  int64_t position[kRows];
  VisibleKeys seen[kRows];

  void add(QueryRow next, int64_t at, const VisibleKeys& keys) {
    const int r = rows++;
    row[r] = next;
    position[r] = at;
    seen[r] = keys;
    if (r == 0) hull[0] = hull[1] = {0, 0}, common = keys.window;
    common = intersect(common, keys.window);
    hull[0] = lck::hull(hull[0], keys.window);
    hull[1] = lck::hull(hull[1], keys.sink);
  }

  // Sets the visible keys of every row.
  void see(Span keys) {
    for (int r = 0; r < rows; ++r) seen[r] = {keys, {0, 0}};
    common = hull[0] = keys;
    hull[1] = {0, 0};
  }

  // The hull of the keys of the tile from key n0 that some row sees.
  Span keys(int64_t n0) const {
    const Span tile{n0, n0 + kTile};
    return lck::hull(intersect(hull[0], tile), intersect(hull[1], tile));
  }

  // Their columns, widened to whole vectors.
  template <typename A>
  Span columns(int64_t n0) const {
    const Span keys = this->keys(n0);
    if (empty(keys)) return {0, 0};
    return {(keys.begin - n0) / kLanes<A> * kLanes<A>, round_up(keys.end - n0, kLanes<A>)};
  }

  // Whether every row sees all of these columns.
  bool sees_all(int64_t n0, Span columns) const {
    return common.begin <= n0 + columns.begin && n0 + columns.end <= common.end;
  }
};

// The columns of a tile that one row sees: two spans, without those that `penalty` hides.
template <typename A>
struct ColumnMask {
  int window_begin, window_end, sink_begin, sink_end;

  static ColumnMask of(const VisibleKeys& seen, int64_t n0) {
    const auto clip = [n0](int64_t key) { return static_cast<int>(smaller(larger(key - n0, 0), kTile)); };
    return {clip(seen.window.begin), clip(seen.window.end), clip(seen.sink.begin), clip(seen.sink.end)};
  }

  // Lanes of the vector of columns from `column` on.
  VecInt<A> lanes(int column) const {
    VecInt<A> index;
    for (int i = 0; i < kLanes<A>; ++i) index[i] = i;
    index += column;
    const VecInt<A> window = inside(index, window_begin, window_end);
    return sink_begin < sink_end ? window | inside(index, sink_begin, sink_end) : window;
  }

 private:
  // One comparison: what is below `begin` is large without a sign.
  static VecInt<A> inside(VecInt<A> index, int begin, int end) {
    using Unsigned = Vec<Conditional<sizeof(A) == 8, uint64_t, uint32_t>>;
    return bit_cast<Unsigned>(index - begin) <
           Unsigned{} + static_cast<unsigned>(end > begin ? end - begin : 0);
  }
};

}  // namespace lck::LCK_ISA
