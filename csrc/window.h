// Which keys a query sees and which queries see a key; shared by the CPU and CUDA kernels and the tests.
//
// Positions are those of the keys of one sequence (a row of the batch, or a segment of packed input); a query
// has the position `p = i + offset`, which may be outside the keys. Spans are half-open; begin >= end is
// empty.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
  #define LCK_HOST_DEVICE __host__ __device__
#else
  #define LCK_HOST_DEVICE
#endif

namespace lck {

struct Span {
  int64_t begin, end;
};

struct Window {
  int64_t left, right;  // keys to each side, inclusive; -1 drops that bound
  int64_t sink_tokens;  // first keys from the sequence's (segment's) start that stay visible to the left
  int64_t chunk;        // a query sees only keys of its own chunk, of this many keys; 0: no chunks
};

// Bounds of the keys of one sequence.
struct KeyBounds {
  int64_t kv_start, kv_end;  // valid keys
  int64_t num_keys;
  int64_t chunk_origin;
};

// The keys that one query sees; `sink` is before `window` and disjoint from it.
struct VisibleKeys {
  Span window, sink;
};

LCK_HOST_DEVICE static inline int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}
LCK_HOST_DEVICE static inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
LCK_HOST_DEVICE static inline Span intersect(Span a, Span b) {
  return {larger(a.begin, b.begin), smaller(a.end, b.end)};
}
LCK_HOST_DEVICE static inline bool empty(Span s) {
  return s.begin >= s.end;
}
// The smallest span that contains both.
LCK_HOST_DEVICE static inline Span hull(Span a, Span b) {
  if (empty(a)) return b;
  if (empty(b)) return a;
  return {smaller(a.begin, b.begin), larger(a.end, b.end)};
}

// The chunk that contains a position.
LCK_HOST_DEVICE static inline Span chunk_of(const Window& w, const KeyBounds& bounds, int64_t position) {
  const int64_t past = position - bounds.chunk_origin;
  const int64_t number = past / w.chunk - (past % w.chunk < 0 ? 1 : 0);
  const int64_t begin = bounds.chunk_origin + number * w.chunk;
  return {begin, begin + w.chunk};
}

LCK_HOST_DEVICE static inline Span valid_keys(const KeyBounds& bounds) {
  return intersect({0, bounds.num_keys}, {bounds.kv_start, bounds.kv_end});
}

// The segment of every position of a sequence without segments: all keys, from the first valid one or
// earlier.
LCK_HOST_DEVICE static inline Span whole_sequence(const KeyBounds& bounds) {
  return {smaller(0, bounds.kv_start), bounds.num_keys};
}

// Keys seen by the query at p, whose segment is within `segment`.
LCK_HOST_DEVICE static inline VisibleKeys visible_keys(const Window& w, const KeyBounds& bounds, Span segment,
                                                       int64_t p) {
  Span keys = intersect(valid_keys(bounds), segment);
  if (w.chunk) keys = intersect(keys, chunk_of(w, bounds, p));
  if (w.right >= 0) keys.end = smaller(keys.end, p + w.right + 1);
  VisibleKeys seen{keys, {0, 0}};
  if (w.left >= 0 && p - w.left > keys.begin) {
    seen.window.begin = p - w.left;
    const int64_t start = larger(bounds.kv_start, segment.begin);
    seen.sink = {keys.begin, smaller(smaller(start + w.sink_tokens, keys.end), seen.window.begin)};
  }
  return seen;
}

// Positions of the queries that see key j, which must be valid.
LCK_HOST_DEVICE static inline Span visible_queries(const Window& w, const KeyBounds& bounds, Span segment,
                                                   int64_t j) {
  constexpr int64_t kFar = int64_t{1} << 62;
  const int64_t start = larger(bounds.kv_start, segment.begin);
  const bool sink = j - start < w.sink_tokens;
  Span queries{w.right >= 0 ? j - w.right : -kFar, w.left >= 0 && !sink ? j + w.left + 1 : kFar};
  return w.chunk ? intersect(queries, chunk_of(w, bounds, j)) : queries;
}

// Spans that contain all keys seen by the queries at [first, last]; with segments they may contain more.
LCK_HOST_DEVICE static inline VisibleKeys visible_hull(const Window& w, const KeyBounds& bounds,
                                                       bool segmented, int64_t first, int64_t last) {
  Span keys = valid_keys(bounds);
  if (w.chunk) {
    keys = intersect(keys, {chunk_of(w, bounds, first).begin, chunk_of(w, bounds, last).end});
  }
  if (w.right >= 0) keys.end = smaller(keys.end, last + w.right + 1);
  VisibleKeys seen{keys, {0, 0}};
  const bool scattered_sinks = segmented && w.sink_tokens > 0;
  if (w.left >= 0 && !scattered_sinks && first - w.left > keys.begin) {
    seen.window.begin = first - w.left;
    seen.sink = {keys.begin, smaller(smaller(bounds.kv_start + w.sink_tokens, keys.end), seen.window.begin)};
  }
  return seen;
}

}  // namespace lck
