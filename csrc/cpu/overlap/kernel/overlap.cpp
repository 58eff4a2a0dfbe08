// overlap_merge and overlap_split on the CPU: loops over output tiles > positions > the chunks that cover one
// > dim. Compiled once per instruction set (LCK_ISA).
#include "cpu/overlap/kernel/weights.h"
#include "cpu/overlap/kernels.h"
#include "cpu/simd/row_sums.h"
#include "cpu/simd/vec.h"

namespace lck::LCK_ISA {

namespace {

template <typename T>
Acc<T> dot(const T* x, const T* y, int64_t dim) {
  constexpr int kGroups = 4 / kGroup<T>, kStep = kGroups * kGroupElements<T>;
  Vec<Acc<T>> total[4] = {};
  int64_t d = 0;
  for (; d + kStep <= dim; d += kStep) {
    for (int j = 0; j < kGroups; ++j) {
      const Group<T> left = load(x + d + j * kGroupElements<T>), right = load(y + d + j * kGroupElements<T>);
      for (int h = 0; h < kGroup<T>; ++h) total[j * kGroup<T> + h] += left.v[h] * right.v[h];
    }
  }
  Acc<T> result = sum<Acc<T>>((total[0] + total[1]) + (total[2] + total[3]));
  for (; d < dim; ++d) result += to_acc(x[d]) * to_acc(y[d]);
  return result;
}

template <typename T>
T* chunk_row(const OverlapParams& p, const Segment& s, int64_t position) {
  const int64_t column = s.col + (position - s.start);
  return static_cast<T*>(p.chunks) + s.row * p.chunk_stride + column * p.column_stride;
}

template <typename T>
T* position_row(const OverlapParams& p, int64_t position) {
  return static_cast<T*>(p.sequence) + position * p.position_stride;
}

// The parts of a kernel's scratch memory, for at most `count` segments a tile.
template <typename T>
struct Scratch {
  Acc<T>* sums;     // (kTileLen)
  Acc<T>* weights;  // (segments, kTileLen)
  Terms<T> terms;
  Acc<T>* dots;       // (segments)
  Segment* segments;  // (segments)

  Scratch(void* memory, int64_t count) {
    sums = static_cast<Acc<T>*>(memory);
    weights = sums + kTileLen;
    terms.rows = reinterpret_cast<const T**>(weights + count * kTileLen);
    terms.weights = reinterpret_cast<Acc<T>*>(terms.rows + count);
    dots = terms.weights + count;
    segments = reinterpret_cast<Segment*>(dots + count);
    terms.count = 0;
  }
};

template <typename T>
int64_t gather(const OverlapParams& p, int64_t tile_begin, int64_t tile_end, void* memory) {
  int64_t bad = -1;
  Scratch<T> scratch(memory, p.most_segments);
  for (int64_t index = tile_begin; index < tile_end; ++index) {
    const Tile tile = tile_at(p, index, scratch.segments);
    const int64_t wrong = normalized_weights(p, tile, scratch.weights, scratch.sums);
    if (wrong >= 0 && bad < 0) bad = tile.start + wrong;
    for (int64_t i = 0; i < tile.length; ++i) {
      Terms<T>& terms = scratch.terms;
      terms.count = 0;
      for (int64_t n = 0; n < tile.count; ++n) {
        const Acc<T> weight = scratch.weights[n * kTileLen + i];
        if (weight == 0) continue;
        terms.rows[terms.count] = chunk_row<T>(p, tile.segments[n], tile.start + i);
        terms.weights[terms.count++] = weight;
      }
      write_row(terms, position_row<T>(p, tile.start + i), p.dim, p.stream_out);
    }
  }
  if (p.stream_out) stream_fence();
  return bad;
}

template <typename T>
int64_t scatter(const OverlapParams& p, int64_t tile_begin, int64_t tile_end, void* memory) {
  Scratch<T> scratch(memory, p.most_segments);
  for (int64_t index = tile_begin; index < tile_end; ++index) {
    const Tile tile = tile_at(p, index, scratch.segments);
    normalized_weights(p, tile, scratch.weights, scratch.sums);
    for (int64_t i = 0; i < tile.length; ++i) {
      for (int64_t n = 0; n < tile.count; ++n) {
        if (!tile.covers(n, tile.start + i)) continue;
        scratch.terms.rows[0] = position_row<T>(p, tile.start + i);
        scratch.terms.weights[0] = scratch.weights[n * kTileLen + i];
        scratch.terms.count = scratch.terms.weights[0] == 0 ? 0 : 1;
        write_row(scratch.terms, chunk_row<T>(p, tile.segments[n], tile.start + i), p.dim, p.stream_out);
      }
    }
  }
  if (p.stream_out) stream_fence();
  return -1;
}

// dweights = (<dout, x> - sum of weight * <dout, x>) / sum of weights, at each covered column. At a zero
// weight it is 0 if the product is not finite.
template <typename T>
int64_t weight_grad(const OverlapParams& p, int64_t tile_begin, int64_t tile_end, void* memory) {
  using A = Acc<T>;
  Scratch<T> scratch(memory, p.most_segments);
  for (int64_t index = tile_begin; index < tile_end; ++index) {
    const Tile tile = tile_at(p, index, scratch.segments);
    normalized_weights(p, tile, scratch.weights, scratch.sums);
    for (int64_t i = 0; i < tile.length; ++i) {
      const int64_t position = tile.start + i;
      const T* dout = position_row<T>(p, position);
      A mean = 0;
      for (int64_t n = 0; n < tile.count; ++n) {
        if (!tile.covers(n, position)) continue;
        const A weight = scratch.weights[n * kTileLen + i];
        scratch.dots[n] = dot(dout, chunk_row<T>(p, tile.segments[n], position), p.dim);
        if (weight > 0) mean += weight * scratch.dots[n];
      }
      for (int64_t n = 0; n < tile.count; ++n) {
        if (!tile.covers(n, position)) continue;
        const Segment& s = tile.segments[n];
        const A total = scratch.sums[i], value = scratch.dots[n];
        const bool read = scratch.weights[n * kTileLen + i] > 0 || value - value == 0;
        A* out = static_cast<A*>(p.dweights) + s.row * p.chunk_len + s.col + (position - s.start);
        *out = read && total > 0 ? (value - mean) / total : A(0);
      }
    }
  }
  return -1;
}

template <typename T>
void fill(const OverlapParams& p, int64_t begin, int64_t end) {
  const int64_t row_bytes = p.dim * static_cast<int64_t>(sizeof(T));
  for (int64_t n = begin; n < end; ++n) {
    const Segment s = inside(p.segments[n], p);
    const int64_t stop = s.fill_end < p.chunk_len ? s.fill_end : p.chunk_len;
    for (int64_t column = s.fill_start < 0 ? 0 : s.fill_start; column < stop; ++column) {
      if (column == s.col) column += s.length;
      if (column >= stop) break;
      T* row = static_cast<T*>(p.chunks) + s.row * p.chunk_stride + column * p.column_stride;
      std::memset(static_cast<void*>(row), 0, row_bytes);
    }
  }
}

template <typename T>
constexpr OverlapKernels kKernels = {gather<T>, scatter<T>, weight_grad<T>, fill<T>};

}  // namespace

const OverlapKernels& overlap_kernels(DType dtype) {
  return for_element_of(dtype, []<typename T>() -> const OverlapKernels& { return kKernels<T>; });
}

}  // namespace lck::LCK_ISA
