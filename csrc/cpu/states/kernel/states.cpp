// merge_attention_states on the CPU: loops over query tiles > heads > vectors of queries > states for the
// weights, then queries > heads > states > head_dim for the rows, in memory order. Compiled once per
// instruction set (LCK_ISA).
#include "cpu/simd/math.h"
#include "cpu/simd/row_sums.h"
#include "cpu/simd/vec.h"
#include "cpu/states/kernels.h"

namespace lck::LCK_ISA {

namespace {

template <typename E>
E* row_of(const HeadsTensor& x, int64_t batch, int64_t query, int64_t head) {
  E* data = static_cast<E*>(const_cast<void*>(x.data));
  return data + batch * x.batch_stride + query * x.row_stride + head * x.head_stride;
}

// Queries [query, query + count) of one batch row, all heads.
struct QueryTile {
  int64_t batch, query, count;
};

QueryTile tile_at(const StatesParams& p, int64_t index) {
  const int64_t per_batch = (p.seqlen + kStateTile - 1) / kStateTile;
  const int64_t query = index % per_batch * kStateTile, rest = p.seqlen - query;
  return {index / per_batch, query, rest < kStateTile ? rest : kStateTile};
}

// to (kStateTile) = one head's values of x (batch, heads, queries), and -inf past the tile's queries.
template <typename A>
void read_queries(const HeadsTensor& x, const QueryTile& tile, int64_t head, A* to) {
  const A* from = row_of<A>(x, tile.batch, tile.query, head);
  int64_t i = 0;
  for (; i < tile.count; ++i) to[i] = from[i * x.row_stride];
  for (; i < kStateTile; ++i) to[i] = -kInf<A>;
}

template <typename A>
void write_queries(const A* from, const QueryTile& tile, int64_t head, const HeadsTensor& x) {
  A* to = row_of<A>(x, tile.batch, tile.query, head);
  for (int64_t i = 0; i < tile.count; ++i) to[i * x.row_stride] = from[i];
}

// The parts of a kernel's scratch memory.
template <typename T>
struct Scratch {
  using A = Acc<T>;
  int64_t num_heads;
  Terms<T> terms;  // (num_states)
  A* values;       // (num_states + 1, num_heads, kStateTile): weights, then one more value

  Scratch(const StatesParams& p, void* memory) : num_heads(p.num_heads) {
    terms.rows = static_cast<const T**>(memory);
    terms.weights = reinterpret_cast<A*>(terms.rows + p.num_states);
    terms.count = 0;
    values = terms.weights + p.num_states;
  }

