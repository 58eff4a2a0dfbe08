// The tasks of the backward of windowed attention.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/attention/key_waves.h"
#include "cpu/attention/run.h"
#include "cpu/attention/tiles.h"
#include "cpu/common/workspace.h"

namespace lck {

namespace {

// d sink_logits = -sum over queries of P_sink * delta, in fp64 and in order.
template <typename A>
void sink_gradient(const AttentionParams& p, int64_t head, A* dsink) {
  double total = 0;
  const double sink = static_cast<const A*>(p.sink_logits)[head];
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t row = (b * p.num_heads + head) * p.seqlen_q;
    const A* lse = static_cast<const A*>(p.lse) + row;
    const A* delta = static_cast<const A*>(p.delta) + row;
    for (int64_t i = 0; i < p.seqlen_q; ++i) {
      if (lse[i] != -INFINITY) total -= std::exp(sink - lse[i]) * delta[i];
    }
  }
  dsink[head] = static_cast<A>(total);
}

// out (size) = the sum of slots of partial (slots, size), in order, within [begin, end).
template <typename A>
void sum_slots(const A* partial, int64_t slots, int64_t size, int64_t begin, int64_t end, A* out) {
  for (int64_t i = begin; i < end; ++i) {
    A total = 0;
    for (int64_t slot = 0; slot < slots; ++slot) total += partial[slot * size + i];
    out[i] = total;
  }
}

// dbias, the sum of the strips' parts, and dsink.
template <typename A>
void finish_score_gradients(const AttentionParams& p, void* dbias, void* dsink) {
  run_with_scratch(p.num_heads, p.batch * p.seqlen_q * 16 + p.bias_slots * p.bias_len, 0,
                   [&](int64_t head, void*) {
                     if (dbias) {
                       sum_slots(static_cast<const A*>(p.dbias), p.bias_slots, p.num_heads * p.bias_len,
                                 head * p.bias_len, (head + 1) * p.bias_len, static_cast<A*>(dbias));
                     }
                     if (dsink) sink_gradient(p, head, static_cast<A*>(dsink));
                   });
}

// The fewest strips over all sequences and kv heads, if there are enough keys, so that all threads have work.
// Strips do not depend on the number of threads.
constexpr int64_t kFewestStrips = 32;
constexpr int64_t kLeastStripKeys = 512, kMostStripKeys = 2048;

// Partial gradients of rel_bias, so that strips run in parallel.
constexpr int64_t kBiasSlots = 32;

// The strips of one sequence, the same for every head.
struct SequenceStrips {
  std::vector<Strip> strips;
  std::vector<std::vector<int32_t>> before;  // (strips, tiles of the strip): earlier strips that see the tile
  std::vector<QueryTile> query_tiles;
  int64_t num_sums = 0;
};

int64_t reach_of(const AttentionParams& p, int64_t num_keys) {
  const Window& w = p.window;
  const int64_t reach = w.left >= 0 && w.right >= 0 ? w.left + w.right + 1 : num_keys;
  return std::min(w.chunk ? std::min(reach, w.chunk) : reach, num_keys);
}

// Long strips have fewer query tiles in common, short ones occupy more threads.
int64_t strip_keys(const AttentionParams& p, int64_t num_keys) {
  const int64_t units = p.num_sequences * p.num_kv_heads, reach = reach_of(p, num_keys);
  const int64_t wanted = (kFewestStrips + units - 1) / units;
  int64_t keys = (num_keys + wanted - 1) / wanted;
  if (2 * reach < num_keys) keys = std::clamp(keys, reach, 4 * reach);
  keys = std::clamp(keys, kLeastStripKeys, kMostStripKeys);
  return (keys + kTile - 1) / kTile * kTile;
}

SequenceStrips make_strips(const AttentionParams& p, const Sequence& sequence) {
  SequenceStrips made;
  const int64_t num_keys = sequence.bounds.num_keys, step = strip_keys(p, num_keys);
  made.query_tiles.resize((sequence.q_len + kTile - 1) / kTile);
  const int64_t sinks =
      p.window.left >= 0 && p.window.sink_tokens ? sequence.bounds.kv_start + p.window.sink_tokens : 0;
  for (int64_t first = 0, stop = 0; first < num_keys; first = stop) {
    stop = std::min(first + step, num_keys);
    if (first < sinks) stop = std::min(stop, (sinks + kTile - 1) / kTile * kTile);
    const Span keys{first, stop};
    made.strips.push_back({keys, query_tiles(p, sequence, keys), false});
    const Span tiles = made.strips.back().tiles;
    made.before.emplace_back();
    for (int64_t t = tiles.begin; t < tiles.end; ++t) {
      made.before.back().push_back(static_cast<int32_t>(made.query_tiles[t].strips++));
    }
  }
  int64_t later_end = made.query_tiles.size();
  for (auto strip = made.strips.rbegin(); strip != made.strips.rend(); ++strip) {
    strip->rising = strip->tiles.end > later_end;
    if (!empty(strip->tiles)) later_end = std::min(later_end, strip->tiles.end);
  }
  for (QueryTile& tile : made.query_tiles) {
    tile.sum = made.num_sums;
    made.num_sums += tile.strips > 1;
  }
  return made;
}

// A kv head of a sequence, its first event count and its sums of dq.
struct Unit {
  int64_t sequence, kv_head, first_event;
  std::byte* sums;
};

class Backward {
 public:
  Backward(Isa isa, DType dtype, const AttentionParams& p)
      : kernels_(attention_backward_kernels(isa, dtype)),
        p_(p),
        group_(p.num_heads / p.num_kv_heads),
        element_bytes_(element_bytes(dtype)),
        sum_bytes_(kernels_.dq_sum_bytes(p)),
        num_tasks_(p.num_kv_heads),
        bias_events_(p.num_kv_heads * p.bias_slots) {
    int64_t most_keys = 0;
    for (int64_t t = 0; t < p.num_sequences; ++t) {
      strips_.push_back(make_strips(p, p.sequences[t]));
      for (const Strip& strip : strips_.back().strips) {
        most_keys = std::max(most_keys, strip.keys.end - strip.keys.begin);
      }
    }
    scratch_bytes_ = kernels_.scratch_bytes(p, (most_keys + kTile - 1) / kTile);
    strip_work_ = 5 * group_ * std::min(most_keys, p.seqlen_k) *
                  std::min(reach_of(p, p.seqlen_k), p.seqlen_q) / 2 * (p.head_dim + p.head_dim_v);
  }

