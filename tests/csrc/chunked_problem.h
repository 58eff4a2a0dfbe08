// Problems of chunked attention: the arguments of the kernels, and the expected results.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cpu/chunked/run.h"
#include "params.h"
#include "plain_attention.h"
#include "tensor.h"

namespace lck::test {

struct ChunkedCase {
  const char* name;
  int64_t total_len, chunk_len;
  std::vector<Segment> segments;
  std::vector<Segment> damaged{};  // passed to the kernel with those above, without effect on results
  int64_t num_chunks = 1, num_extra = 0, heads = 2, kv_heads = 1, dim = 16, dim_v = 16;
  bool extra_gradient = true, row_dots = true;
  bool nan_queries = false;  // where every weight is 0, which must not be read
  Storage storage = Storage::kPlain;
};

inline Segment segment(int32_t row, int32_t col, int32_t start, int32_t length) {
  return {row, col, start, length, 0, length, 0, 0, 0, 0};
}

// Chunks of `length` positions from column 1 on, every `step`, up to the end of the sequence.
inline std::vector<Segment> chunks(int32_t total, int32_t length, int32_t step) {
  std::vector<Segment> all;
  for (int32_t start = 0, row = 0; start < total; start += step, ++row) {
    all.push_back(segment(row, 1, start, std::min(length, total - start)));
  }
  return all;
}

// Every second position in segments of one, and all positions in one chunk.
inline std::vector<Segment> every_second(int32_t total) {
  std::vector<Segment> all{segment(1, 0, 0, total)};
  for (int32_t i = 0; 2 * i < total; ++i) all.push_back(segment(0, i, 2 * i, 1));
  return all;
}

inline std::vector<ChunkedCase> chunked_cases() {
  constexpr int32_t kMost = INT32_MAX, kLeast = INT32_MIN;
  return {
      {.name = "overlapping",
       .total_len = 230,
       .chunk_len = 102,
       .segments = chunks(230, 100, 60),
       .num_chunks = 4,
       .num_extra = 2,
       .heads = 4,
       .kv_heads = 2},
      {.name = "one chunk",
       .total_len = 65,
       .chunk_len = 66,
       .segments = chunks(65, 65, 65),
       .dim = 1,
       .dim_v = 5},
      {.name = "queries of weight 0",
       .total_len = 65,
       .chunk_len = 66,
       .segments = chunks(65, 65, 65),
       .num_chunks = 2,  // the second has no segment
       .row_dots = false,
       .nan_queries = true},
      {.name = "short chunks",
       .total_len = 47,
       .chunk_len = 8,
       .segments = chunks(47, 7, 3),
       .num_chunks = 16,
       .dim = 40,
       .dim_v = 8,
       .storage = Storage::kPadded},
      {.name = "several segments",
       .total_len = 210,
       .chunk_len = 140,
       .segments = {segment(1, 70, 0, 60), segment(0, 0, 10, 90), segment(0, 100, 150, 40),
                    segment(1, 0, 100, 66), segment(2, 3, 90, 120), segment(1, 139, 209, 1)},
       .num_chunks = 3,
       .num_extra = 67,
       .storage = Storage::kHeadsFirst},
      {.name = "long chunks",  // whose queries are divided among tasks
       .total_len = 620,
       .chunk_len = 521,
       .segments = chunks(620, 520, 200),
       .num_chunks = 4,
       .num_extra = 1,
       .dim = 8,
       .dim_v = 8},
      {.name = "long chunks without row dots",
       .total_len = 620,
       .chunk_len = 521,
       .segments = chunks(620, 520, 200),
       .num_chunks = 4,
       .heads = 4,
       .dim = 8,
       .dim_v = 8,
       .row_dots = false},
      {.name = "more key tiles than keep their products",
       .total_len = 140,
       .chunk_len = 140,
       .segments = every_second(140),
       .num_chunks = 2,
       .num_extra = 1},
      {.name = "extra rows without a gradient",
       .total_len = 97,
       .chunk_len = 70,
       .segments = chunks(97, 64, 48),
       .num_chunks = 4,  // the last has no segment
       .num_extra = 3,
       .dim = 8,
       .dim_v = 40,
       .extra_gradient = false,
       .row_dots = false},
      {.name = "no sequence",
       .total_len = 0,
       .chunk_len = 4,
       .segments = {},
       .num_chunks = 2,
       .num_extra = 3},
      {.name = "no chunks", .total_len = 5, .chunk_len = 4, .segments = {}, .num_chunks = 0},
      {.name = "damaged segments",
       .total_len = 130,
       .chunk_len = 70,
       .segments = {segment(0, 0, 0, 70), segment(1, 60, 60, 10), segment(2, 10, 70, 60)},
       .damaged = {segment(-1, 0, 0, 9), segment(3, 0, 0, 9), segment(kMost, 0, 0, 9), segment(0, -1, 0, 9),
                   segment(0, 70, 0, 9), segment(1, kLeast, 0, kMost), segment(1, kMost, 3, kMost),
                   segment(1, 0, -1, 9), segment(1, 0, 130, 9), segment(1, 0, kMost, kMost),
                   segment(1, 0, kLeast, kMost), segment(1, 0, 5, 0), segment(1, 0, 5, -7),
                   segment(1, 0, 5, kLeast)},
       .num_chunks = 3,
       .num_extra = 1},
  };
}

// Results, expected or computed by a kernel.
template <typename T>
struct ChunkedResults {
  T out, dq, dk, dv, extra_out, extra_dq, extra_dk, extra_dv, row_dots;
};

struct ChunkedProblem {
  const ChunkedCase& c;
  DType dtype;
  std::vector<Segment> segments;
  Tensor q, k, v, dout, extra_q, extra_k, extra_v, extra_dout;
  Tensor merge_weights;  // (1, num_chunks, 1, chunk_len)

