// Which keys a query sees, key by key, by the definition.
#pragma once

#include <algorithm>
#include <cstdint>

#include "window.h"

namespace lck::test {

// segment_ids: (bounds.num_keys), or null.
inline bool sees(const Window& w, const KeyBounds& bounds, const int64_t* segment_ids, int64_t p, int64_t j) {
  if (j < 0 || j >= bounds.num_keys || j < bounds.kv_start || j >= bounds.kv_end) return false;
  int64_t start = bounds.kv_start;
  if (segment_ids) {
    if (p < 0 || p >= bounds.num_keys || segment_ids[p] != segment_ids[j]) return false;
    start = std::max(start, std::find(segment_ids, segment_ids + j, segment_ids[j]) - segment_ids);
  }
  if (w.chunk) {
    const auto chunk = [&](int64_t at) {
      int64_t number = (at - bounds.chunk_origin) / w.chunk;
      if (bounds.chunk_origin + number * w.chunk > at) --number;
      return number;
    };
    if (chunk(p) != chunk(j)) return false;
  }
  const bool before_end = w.right < 0 || j <= p + w.right;
  const bool after_begin = w.left < 0 || j >= p - w.left;
  return before_end && (after_begin || j - start < w.sink_tokens);
}

}  // namespace lck::test
