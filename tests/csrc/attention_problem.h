// Problems of windowed attention: the arguments of the kernels, and the expected results.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "cpu/attention/run.h"
#include "params.h"
#include "plain_attention.h"
#include "plain_window.h"
#include "tensor.h"

namespace lck::test {

struct Case {
  const char* name;
  int64_t seqlen_q, seqlen_k;  // packed: of all sequences
  std::vector<DType> dtypes{DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64};
  int64_t batch = 1, heads = 2, kv_heads = 1, dim = 16, dim_v = 16;
  Window window{-1, -1, 0, 0};
  Storage storage = Storage::kPlain;
  double softcap = 0, dropout_p = 0;
  double steepness = 1.5;  // softmax_scale times sqrt(dim)
  int64_t bias_len = 0, bias_center = 0;
  bool sink_logits = false, dlse = false;
  bool forward_only = false;
  bool nan_values = false;  // in keys and values that must not be read, and in queries that see no key
  std::vector<int64_t> cu_seqlens_q{}, cu_seqlens_k{};
  std::vector<int64_t> offsets{}, kv_start{}, kv_end{}, chunk_origins{}, segment_ids{};
  std::vector<uint8_t> kv_mask{};
};

// Results and gradients, expected or computed by a kernel.
template <typename T>
struct Results {
  T out, lse, dq, dk, dv, delta, dbias,
      dsink;  // lse, delta (batch, heads, rows, 1); dbias (1, heads, 1, len)
};

// The draws of Philox4x32-10 at a counter. Source: Salmon et al., SC 2011.
inline std::vector<uint32_t> philox(std::vector<uint32_t> x, uint64_t seed) {
  uint64_t low = seed & 0xffffffff, high = seed >> 32;
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = 0xD2511F53 * uint64_t{x[0]}, b = 0xCD9E8D57 * uint64_t{x[2]};
    const uint64_t k0 = low + round * 0x9E3779B9ull, k1 = high + round * 0xBB67AE85ull;
    x = {static_cast<uint32_t>((b >> 32) ^ x[1] ^ k0), static_cast<uint32_t>(b),
         static_cast<uint32_t>((a >> 32) ^ x[3] ^ k1), static_cast<uint32_t>(a)};
  }
  return x;
}

struct Problem {
  const Case& c;
  DType dtype;
  Tensor q, k, v, dout, dlse, bias, sinks;
  LayoutTables layout{};
  AttentionTables tables;
  AttentionParams params{};

  Problem(const Case& c, DType dtype)
      : c(c),
        dtype(dtype),
        q(dtype, c.batch, c.seqlen_q, c.heads, c.dim, c.storage),
        k(dtype, c.batch, c.seqlen_k, c.kv_heads, c.dim, c.storage),
        v(dtype, c.batch, c.seqlen_k, c.kv_heads, c.dim_v, c.storage),
        dout(dtype, c.batch, c.seqlen_q, c.heads, c.dim_v, c.storage),
        dlse(accumulator_of(dtype), c.batch, c.heads, c.seqlen_q, 1, Storage::kPlain),
        bias(accumulator_of(dtype), 1, c.heads, 1, c.bias_len, Storage::kPlain),
        sinks(accumulator_of(dtype), 1, c.heads, 1, 1, Storage::kPlain) {
    std::mt19937 random(11);
    for (Tensor* x : {&q, &k, &v, &dout, &dlse, &bias, &sinks}) x->fill(random);
    for (int64_t t = 0; c.nan_values && t < num_sequences(); ++t) {
      spoil_hidden_keys(t);
      spoil_blind_queries(t);
    }
    AttentionParams& p = params;
    p.q = q.view, p.k = k.view, p.v = v.view, p.dout = dout.view;
    p.batch = c.batch, p.seqlen_q = c.seqlen_q, p.seqlen_k = c.seqlen_k;
    p.num_heads = c.heads, p.num_kv_heads = c.kv_heads, p.head_dim = c.dim, p.head_dim_v = c.dim_v;
    p.window = c.window;
    p.softmax_scale = softmax_scale(), p.softcap = c.softcap;
    p.bias_len = c.bias_len, p.bias_center = c.bias_center;
    p.kv_mask = c.kv_mask.empty() ? nullptr : c.kv_mask.data();
    p.sink_logits = c.sink_logits ? sinks.view.data : nullptr;
    p.dlse = c.dlse ? dlse.view.data : nullptr;
    p.dropout = c.dropout_p > 0;
    p.dropout_threshold = threshold();
    p.keep_scale = 1 / (1 - c.dropout_p);
    p.seed = kSeed;
    const auto table = [](const std::vector<int64_t>& x) { return x.empty() ? nullptr : x.data(); };
    layout.batch = c.batch, layout.num_sequences = num_sequences();
    layout.cu_seqlens_q = table(c.cu_seqlens_q), layout.cu_seqlens_k = table(c.cu_seqlens_k);
    layout.offsets = table(c.offsets), layout.offset_step = 1;
    layout.kv_start = table(c.kv_start), layout.kv_end = table(c.kv_end);
    layout.chunk_origins = table(c.chunk_origins), layout.chunk_origin_step = 1;
    layout.segment_ids = table(c.segment_ids);
    build_tables(layout, &tables, &p);
    if (c.bias_len) p.rel_bias = bias.view.data;
  }

