// The weight of a chunk at a position, and where a segment lies: the only place in C++ and CUDA where merge
// weights are made. Static, since each instruction set compiles a copy of its own.
#pragma once

#include "params.h"

namespace lck {

// A segment cut down to what lies inside the tensors, whatever the plan says.
LCK_HOST_DEVICE static inline Segment inside(Segment s, int64_t num_chunks, int64_t chunk_len,
                                             int64_t total_len) {
  const bool in_row = s.row >= 0 && s.row < num_chunks && s.col >= 0 && s.start >= 0 && s.length >= 0;
  if (!in_row) return Segment{};
  const int64_t columns = chunk_len - s.col, positions = total_len - s.start;
  const int64_t room = columns < positions ? columns : positions;
  if (s.length > room) s.length = static_cast<int32_t>(room > 0 ? room : 0);
  return s;
}

LCK_HOST_DEVICE static inline Segment inside(const Segment& s, const OverlapParams& p) {
  return inside(s, p.num_chunks, p.chunk_len, p.total_len);
}

// sin(x) for x in [0, pi / 2] by its series, to the last bits of its type.
template <typename A>
LCK_HOST_DEVICE static inline A sin_series(A x) {
  const A z = x * x;
  A sum = 0;
  constexpr int kTerms = sizeof(A) == sizeof(double) ? 10 : 6;
  for (int k = kTerms; k >= 1; --k) sum = (1 + sum) * (-z / static_cast<A>(2 * k * (2 * k + 1)));
  return x + x * sum;
}

// Weight of place u of a segment of length n.
template <typename A>
LCK_HOST_DEVICE static inline A weight_at(const Segment& s, WeightMode mode, const A* explicit_row,
                                          int64_t u) {
  switch (mode) {
    case WeightMode::kExplicit:
      return explicit_row[s.col + u];
    case WeightMode::kCrop:
      return u >= s.keep_start && u < s.keep_end ? A(1) : A(0);
    case WeightMode::kTriangular:
    case WeightMode::kHann: {
      const int64_t left = s.starts_document ? s.length : u + 1;
      const int64_t right = s.ends_document ? s.length : s.length - u;
      const A m = static_cast<A>(left < right ? left : right);
      if (mode == WeightMode::kTriangular) return m;
      const A sine = sin_series(m * static_cast<A>(1.57079632679489661923) / (static_cast<A>(s.length) + 1));
      return sine * sine;
    }
    default:
      return A(1);
  }
}

}  // namespace lck
