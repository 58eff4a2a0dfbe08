// The tasks of windowed attention: what is split, in which order, with which memory.
#include "cpu/attention_run.h"

#include <algorithm>
#include <cmath>

#include "cpu/attention_tiles.h"
#include "cpu/key_waves.h"
#include "cpu/workspace.h"

namespace lck {

namespace {

// Partial gradients of rel_bias that are kept apart, so that query tasks run in parallel.
constexpr int64_t kBiasTasks = 32;

int64_t rows_per_kv_head(const AttentionParams& p, const Text& text) {
  return text.q_len * (p.num_heads / p.num_kv_heads);
}

// The query tasks of one kv head of a text, in order of their rows.
void add_query_tasks(const AttentionParams& p, const PackedHead& of, std::vector<QueryTask>* tasks) {
  const int64_t rows = rows_per_kv_head(p, p.texts[of.text]);
  const int64_t step = rows <= kMostTileRows ? std::max<int64_t>(rows, 1) : kQueryTileRows;
  for (int64_t first = 0; first < rows; first += step) {
    tasks->push_back({of.text, of.kv_head, 1, first, std::min(step, rows - first), of.tiles, 0, 1, {}, {}});
  }
}

int64_t element_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}
int64_t acc_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
}

// kv heads that one task of a short text serves: as many as the blocks and the inner caches hold, since keys
// are then read in the order of memory; but one where few tasks would be left.
int64_t heads_of_short_task(const AttentionParams& p, DType dtype, int64_t rows, int64_t tiles) {
  constexpr int64_t kBlockRows = 12, kMostTileBytes = int64_t{256} << 10, kEnoughTasks = 64;
  if (tiles <= kSplitTiles && p.num_texts < kEnoughTasks) return 1;
  const int64_t by_rows = kMostTileRows / ((rows + kBlockRows - 1) / kBlockRows * kBlockRows);
  const int64_t by_bytes = kMostTileBytes / (kTile * (p.head_dim + p.head_dim_v) * element_bytes(dtype));
  return std::clamp<int64_t>(std::min(by_rows, by_bytes), 1, p.num_kv_heads);
}

// Products of a query task, or a little more.
int64_t task_work(const AttentionParams& p, const QueryTask& task) {
  const Text& text = p.texts[task.text];
  const Span positions = row_positions(text, task.first_row, task.rows);
  const int64_t tiles = count(tile_list(p, text, positions.begin, positions.end - 1));
  return task.heads * task.rows * std::min(tiles, task.num_splits > 1 ? kSplitTiles : tiles) * kTile *
         (p.head_dim + p.head_dim_v);
}

// That of the task in the middle, which stands for all.
int64_t usual_work(const AttentionParams& p, const std::vector<QueryTask>& tasks) {
  return tasks.empty() ? 0 : task_work(p, tasks[tasks.size() / 2]);
}

// Texts with few rows: one task for several heads and a part of the keys, which it packs as it reads them.
void run_short_texts(const AttentionForward& passes, DType dtype, const AttentionParams& p) {
  std::vector<QueryTask> tasks, merges;
  std::vector<int64_t> first_tasks;  // of each merge
  int64_t partial_bytes = 0;
  for (int64_t t = 0; t < p.num_texts; ++t) {
    const Text& text = p.texts[t];
    const int64_t rows = rows_per_kv_head(p, text);
    if (rows == 0 || rows > kMostTileRows) continue;
    const int64_t tiles = count(tile_list(p, text, text.offset, text.offset + text.q_len - 1));
    const int64_t heads = heads_of_short_task(p, dtype, rows, tiles);
    const int64_t splits = std::max<int64_t>(1, (tiles + kSplitTiles - 1) / kSplitTiles);
    for (int64_t kv_head = 0; kv_head < p.num_kv_heads; kv_head += heads) {
      const int64_t some = std::min(heads, p.num_kv_heads - kv_head);
      const QueryTask whole{t, kv_head, some, 0, rows, nullptr, 0, splits, nullptr, nullptr};
      if (splits > 1) {
        merges.push_back(whole);
        first_tasks.push_back(tasks.size());
        partial_bytes += splits * some * rows * (p.head_dim_v + 1) * acc_bytes(dtype);
      }
      for (int64_t split = 0; split < splits; ++split) tasks.push_back(whole), tasks.back().split = split;
    }
  }
  // Partial results: all outs of a merge, then its lses.
  const Workspace partial = make_workspace(partial_bytes);
  std::byte* place = partial.get();
  for (size_t i = 0; i < merges.size(); ++i) {
    QueryTask& merge = merges[i];
    const int64_t rows = merge.num_splits * merge.heads * merge.rows;
    merge.partial_out = place;
    merge.partial_lse = place + rows * p.head_dim_v * acc_bytes(dtype);
    place += rows * (p.head_dim_v + 1) * acc_bytes(dtype);
    for (int64_t split = 0; split < merge.num_splits; ++split) {
      QueryTask& task = tasks[first_tasks[i] + split];
      task.partial_out = merge.partial_out, task.partial_lse = merge.partial_lse;
    }
  }
  run_with_scratch(tasks.size(), usual_work(p, tasks), passes.scratch_bytes(p),
                   [&](int64_t i, void* scratch) { passes.forward(p, tasks[i], scratch); });
  const int64_t merge_work =
      merges.empty() ? 0 : merges[0].num_splits * merges[0].heads * merges[0].rows * p.head_dim_v;
  run_with_scratch(merges.size(), merge_work, 0,
                   [&](int64_t i, void*) { passes.merge_splits(p, merges[i]); });
}

}  // namespace

