// The tasks of windowed attention: what is split, in which order, with which memory.
#include "cpu/attention_run.h"

#include <algorithm>
#include <cmath>

#include "cpu/attention_tiles.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"

namespace lck {

namespace {

// Partial gradients of rel_bias that are kept apart, so that query tasks run in parallel.
constexpr int64_t kBiasTasks = 32;

struct TileTask {
  int64_t text, kv_head, tile;
};

int64_t rows_per_kv_head(const AttentionParams& p, const Text& text) {
  return text.q_len * (p.num_heads / p.num_kv_heads);
}

TileList all_tiles(const AttentionParams& p, const Text& text) {
  return tile_list(p, text, text.offset, text.offset + text.q_len - 1);
}

// The query tasks of a text for one kv head, in order of their rows.
void add_query_tasks(const AttentionParams& p, int64_t text, int64_t kv_head, std::vector<QueryTask>* tasks) {
  const int64_t rows = rows_per_kv_head(p, p.texts[text]);
  const int64_t step = rows <= kMostTileRows ? std::max<int64_t>(rows, 1) : kQueryTileRows;
  for (int64_t first = 0; first < rows; first += step) {
    tasks->push_back({text, kv_head, 1, first, std::min(step, rows - first), 0, 1, nullptr, nullptr});
  }
}

void add_tile_tasks(const AttentionParams& p, int64_t text, std::vector<TileTask>* tasks) {
  const TileList tiles = all_tiles(p, p.texts[text]);
  for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
    for (int64_t u = 0; u < count(tiles); ++u) tasks->push_back({text, kv_head, tile_at(tiles, u)});
  }
}

// Runs body(task, scratch) for every task.
template <typename Body>
void run_with_scratch(int64_t num_tasks, int64_t scratch_bytes, const Body& body) {
  if (num_tasks == 0) return;
  run_tasks(num_tasks, [&](const NextTask& next) {
    const Workspace scratch = make_workspace(scratch_bytes);
    for (int64_t task; (task = next()) >= 0;) body(task, static_cast<void*>(scratch.get()));
  });
}

Workspace pack_tiles(const AttentionForward& passes, const AttentionParams& p,
                     const std::vector<TileTask>& tasks, bool backward) {
  if (tasks.empty()) return {};
  const int64_t tile_bytes = passes.tile_bytes(p);
  Workspace packed = make_workspace(p.num_kv_heads * p.num_tiles * tile_bytes);
  run_with_scratch(tasks.size(), passes.scratch_bytes(p), [&](int64_t i, void* scratch) {
    const TileTask& task = tasks[i];
    const int64_t place = task.kv_head * p.num_tiles + p.texts[task.text].first_tile + task.tile;
    passes.pack_keys(p, task.text, task.kv_head, task.tile, backward, packed.get() + place * tile_bytes,
                     scratch);
  });
  return packed;
}

// kv heads that one task of a short text serves. A long cache is read in the order of memory, so as many
// heads as the blocks and the inner caches hold; a short one is left to as many tasks as there are.
int64_t heads_of_short_task(const AttentionParams& p, DType dtype, int64_t rows, int64_t tiles) {
  constexpr int64_t kBlockRows = 12, kMostTileBytes = int64_t{256} << 10;
  if (tiles <= kSplitTiles) return 1;
  const int64_t element = dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
  const int64_t by_rows = kMostTileRows / ((rows + kBlockRows - 1) / kBlockRows * kBlockRows);
  const int64_t by_bytes = kMostTileBytes / (kTile * (p.head_dim + p.head_dim_v) * element);
  return std::clamp<int64_t>(std::min(by_rows, by_bytes), 1, p.num_kv_heads);
}

}  // namespace

Workspace pack_all_keys(Isa isa, DType dtype, const AttentionParams& p, bool backward) {
  std::vector<TileTask> tasks;
  for (int64_t t = 0; t < p.num_texts; ++t) {
    if (p.texts[t].q_len > 0) add_tile_tasks(p, t, &tasks);
  }
  return pack_tiles(attention_forward(isa, dtype), p, tasks, backward);
}

void run_attention_forward(Isa isa, DType dtype, const AttentionParams& p) {
  const AttentionForward& passes = attention_forward(isa, dtype);
  const int64_t acc_bytes = dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
  std::vector<TileTask> tile_tasks;
  std::vector<QueryTask> tasks, merges;
  std::vector<char> reads_packed;
  int64_t partial_bytes = 0;
  for (int64_t t = 0; t < p.num_texts; ++t) {
    const Text& text = p.texts[t];
    const int64_t rows = rows_per_kv_head(p, text);
    if (rows == 0) continue;
    const size_t before = tasks.size();
    if (rows > kMostTileRows) {
      add_tile_tasks(p, t, &tile_tasks);
      for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) add_query_tasks(p, t, kv_head, &tasks);
      reads_packed.resize(reads_packed.size() + tasks.size() - before, true);
      continue;
    }
    const int64_t tiles = count(all_tiles(p, text)), heads = heads_of_short_task(p, dtype, rows, tiles);
    const int64_t splits = std::max<int64_t>(1, (tiles + kSplitTiles - 1) / kSplitTiles);
    for (int64_t kv_head = 0; kv_head < p.num_kv_heads; kv_head += heads) {
      const int64_t some = std::min(heads, p.num_kv_heads - kv_head);
      const QueryTask whole{t, kv_head, some, 0, rows, 0, splits, nullptr, nullptr};
      for (int64_t split = 0; split < splits; ++split) tasks.push_back(whole), tasks.back().split = split;
      if (splits == 1) continue;
      merges.push_back(whole);
      partial_bytes += splits * some * rows * (p.head_dim_v + 1) * acc_bytes;
    }
    reads_packed.resize(reads_packed.size() + tasks.size() - before, false);
  }
  // Partial results: all outs of a task, then its lses.
  const Workspace partial = make_workspace(partial_bytes);
  std::byte* place = partial.get();
  size_t next_task = 0;
  for (QueryTask& merge : merges) {
    merge.partial_out = place;
    place += merge.num_splits * merge.heads * merge.rows * p.head_dim_v * acc_bytes;
    merge.partial_lse = place;
    place += merge.num_splits * merge.heads * merge.rows * acc_bytes;
    while (tasks[next_task].num_splits == 1) ++next_task;
    for (int64_t split = 0; split < merge.num_splits; ++split, ++next_task) {
      tasks[next_task].partial_out = merge.partial_out, tasks[next_task].partial_lse = merge.partial_lse;
    }
  }
  const Workspace packed = pack_tiles(passes, p, tile_tasks, false);
  run_with_scratch(tasks.size(), passes.scratch_bytes(p), [&](int64_t i, void* scratch) {
    passes.forward(p, tasks[i], reads_packed[i] ? packed.get() : nullptr, p.num_tiles, scratch);
  });
  run_with_scratch(merges.size(), 0, [&](int64_t i, void*) { passes.merge_splits(p, merges[i]); });
}