  ChunkedProblem(const ChunkedCase& c, DType dtype)
      : c(c),
        dtype(dtype),
        segments(c.damaged),
        q(positions(c.heads, c.dim)),
        k(positions(c.kv_heads, c.dim)),
        v(positions(c.kv_heads, c.dim_v)),
        dout(positions(c.heads, c.dim_v)),
        extra_q(extra(c.heads, c.dim)),
        extra_k(extra(c.kv_heads, c.dim)),
        extra_v(extra(c.kv_heads, c.dim_v)),
        extra_dout(extra(c.heads, c.dim_v)),
        merge_weights(accumulator_of(dtype), 1, c.num_chunks, 1, c.chunk_len, Storage::kPlain) {
    segments.insert(segments.begin() + segments.size() / 2, c.segments.begin(), c.segments.end());
    std::mt19937 random(13);
    for (Tensor* x : {&q, &k, &v, &dout, &extra_q, &extra_k, &extra_v, &extra_dout, &merge_weights})
      x->fill(random);
    // Weights of 0: all but some of the first chunk's, every ninth of the others.
    for (int64_t row = 0; row < c.num_chunks; ++row) {
      for (int64_t column = 0; column < c.chunk_len; ++column) {
        std::byte* at = merge_weights.place(0, row, 0, column);
        const bool none = row == 0 && c.num_chunks > 1 ? column < 30 || column > 50 : column % 9 == 0;
        store(merge_weights.dtype, none ? 0 : std::fabs(load(merge_weights.dtype, at)), at);
      }
    }
    for (const Segment& one : c.segments) {
      for (int64_t u = 0; c.nan_queries && u < one.length; ++u) {
        if (weight(one.row, one.col + u) != 0) continue;
        for (int64_t head = 0; head < c.heads; ++head) q.set(0, one.start + u, head, NAN);
      }
    }
  }

  // Results of the problem's shapes, and params that point to them, without tables.
  ChunkedResults<Tensor> results(Storage storage, ChunkedParams* p) const {
    const auto like = [storage](const Tensor& x) {
      return Tensor(x.dtype, x.batch, x.rows, x.heads, x.dim, storage);
    };
    ChunkedResults<Tensor> r{like(dout),    like(q),          like(k),
                             like(v),       like(extra_dout), like(extra_q),
                             like(extra_k), like(extra_v),    like(merge_weights)};
    AttentionParams &s = p->sequence, &e = p->extra;
    s.batch = 1, s.seqlen_q = s.seqlen_k = c.total_len;
    s.num_heads = c.heads, s.num_kv_heads = c.kv_heads, s.head_dim = c.dim, s.head_dim_v = c.dim_v;
    s.softmax_scale = softmax_scale();
    e = s;
    e.batch = c.num_chunks, e.seqlen_q = e.seqlen_k = c.num_extra;
    s.q = q.view, s.k = k.view, s.v = v.view, s.dout = dout.view, s.out = r.out.view;
    s.dq = r.dq.view, s.dk = r.dk.view, s.dv = r.dv.view;
    e.q = extra_q.view, e.k = extra_k.view, e.v = extra_v.view, e.out = r.extra_out.view;
    e.dq = r.extra_dq.view, e.dk = r.extra_dk.view, e.dv = r.extra_dv.view;
    if (c.extra_gradient) e.dout = extra_dout.view;
    p->num_chunks = c.num_chunks, p->chunk_len = c.chunk_len, p->num_extra = c.num_extra;
    p->extra_queries = c.extra_gradient && c.num_extra > 0;
    p->merge_weights = merge_weights.view.data;
    return r;
  }