  void run() {
    run_delta();
    // The units of a batch have sums of dq of at most the size of K and V.
    const int64_t key_bytes =
        p_.batch * p_.seqlen_k * p_.num_kv_heads * (p_.head_dim + p_.head_dim_v) * element_bytes_;
    std::vector<Unit> units;
    int64_t used = 0, events = 0;
    const auto flush = [&] {
      const Workspace sums = make_workspace(used);
      std::byte* place = sums.get();
      for (Unit& unit : units) {
        unit.sums = place;
        place += unit_bytes(unit.sequence);
      }
      run_unseen(units);
      run_strips(units, events);
      units.clear(), used = events = 0;
    };
    for (int64_t t = 0; t < p_.num_sequences; ++t) {
      for (int64_t kv_head = 0; kv_head < p_.num_kv_heads; ++kv_head) {
        if (used > 0 && used + unit_bytes(t) > key_bytes) flush();
        units.push_back({t, kv_head, events, nullptr});
        used += unit_bytes(t);
        events += group_ * static_cast<int64_t>(strips_[t].query_tiles.size());
      }
    }
    flush();
  }

 private:
  int64_t unit_bytes(int64_t sequence) const { return strips_[sequence].num_sums * group_ * sum_bytes_; }

  void run_delta() const {
    const int64_t per_row = (p_.seqlen_q + kTile - 1) / kTile;
    run_with_scratch(p_.batch * per_row, kTile * p_.num_heads * p_.head_dim_v, 0, [&](int64_t i, void*) {
      const int64_t first = i % per_row * kTile;
      kernels_.delta(p_, i / per_row, first, std::min<int64_t>(first + kTile, p_.seqlen_q));
    });
  }

