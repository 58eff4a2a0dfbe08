// Tensors of any dtype on the heap, in memory of exactly their size, so that a sanitizer reports accesses
// outside.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "params.h"

namespace lck::test {

inline int64_t bytes_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}
inline DType accumulator_of(DType dtype) {
  return dtype == DType::kFloat64 ? dtype : DType::kFloat32;
}

inline uint16_t half_bits(double x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return 0x7e00;
  if (x == 0) return sign;
  if (std::isinf(x)) return sign | 0x7c00;
  const int exponent = std::max(std::ilogb(x), -14);
  const int64_t digits = std::lrint(std::ldexp(std::fabs(x), 10 - exponent));  // 1024 is the leading 1
  return static_cast<uint16_t>(sign | std::min<int64_t>(((exponent + 14) << 10) + digits, 0x7c00));
}
inline double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, digits = bits & 1023;
  const double size = exponent == 31 ? (digits ? NAN : INFINITY)
                      : exponent     ? std::ldexp(1024 + digits, exponent - 25)
                                     : std::ldexp(digits, -24);
  return bits & 0x8000 ? -size : size;
}

inline double load(DType dtype, const std::byte* p) {
  const auto as = [p](auto x) {
    std::memcpy(&x, p, sizeof(x));
    return x;
  };
  if (dtype == DType::kFloat64) return as(double{});
  if (dtype == DType::kFloat32) return as(float{});
  if (dtype == DType::kFloat16) return half_value(as(uint16_t{}));
  const uint32_t bits = static_cast<uint32_t>(as(uint16_t{})) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline void store(DType dtype, double value, std::byte* p) {
  const float single = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &single, sizeof(bits));
  const uint16_t half = dtype == DType::kFloat16 ? half_bits(value) : static_cast<uint16_t>(bits >> 16);
  if (dtype == DType::kFloat64) {
    std::memcpy(p, &value, sizeof(value));
  } else if (dtype == DType::kFloat32) {
    std::memcpy(p, &single, sizeof(single));
  } else {
    std::memcpy(p, &half, sizeof(half));
  }
}

// Memory layouts of a tensor: contiguous from the second element of its memory on; with NaN between the rows;
// with heads before rows; as kPlain and kPadded, with every row aligned to 16 bytes if dim is a multiple
// of 8.
enum class Storage { kPlain, kPadded, kHeadsFirst, kAligned, kAlignedPadded };

// The same layout with aligned rows.
inline Storage aligned(Storage storage) {
  return storage == Storage::kPadded  ? Storage::kAlignedPadded
         : storage == Storage::kPlain ? Storage::kAligned
                                      : storage;
}

// (batch, rows, heads, dim). Filled with NaN.
struct Tensor {
  DType dtype = DType::kFloat32;
  int64_t batch = 0, rows = 0, heads = 0, dim = 0;
  std::vector<std::byte> memory;
  HeadsTensor view{};  // null without elements, as in torch

  Tensor() = default;
  Tensor(DType dtype, int64_t batch, int64_t rows, int64_t heads, int64_t dim, Storage storage)
      : dtype(dtype), batch(batch), rows(rows), heads(heads), dim(dim) {
    const int64_t lead = storage == Storage::kPlain ? 1 : 0, pad = storage == Storage::kPadded          ? 3
                                                                   : storage == Storage::kAlignedPadded ? 8
                                                                                                        : 0;
    if (storage == Storage::kHeadsFirst) {
      view = {nullptr, heads * rows * dim, dim, rows * dim};
    } else {
      const int64_t head_stride = dim + pad, row_stride = heads * head_stride + pad;
      view = {nullptr, rows * row_stride + pad, row_stride, head_stride};
    }
    if (numel() == 0) return;
    const int64_t last =
        (batch - 1) * view.batch_stride + (rows - 1) * view.row_stride + (heads - 1) * view.head_stride + dim;
    memory.resize((lead + last) * bytes_of(dtype));
    for (size_t i = 0; i < memory.size(); i += bytes_of(dtype)) store(dtype, NAN, memory.data() + i);
    view.data = memory.data() + lead * bytes_of(dtype);
  }

  int64_t numel() const { return batch * rows * heads * dim; }
  std::byte* place(int64_t b, int64_t row, int64_t head, int64_t d = 0) const {
    const int64_t at = b * view.batch_stride + row * view.row_stride + head * view.head_stride + d;
    return static_cast<std::byte*>(const_cast<void*>(view.data)) + at * bytes_of(dtype);
  }
  // The `dim` elements of a row.
  std::vector<double> get(int64_t b, int64_t row, int64_t head) const {
    std::vector<double> x(dim);
    for (int64_t d = 0; d < dim; ++d) x[d] = load(dtype, place(b, row, head, d));
    return x;
  }
  void set(int64_t b, int64_t row, int64_t head, double value) {
    for (int64_t d = 0; d < dim; ++d) store(dtype, value, place(b, row, head, d));
  }
  void fill(std::mt19937& random) {
    std::uniform_real_distribution<double> uniform(-1, 1);
    for (int64_t i = 0; i < batch * rows * heads; ++i) {
      for (int64_t d = 0; d < dim; ++d) {
        store(dtype, uniform(random), place(i / (rows * heads), i / heads % rows, i % heads, d));
      }
    }
  }
};

// Expected values of a tensor, contiguous (batch, rows, heads, dim), to which sums are added.
struct Sums {
  int64_t rows, heads, dim;
  std::vector<double> x;

  Sums(int64_t batch, int64_t rows, int64_t heads, int64_t dim)
      : rows(rows), heads(heads), dim(dim), x(batch * rows * heads * dim) {}
  explicit Sums(const Tensor& like) : Sums(like.batch, like.rows, like.heads, like.dim) {}
  double* at(int64_t b, int64_t row, int64_t head) {
    return x.data() + ((b * rows + row) * heads + head) * dim;
  }
};

inline bool near(double got, double want, double tolerance) {
  return got == want || std::fabs(got - want) <= tolerance;
}

// Ends the test unless `got` is near `want` in every element; `what` and `name` are for the message.
inline void check_near(const char* what, const char* name, const Tensor& got, const Sums& want,
                       double tolerance) {
  double largest = 1;
  for (const double x : want.x) {
    if (std::isfinite(x)) largest = std::max(largest, std::fabs(x));
  }
  for (size_t i = 0; i < want.x.size(); ++i) {
    const int64_t d = i % got.dim, row = i / got.dim;
    const int64_t b = row / (got.rows * got.heads), s = row / got.heads % got.rows, h = row % got.heads;
    const double x = load(got.dtype, got.place(b, s, h, d));
    if (near(x, want.x[i], tolerance * largest)) continue;
    std::fprintf(stderr, "%s: %s[%d, %d, %d, %d] is %.9g, not %.9g\n", what, name, static_cast<int>(b),
                 static_cast<int>(s), static_cast<int>(h), static_cast<int>(d), x, want.x[i]);
    std::exit(1);
  }
}

// Tolerance from the rounding of results and accumulators of numbers about 1.
inline double tolerance_of(DType dtype) {
  return dtype == DType::kFloat64   ? 1e-12
         : dtype == DType::kFloat32 ? 2e-5
         : dtype == DType::kFloat16 ? 3e-3
                                    : 2e-2;
}

}  // namespace lck::test