namespace {

// d sink_logits = -sum over queries of P_sink * delta, in fp64 and in order.
template <typename A>
void sink_gradient(const AttentionParams& p, int64_t batch, int64_t head, A* dsink) {
  double total = 0;
  const double sink = static_cast<const A*>(p.sink_logits)[head];
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t row = (b * p.num_heads + head) * p.seqlen_q;
    const A* lse = static_cast<const A*>(p.lse) + row;
    const A* delta = static_cast<const A*>(p.delta) + row;
    for (int64_t i = 0; i < p.seqlen_q; ++i) {
      if (lse[i] != -INFINITY) total -= std::exp(sink - lse[i]) * delta[i];
    }
  }
  dsink[head] = static_cast<A>(total);
}

template <typename A>
void sum_slots(const A* partial, int64_t slots, int64_t size, int64_t begin, int64_t end, A* out) {
  for (int64_t i = begin; i < end; ++i) {
    A total = 0;
    for (int64_t slot = 0; slot < slots; ++slot) total += partial[slot * size + i];
    out[i] = total;
  }
}

}  // namespace

void run_attention_backward(Isa isa, DType dtype, AttentionParams p, void* dbias, void* dsink) {
  const AttentionBackward& passes = attention_backward(isa, dtype);
  const bool fp64 = dtype == DType::kFloat64;
  std::vector<KeyTask> key_tasks;
  std::vector<std::vector<QueryTask>> by_head(p.num_kv_heads);
  for (int64_t t = 0; t < p.num_texts; ++t) {
    for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
      add_query_tasks(p, t, kv_head, &by_head[kv_head]);
      for (int64_t key = 0; key < p.texts[t].bounds.num_keys; key += kKeyTileRows) {
        key_tasks.push_back({t, kv_head, key});
      }
    }
  }
  const Workspace packed = pack_all_keys(isa, dtype, p, true);

  // Without a bias each query task runs by itself; with one, the tasks of a slot run in order.
  const int64_t per_head = by_head.empty() ? 0 : by_head[0].size();
  p.bias_slots =
      dbias ? std::clamp<int64_t>(kBiasTasks / p.num_kv_heads, 1, std::max<int64_t>(per_head, 1)) : 0;
  const int64_t slots = dbias ? p.bias_slots : per_head, bias_size = p.num_heads * p.bias_len;
  const int64_t bias_bytes =
      p.bias_slots * bias_size * static_cast<int64_t>(fp64 ? sizeof(double) : sizeof(float));
  const Workspace partial = make_workspace(bias_bytes);
  std::fill_n(partial.get(), bias_bytes, std::byte{0});
  p.dbias = partial.get();
  run_with_scratch(p.num_kv_heads * slots, passes.scratch_bytes(p), [&](int64_t i, void* scratch) {
    const int64_t slot = i % slots;
    const std::vector<QueryTask>& tasks = by_head[i / slots];
    for (int64_t t = per_head * slot / slots; t < per_head * (slot + 1) / slots; ++t) {
      passes.queries(p, tasks[t], packed.get(), p.num_tiles, slot, scratch);
    }
  });
  run_with_scratch(key_tasks.size(), passes.scratch_bytes(p),
                   [&](int64_t i, void* scratch) { passes.keys(p, key_tasks[i], scratch); });

  if (dbias) {
    run_with_scratch(p.num_heads, 0, [&](int64_t head, void*) {
      const int64_t begin = head * p.bias_len, end = begin + p.bias_len;
      if (fp64) {
        sum_slots(reinterpret_cast<double*>(partial.get()), slots, bias_size, begin, end,
                  static_cast<double*>(dbias));
      } else {
        sum_slots(reinterpret_cast<float*>(partial.get()), slots, bias_size, begin, end,
                  static_cast<float*>(dbias));
      }
    });
  }
  if (dsink) {
    const int64_t batch = p.seqlen_q == 0 ? 0 : p.batch;
    run_with_scratch(p.num_heads, 0, [&](int64_t head, void*) {
      if (fp64) {
        sink_gradient(p, batch, head, static_cast<double*>(dsink));
      } else {
        sink_gradient(p, batch, head, static_cast<float*>(dsink));
      }
    });
  }
}

}  // namespace lck