  // The first strips of all units, then the second ones: heads whose rows are contiguous run together, and
  // few threads work on one unit, where they may wait for each other.
  void run_strips(const std::vector<Unit>& units, int64_t num_events) {
    EventCounts events(num_events);
    std::vector<StripTask> tasks;
    std::vector<int64_t> bias_event;  // value to await, for each task
    std::vector<Unit> open = units;
    for (size_t s = 0; !open.empty(); ++s) {
      std::erase_if(open, [&](const Unit& unit) { return s >= strips_[unit.sequence].strips.size(); });
      for (const Unit& unit : open) {
        const SequenceStrips& of = strips_[unit.sequence];
        const int64_t number = p_.dbias ? num_tasks_[unit.kv_head]++ : 0, slots = larger(p_.bias_slots, 1);
        bias_event.push_back(number / slots);
        tasks.push_back({unit.sequence, unit.kv_head, of.strips[s], of.before[s].data(),
                         of.query_tiles.data(), unit.sums, &events, unit.first_event, number % slots});
      }
    }
    run_with_scratch(tasks.size(), strip_work_, scratch_bytes_, [&](int64_t i, void* scratch) {
      const StripTask& task = tasks[i];
      const int64_t slot = task.kv_head * p_.bias_slots + task.bias_slot;
      if (p_.dbias) bias_events_.await(slot, bias_event[i]);
      kernels_.strip(p_, task, scratch);
      if (p_.dbias) bias_events_.advance(slot);
    });
  }

  // dq = 0 where no strip sees a query tile.
  void run_unseen(const std::vector<Unit>& units) const {
    struct Unseen {
      int64_t sequence, head, tile;
    };
    std::vector<Unseen> unseen;
    for (const Unit& unit : units) {
      const std::vector<QueryTile>& tiles = strips_[unit.sequence].query_tiles;
      for (size_t t = 0; t < tiles.size(); ++t) {
        if (tiles[t].strips > 0) continue;
        for (int64_t g = 0; g < group_; ++g) {
          unseen.push_back({unit.sequence, unit.kv_head * group_ + g, static_cast<int64_t>(t)});
        }
      }
    }
    run_with_scratch(unseen.size(), kTile * p_.head_dim, 0, [&](int64_t i, void*) {
      kernels_.zero_dq(p_, unseen[i].sequence, unseen[i].head, unseen[i].tile);
    });
  }

  const AttentionBackwardKernels& kernels_;
  const AttentionParams& p_;
  int64_t group_, element_bytes_, sum_bytes_, scratch_bytes_, strip_work_;
  std::vector<SequenceStrips> strips_;
  std::vector<int64_t> num_tasks_;  // tasks created for each kv head
  EventCounts bias_events_;         // (kv heads, slots of dbias)
};

}  // namespace

void run_attention_backward(Isa isa, DType dtype, AttentionParams p, void* dbias, void* dsink) {
  p.bias_slots = dbias ? std::max<int64_t>(kBiasSlots / p.num_kv_heads, 1) : 0;
  const int64_t bias_bytes = p.bias_slots * p.num_heads * p.bias_len * acc_bytes(dtype);
  const Workspace partial = make_workspace(bias_bytes);
  std::fill_n(partial.get(), bias_bytes, std::byte{0});
  p.dbias = partial.get();
  Backward(isa, dtype, p).run();
  if (!dbias && !dsink) return;
  if (dtype == DType::kFloat64) {
    finish_score_gradients<double>(p, dbias, dsink);
  } else {
    finish_score_gradients<float>(p, dbias, dsink);
  }
}

}  // namespace lck
