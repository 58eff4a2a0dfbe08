// Merge weights of chunks, and segments clamped to their tensors; shared by the CPU and CUDA kernels. Static,
// since each instruction set compiles its own copy.
#pragma once

#include "params.h"

namespace lck {

// A segment clamped to the tensors, for any values in the plan.
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

// sin(x) for x in [0, pi / 2] by its power series, accurate to the last bits of the type.
template <typename A>
LCK_HOST_DEVICE static inline A sin_series(A x) {
  const A z = x * x;
  A sum = 0;
  constexpr int kTerms = sizeof(A) == sizeof(double) ? 10 : 6;
  for (int k = kTerms; k >= 1; --k) sum = (1 + sum) * (-z / static_cast<A>(2 * k * (2 * k + 1)));
  return x + x * sum;
}

// Unnormalized weight of column u of a segment.
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