void run_attention_forward(Isa isa, DType dtype, const AttentionParams& p) {
  const AttentionForward& passes = attention_forward(isa, dtype);
  run_short_texts(passes, dtype, p);
  auto heads = packed_heads(p, [&](const Text& text) { return rows_per_kv_head(p, text) > kMostTileRows; });
  run_waves(passes, p, &heads, false, false, [&](const PackedHead* first, int64_t number) {
    std::vector<QueryTask> tasks;
    for (int64_t i = 0; i < number; ++i) add_query_tasks(p, first[i], &tasks);
    run_with_scratch(tasks.size(), usual_work(p, tasks), passes.scratch_bytes(p),
                     [&](int64_t i, void* scratch) { passes.forward(p, tasks[i], scratch); });
  });
}

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

// dbias and dsink, whose parts the query tasks have left.
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

// Products of a usual key task, or a little more.
int64_t key_work(const AttentionParams& p) {
  const int64_t reach =
      p.window.left >= 0 && p.window.right >= 0 ? p.window.left + p.window.right + 1 : p.seqlen_q;
  const int64_t queries = std::min(reach, p.seqlen_q) * (p.num_heads / p.num_kv_heads);
  return 2 * queries * std::min(kKeyTileRows, p.seqlen_k) * (p.head_dim + p.head_dim_v);
}

// dq, delta and the slots' dbias. Without a bias each query task runs by itself; with one, those of a slot
// run in order.
void run_query_gradients(Isa isa, DType dtype, const AttentionParams& p) {
  const AttentionBackward& passes = attention_backward(isa, dtype);
  auto heads = packed_heads(p, [&](const Text& text) { return text.q_len > 0; });
  run_waves(attention_forward(isa, dtype), p, &heads, true, p.dbias != nullptr,
            [&](const PackedHead* first, int64_t number) {
              std::vector<QueryTask> tasks;
              for (int64_t i = 0; i < number; ++i) add_query_tasks(p, first[i], &tasks);
              const int64_t num_tasks = tasks.size();
              const int64_t wave_heads = number ? first[number - 1].kv_head - first[0].kv_head + 1 : 0;
              const int64_t slots = p.dbias ? wave_heads * p.bias_slots : num_tasks;
              const int64_t work = 2 * usual_work(p, tasks) * (num_tasks / std::max<int64_t>(slots, 1));
              run_with_scratch(slots, work, passes.scratch_bytes(p), [&](int64_t slot, void* scratch) {
                const int64_t begin = num_tasks * slot / slots, end = num_tasks * (slot + 1) / slots;
                for (int64_t t = begin; t < end; ++t) {
                  passes.queries(p, tasks[t], p.dbias ? slot % p.bias_slots : 0, scratch);
                }
              });
            });
}

}  // namespace

void run_attention_backward(Isa isa, DType dtype, AttentionParams p, void* dbias, void* dsink) {
  const AttentionBackward& passes = attention_backward(isa, dtype);
  p.bias_slots = dbias ? std::max<int64_t>(kBiasTasks / p.num_kv_heads, 1) : 0;
  const int64_t bias_bytes = p.bias_slots * p.num_heads * p.bias_len * acc_bytes(dtype);
  const Workspace partial = make_workspace(bias_bytes);
  std::fill_n(partial.get(), bias_bytes, std::byte{0});
  p.dbias = partial.get();
  run_query_gradients(isa, dtype, p);

  std::vector<KeyTask> tasks;
  for (int64_t t = 0; t < p.num_texts; ++t) {
    for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
      for (int64_t key = 0; key < p.texts[t].bounds.num_keys; key += kKeyTileRows)
        tasks.push_back({t, kv_head, key});
    }
  }
  run_with_scratch(tasks.size(), key_work(p), passes.scratch_bytes(p),
                   [&](int64_t i, void* scratch) { passes.keys(p, tasks[i], scratch); });
  if (!dbias && !dsink) return;
  if (dtype == DType::kFloat64) {
    finish_score_gradients<double>(p, dbias, dsink);
  } else {
    finish_score_gradients<float>(p, dbias, dsink);
  }
}

}  // namespace lck