  // Results of the problem's shapes, and params that point to them.
  Results<Tensor> results(Storage storage, AttentionParams* p) const {
    const DType acc = accumulator_of(dtype);
    const auto rows = [&] { return Tensor(acc, c.batch, c.heads, c.seqlen_q, 1, storage); };
    const auto like = [&](const Tensor& x) {
      return Tensor(x.dtype, x.batch, x.rows, x.heads, x.dim, storage);
    };
    Results<Tensor> r{like(dout), rows(), like(q), like(k), like(v), rows(), like(bias), like(sinks)};
    p->out = r.out.view, p->dq = r.dq.view, p->dk = r.dk.view, p->dv = r.dv.view;
    p->lse = const_cast<void*>(r.lse.view.data), p->delta = const_cast<void*>(r.delta.view.data);
    return r;
  }

  Results<Tensor> run(Isa isa) const {
    AttentionParams p = params;
    Results<Tensor> r = results(Storage::kPlain, &p);
    run_attention_forward(isa, dtype, p);
    run_attention_backward(isa, dtype, p, c.bias_len ? const_cast<void*>(r.dbias.view.data) : nullptr,
                           c.sink_logits ? const_cast<void*>(r.dsink.view.data) : nullptr);
    return r;
  }

  Results<Sums> expected() const {
    const Sums rows(c.batch, c.heads, c.seqlen_q, 1);
    Results<Sums> r{Sums(dout), rows, Sums(q), Sums(k), Sums(v), rows, Sums(bias), Sums(sinks)};
    for (int64_t t = 0; t < num_sequences(); ++t) {
      for (int64_t head = 0; head < c.heads; ++head) {
        for (int64_t i = 0; i < sequence(t).q_len; ++i) add_expected(t, head, i, &r);
      }
    }
    return r;
  }

  static constexpr uint64_t kSeed = 0x123456789abcdef;

 private:
  bool packed() const { return !c.cu_seqlens_q.empty(); }
  int64_t num_sequences() const {
    return packed() ? static_cast<int64_t>(c.cu_seqlens_q.size()) - 1 : c.batch;
  }
  double softmax_scale() const { return c.steepness / std::sqrt(static_cast<double>(c.dim)); }
  uint32_t threshold() const { return static_cast<uint32_t>(c.dropout_p * 4294967296.0); }