  A* at(int64_t state, int64_t head) const { return values + (state * num_heads + head) * kStateTile; }
};

// Replaces one head's lses by its weights, w = exp(lse_n - max) / sum, and sets its merged lse.
template <typename T>
void softmax_over_states(const StatesParams& p, const Scratch<T>& scratch, int64_t head) {
  using A = Acc<T>;
  A* lse = scratch.at(p.num_states, head);
  for (int64_t i = 0; i < kStateTile; i += kLanes<A>) {
    Vec<A> most = splat(-kInf<A>), total = {};
    for (int64_t n = 0; n < p.num_states; ++n) {
      const auto x = load_bytes<Vec<A>>(scratch.at(n, head) + i);
      most = ((x > most) | (x != x)) ? x : most;
    }
    most = most == -kInf<A> ? splat(A(0)) : most;
    for (int64_t n = 0; n < p.num_states; ++n) {
      A* at = scratch.at(n, head) + i;
      const Vec<A> e = exp(load_bytes<Vec<A>>(at) - most);
      total += e;
      store(e, at);
    }
    const Vec<A> safe = total == 0 ? splat(A(1)) : total;
    for (int64_t n = 0; n < p.num_states; ++n) {
      A* at = scratch.at(n, head) + i;
      store(plain_nan<A>(load_bytes<Vec<A>>(at) / safe), at);
    }
    for (int lane = 0; lane < kLanes<A>; ++lane) {
      lse[i + lane] = total[lane] == 0 ? -kInf<A> : most[lane] + log(safe[lane]);
    }
  }
}

template <typename T>
void forward(const StatesParams& p, int64_t begin, int64_t end, void* memory) {
  Scratch<T> scratch(p, memory);
  for (int64_t index = begin; index < end; ++index) {
    const QueryTile tile = tile_at(p, index);
    for (int64_t head = 0; head < p.num_heads; ++head) {
      for (int64_t n = 0; n < p.num_states; ++n) read_queries(p.lses[n], tile, head, scratch.at(n, head));
      softmax_over_states<T>(p, scratch, head);
      write_queries(scratch.at(p.num_states, head), tile, head, p.lse);
    }
    if (p.head_dim == 0) continue;
    for (int64_t i = 0; i < tile.count; ++i) {
      for (int64_t head = 0; head < p.num_heads; ++head) {
        Terms<T>& terms = scratch.terms;
        terms.count = 0;
        for (int64_t n = 0; n < p.num_states; ++n) {
          const Acc<T> weight = scratch.at(n, head)[i];
          if (weight == 0) continue;
          terms.rows[terms.count] = row_of<T>(p.outs[n], tile.batch, tile.query + i, head);
          terms.weights[terms.count++] = weight;
        }
        write_row(terms, row_of<T>(p.out, tile.batch, tile.query + i, head), p.head_dim, p.stream_out);
      }
    }
  }
  if (p.stream_out) stream_fence();
}

// Replaces one head's lses of the states by its weights: exp(lse_n - lse), 0 where lse is -inf.
template <typename T>
void weights_of_states(const StatesParams& p, const Scratch<T>& scratch, int64_t head, const Acc<T>* lse) {
  using A = Acc<T>;
  for (int64_t n = 0; n < p.num_states; ++n) {
    for (int64_t i = 0; i < kStateTile; i += kLanes<A>) {
      A* at = scratch.at(n, head) + i;
      const auto total = load_bytes<Vec<A>>(lse + i);
      const Vec<A> x = load_bytes<Vec<A>>(at) - total;
      const Vec<A> e = exp(x > 88 ? splat(A(88)) : x);
      store(plain_nan<A>(total == -kInf<A> ? splat(A(0)) : e), at);
    }
  }
}

// Rows of one state, with head_dim elements each.
template <typename T>
struct GradRows {
  const T *dout, *out, *state;
  T* dstate;
};

// dstate = weight * dout; returns <dout, state - out>. kStream: dstate is aligned.
template <typename T, bool kStream>
Acc<T> state_gradient(const GradRows<T>& rows, Acc<T> weight, int64_t dim) {
  using A = Acc<T>;
  Vec<A> total[kGroup<T>] = {};
  int64_t d = 0;
  for (; d + kGroupElements<T> <= dim; d += kGroupElements<T>) {
    __builtin_prefetch(reinterpret_cast<const char*>(rows.state + d) + kPrefetchBytes);
    const Group<T> dout = load(rows.dout + d), out = load(rows.out + d), state = load(rows.state + d);
    Group<T> scaled;
    for (int h = 0; h < kGroup<T>; ++h) {
      total[h] += dout.v[h] * (state.v[h] - out.v[h]);
      scaled.v[h] = dout.v[h] * weight;
    }
    if constexpr (kStream) {
      stream(pack(scaled), rows.dstate + d);
    } else {
      store(pack(scaled), rows.dstate + d);
    }
  }
  for (int h = 1; h < kGroup<T>; ++h) total[0] += total[h];
  A dot = sum<A>(total[0]);
  for (; d < dim; ++d) {
    const A dout = to_acc(rows.dout[d]);
    dot += dout * (to_acc(rows.state[d]) - to_acc(rows.out[d]));
    from_acc(dout * weight, rows.dstate + d);
  }
  return dot;
}

template <typename T>
void backward(const StatesParams& p, int64_t begin, int64_t end, void* memory) {
  using A = Acc<T>;
  const Scratch<T> scratch(p, memory);
  const int64_t row_bytes = p.head_dim * static_cast<int64_t>(sizeof(T));
  for (int64_t index = begin; index < end; ++index) {
    const QueryTile tile = tile_at(p, index);
    for (int64_t head = 0; head < p.num_heads; ++head) {
      A lse[kStateTile];
      read_queries(p.lse, tile, head, lse);
      for (int64_t n = 0; n < p.num_states; ++n) read_queries(p.lses[n], tile, head, scratch.at(n, head));
      weights_of_states<T>(p, scratch, head, lse);
      read_queries(p.dlse, tile, head, scratch.at(p.num_states, head));
    }
    for (int64_t i = 0; i < tile.count; ++i) {
      const int64_t query = tile.query + i;
      for (int64_t head = 0; head < p.num_heads; ++head) {
        const A dlse = scratch.at(p.num_states, head)[i];
        GradRows<T> rows{row_of<T>(p.dout, tile.batch, query, head),
                         row_of<T>(p.out, tile.batch, query, head), nullptr, nullptr};
        for (int64_t n = 0; n < p.num_states; ++n) {
          A* weight = scratch.at(n, head) + i;
          rows.state = row_of<T>(p.outs[n], tile.batch, query, head);
          rows.dstate = row_of<T>(p.douts[n], tile.batch, query, head);
          A dot = 0;
          if (*weight != 0) {
            const bool streams = p.stream_out && reinterpret_cast<uintptr_t>(rows.dstate) % kVectorBytes == 0;
            dot = streams ? state_gradient<T, true>(rows, *weight, p.head_dim)
                          : state_gradient<T, false>(rows, *weight, p.head_dim);
          } else if (row_bytes > 0) {
            std::memset(static_cast<void*>(rows.dstate), 0, row_bytes);
          }
          *weight *= dot + dlse;
        }
      }
    }
    for (int64_t n = 0; n < p.num_states; ++n) {
      for (int64_t head = 0; head < p.num_heads; ++head) {
        write_queries(scratch.at(n, head), tile, head, p.dlses[n]);
      }
    }
  }
  if (p.stream_out) stream_fence();
}

template <typename T>
constexpr StatesKernels kKernels = {forward<T>, backward<T>};

}  // namespace

const StatesKernels& states_kernels(DType dtype) {
  return for_element_of(dtype, []<typename T>() -> const StatesKernels& { return kKernels<T>; });
}

}  // namespace lck::LCK_ISA
