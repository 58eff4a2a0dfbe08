#include "cpu/key_waves.h"

#include <algorithm>

#include "cpu/attention_tiles.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"

namespace lck {

namespace {

// Packed keys that a thread works on: enough tasks between two waves, little enough to stay in the outer
// cache.
constexpr int64_t kWaveBytes = int64_t{4} << 20;

// Products or elements that pay for waking a thread: some ten microseconds.
constexpr int64_t kThreadWork = int64_t{1} << 19;

int64_t num_key_tiles(const Text& text) {
  return (text.bounds.num_keys + kTile - 1) / kTile;
}

}  // namespace

std::vector<PackedHead> packed_heads(const AttentionParams& p,
                                     const std::function<bool(const Text&)>& wanted) {
  std::vector<PackedHead> heads;
  for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
    for (int64_t t = 0; t < p.num_texts; ++t) {
      if (wanted(p.texts[t])) heads.push_back({t, kv_head, nullptr});
    }
  }
  return heads;
}

void run_with_scratch(int64_t num_tasks, int64_t task_work, int64_t scratch_bytes,
                      const std::function<void(int64_t task, void* scratch)>& body) {
  if (num_tasks == 0) return;
  const int64_t grain = std::max<int64_t>(1, kThreadWork / std::max<int64_t>(task_work, 1));
  run_tasks(num_tasks, grain, [&](const NextTask& next) {
    const Workspace scratch = make_workspace(scratch_bytes);
    for (int64_t task; (task = next()) >= 0;) body(task, scratch.get());
  });
}

void run_waves(const AttentionForward& passes, const AttentionParams& p, std::vector<PackedHead>* heads,
               bool backward, bool whole_heads,
               const std::function<void(const PackedHead* first, int64_t count)>& run) {
  const int64_t tile_bytes = passes.tile_bytes(p), most_bytes = kWaveBytes * num_threads();
  const int64_t num_heads = heads->size();
  const auto head_bytes = [&](int64_t i) { return num_key_tiles(p.texts[(*heads)[i].text]) * tile_bytes; };
  std::vector<int64_t> bounds{0};
  int64_t wave_bytes = 0, largest_bytes = 0;
  for (int64_t i = 0; i < num_heads; ++i) {
    const bool may_end =
        i > bounds.back() && (!whole_heads || (*heads)[i].kv_head != (*heads)[i - 1].kv_head);
    if (may_end && wave_bytes + head_bytes(i) > most_bytes) {
      bounds.push_back(i);
      wave_bytes = 0;
    }
    wave_bytes += head_bytes(i);
    largest_bytes = std::max(largest_bytes, wave_bytes);
  }
  bounds.push_back(num_heads);

  struct TileTask {
    int64_t head, tile;
  };
  const Workspace packed = make_workspace(largest_bytes);
  std::vector<TileTask> tasks;
  for (size_t wave = 0; wave + 1 < bounds.size(); ++wave) {
    tasks.clear();
    std::byte* place = packed.get();
    for (int64_t i = bounds[wave]; i < bounds[wave + 1]; ++i) {
      const Text& text = p.texts[(*heads)[i].text];
      (*heads)[i].tiles = place;
      place += head_bytes(i);
      const TileList tiles = tile_list(p, text, text.offset, text.offset + text.q_len - 1);
      for (int64_t u = 0; u < count(tiles); ++u) tasks.push_back({i, tile_at(tiles, u)});
    }
    const int64_t tile_work = 4 * kTile * (p.head_dim + p.head_dim_v);
    run_with_scratch(tasks.size(), tile_work, passes.scratch_bytes(p), [&](int64_t i, void* scratch) {
      const auto [head, tile] = tasks[i];
      const PackedHead& of = (*heads)[head];
      void* to = static_cast<std::byte*>(const_cast<void*>(of.tiles)) + tile * tile_bytes;
      passes.pack_keys(p, of.text, of.kv_head, tile, backward, to, scratch);
    });
    run(heads->data() + bounds[wave], bounds[wave + 1] - bounds[wave]);
  }
}

}  // namespace lck