  // A sequence, by the definition of the layout.
  Sequence sequence(int64_t t) const {
    const auto entry = [t](const std::vector<int64_t>& x, int64_t otherwise) {
      return x.empty() ? otherwise : x[t];
    };
    Sequence x{};
    x.batch = packed() ? 0 : t;
    x.q_begin = packed() ? c.cu_seqlens_q[t] : 0, x.k_begin = packed() ? c.cu_seqlens_k[t] : 0;
    x.q_len = packed() ? c.cu_seqlens_q[t + 1] - x.q_begin : c.seqlen_q;
    const int64_t keys = packed() ? c.cu_seqlens_k[t + 1] - x.k_begin : c.seqlen_k;
    x.offset = entry(c.offsets, keys - x.q_len);
    x.bounds = {entry(c.kv_start, 0), entry(c.kv_end, keys), keys, entry(c.chunk_origins, 0)};
    return x;
  }

  bool hidden(const Sequence& x, int64_t j) const {
    const bool masked = !c.kv_mask.empty() && !c.kv_mask[x.batch * c.seqlen_k + x.k_begin + j];
    return masked || j < x.bounds.kv_start || j >= x.bounds.kv_end;
  }

  void spoil_hidden_keys(int64_t t) {
    const Sequence x = sequence(t);
    for (int64_t j = 0; j < x.bounds.num_keys; ++j) {
      for (int64_t h = 0; h < c.kv_heads && hidden(x, j); ++h) {
        k.set(x.batch, x.k_begin + j, h, NAN), v.set(x.batch, x.k_begin + j, h, INFINITY);
      }
    }
  }

  bool seen(const Sequence& x, int64_t i, int64_t j) const {
    const int64_t* ids = c.segment_ids.empty() ? nullptr : c.segment_ids.data() + x.batch * c.seqlen_k;
    return !hidden(x, j) && sees(c.window, x.bounds, ids, i + x.offset, j);
  }

  void spoil_blind_queries(int64_t t) {
    const Sequence x = sequence(t);
    for (int64_t i = 0; i < x.q_len; ++i) {
      bool blind = true;
      for (int64_t j = 0; j < x.bounds.num_keys; ++j) blind &= !seen(x, i, j);
      for (int64_t h = 0; h < c.heads && blind; ++h) q.set(x.batch, x.q_begin + i, h, NAN);
    }
  }

  void add_expected(int64_t t, int64_t head, int64_t i, Results<Sums>* r) const {
    const Sequence x = sequence(t);
    const int64_t p = i + x.offset, kv_head = head / (c.heads / c.kv_heads), row = x.q_begin + i;
    std::vector<PlainKey> keys;
    for (int64_t j = 0; j < x.bounds.num_keys; ++j) {
      if (!seen(x, i, j)) continue;
      const int64_t at = x.k_begin + j;
      PlainKey key{k.get(x.batch, at, kv_head), v.get(x.batch, at, kv_head), r->dk.at(x.batch, at, kv_head),
                   r->dv.at(x.batch, at, kv_head)};
      if (c.bias_len) {
        const int64_t column = std::clamp<int64_t>(j - p + c.bias_center, 0, c.bias_len - 1);
        key.bias = load(bias.dtype, bias.place(0, head, 0, column));
        key.dbias = r->dbias.at(0, head, 0) + column;
      }
      if (c.dropout_p > 0) {
        const uint32_t draw = philox({static_cast<uint32_t>(j >> 2), static_cast<uint32_t>(p),
                                      static_cast<uint32_t>(head), static_cast<uint32_t>(t)},
                                     kSeed)[j & 3];
        key.keep = draw >= threshold() ? 1 / (1 - c.dropout_p) : 0;
      }
      keys.push_back(key);
    }
    PlainRule rule{softmax_scale(), c.softcap, -INFINITY};
    if (c.sink_logits) rule.sink = sinks.get(0, head, 0)[0];
    const PlainResult result =
        plain_attention(rule, q.get(x.batch, row, head), keys, dout.get(x.batch, row, head),
                        c.dlse ? dlse.get(x.batch, head, row)[0] : 0, r->dq.at(x.batch, row, head),
                        c.sink_logits ? r->dsink.at(0, head, 0) : nullptr);
    std::copy(result.out.begin(), result.out.end(), r->out.at(x.batch, row, head));
    *r->lse.at(x.batch, head, row) = result.lse;
    *r->delta.at(x.batch, head, row) = result.delta;
  }
};

}  // namespace lck::test