  ChunkedResults<Tensor> run(Isa isa) const {
    ChunkedParams p{};
    ChunkedResults<Tensor> r = results(Storage::kPlain, &p);
    ChunkedTables tables;
    const std::vector<Segment> exact(segments);  // of no more capacity than size
    build_chunked_tables(exact.data(), exact.size(), &tables, &p);
    run_chunked_forward(isa, dtype, p);
    run_chunked_backward(isa, dtype, p, c.row_dots ? const_cast<void*>(r.row_dots.view.data) : nullptr);
    return r;
  }

  ChunkedResults<Sums> expected() const {
    ChunkedResults<Sums> r{Sums(dout),    Sums(q),          Sums(k),
                           Sums(v),       Sums(extra_dout), Sums(extra_q),
                           Sums(extra_k), Sums(extra_v),    Sums(merge_weights)};
    for (int64_t chunk = 0; chunk < c.num_chunks; ++chunk) {
      for (int64_t head = 0; head < c.heads; ++head) add_expected(chunk, head, &r);
    }
    return r;
  }

 private:
  Tensor positions(int64_t heads, int64_t dim) const {
    return Tensor(dtype, 1, c.total_len, heads, dim, c.storage);
  }
  Tensor extra(int64_t heads, int64_t dim) const {
    return Tensor(dtype, c.num_chunks, c.num_extra, heads, dim, c.storage);
  }
  double weight(int64_t chunk, int64_t column) const {
    return load(merge_weights.dtype, merge_weights.place(0, chunk, 0, column));
  }
  double softmax_scale() const { return 1.5 / std::sqrt(static_cast<double>(c.dim)); }

  void add_expected(int64_t chunk, int64_t head, ChunkedResults<Sums>* r) const {
    const int64_t kv_head = head / (c.heads / c.kv_heads);
    std::vector<PlainKey> keys;
    const auto each_position = [&](auto body) {
      for (const Segment& s : c.segments) {
        for (int64_t u = 0; s.row == chunk && u < s.length; ++u) body(s.start + u, s.col + u);
      }
    };
    each_position([&](int64_t t, int64_t) {
      keys.push_back(
          {k.get(0, t, kv_head), v.get(0, t, kv_head), r->dk.at(0, t, kv_head), r->dv.at(0, t, kv_head)});
    });
    for (int64_t e = 0; e < c.num_extra; ++e) {
      keys.push_back({extra_k.get(chunk, e, kv_head), extra_v.get(chunk, e, kv_head),
                      r->extra_dk.at(chunk, e, kv_head), r->extra_dv.at(chunk, e, kv_head)});
    }
    // A row's output and its gradient count `weight` times.
    const auto attend = [&](const Row& query, Row gradient, double weight, double* dq, double* out) {
      for (double& x : gradient) x *= weight;
      const auto result = plain_attention({softmax_scale()}, query, keys, gradient, 0, dq, nullptr);
      for (int64_t d = 0; d < c.dim_v; ++d) out[d] += weight * result.out[d];
      return result;
    };
    each_position([&](int64_t t, int64_t column) {
      const double weight = this->weight(chunk, column);
      if (c.nan_queries && weight == 0) return;
      const auto gradient = dout.get(0, t, head);
      const auto result =
          attend(q.get(0, t, head), gradient, weight, r->dq.at(0, t, head), r->out.at(0, t, head));
      r->row_dots.at(0, chunk, 0)[column] += dot(gradient, result.out.data());
    });
    for (int64_t e = 0; e < c.num_extra; ++e) {
      auto gradient = extra_dout.get(chunk, e, head);
      if (!c.extra_gradient) gradient.assign(gradient.size(), 0);
      attend(extra_q.get(chunk, e, head), gradient, 1, r->extra_dq.at(chunk, e, head),
             r->extra_out.at(chunk, e, head));
    }
  }
};

}  // namespace lck::test
