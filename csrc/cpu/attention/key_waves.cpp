#include "cpu/attention/key_waves.h"

#include <algorithm>

#include "cpu/common/parallel.h"
#include "cpu/common/workspace.h"

namespace lck {

namespace {

// Packed keys per thread of a wave: enough tasks per wave, few enough to fit in the outer cache.
constexpr int64_t kWaveBytes = int64_t{4} << 20;

// The fewest query steps, over all heads, per thread of a wave.
constexpr int64_t kStepsPerThread = 8;

// Key tiles that a thread packs in a row, if there are enough, prefetching the rows of the next one.
constexpr int64_t kRunTiles = 4;

// Queries of heads [first_head, stop_head) of a sequence; each head has `slots`, the first head from `place`
// on.
struct Piece {
  int64_t sequence, first_head, stop_head;
  Span queries;
  PackedTiles slots;
  int64_t place;
  bool continues;  // its slots hold tiles of the previous wave
};
using Wave = std::vector<Piece>;

// Heads and queries of a sequence per wave: all if their keys fit in the memory; otherwise all heads and as
// many queries as fit, if every thread then has enough work; otherwise (few heads, an unbounded window) all
// queries of some heads.
Piece first_piece(const AttentionParams& p, int64_t index, int64_t step, int64_t most_tiles) {
  const Sequence& sequence = p.sequences[index];
  const int64_t heads = p.num_kv_heads, of_head = most_tiles / heads;
  const PackedTiles whole = slots_of(p, sequence, sequence.q_len);
  if (count(whole) <= of_head) return {index, 0, heads, {0, sequence.q_len}, whole, 0, false};
  const int64_t least_steps = (kStepsPerThread * num_threads() + p.num_heads - 1) / p.num_heads;
  const int64_t steps = ((of_head - count(slots_of(p, sequence, step))) * kTile - kTile) / step;
  if (steps >= least_steps && !across_heads(sequence)) {
    return {index, 0, heads, {0, steps * step}, slots_of(p, sequence, steps * step), 0, false};
  }
  const int64_t some = std::clamp<int64_t>(most_tiles / count(whole), 1, heads);
  return {index, 0, some, {0, sequence.q_len}, whole, 0, false};
}

// Waves of at most most_tiles slots, or those of one head if it needs more. Small sequences are combined.
std::vector<Wave> plan_waves(const AttentionParams& p, const std::function<bool(const Sequence&)>& wanted,
                             int64_t step, int64_t most_tiles) {
  std::vector<Wave> waves;
  int64_t used = 0;   // slots of the last wave
  bool open = false;  // whether the last wave accepts more sequences
  for (int64_t t = 0; t < p.num_sequences; ++t) {
    const Sequence& sequence = p.sequences[t];
    if (!wanted(sequence)) continue;
    Piece piece = first_piece(p, t, step, most_tiles);
    const int64_t heads = piece.stop_head, queries = piece.queries.end, needed = heads * count(piece.slots);
    if (heads == p.num_kv_heads && queries == sequence.q_len) {
      if (!open || used + needed > most_tiles) waves.emplace_back(), used = 0;
      open = true;
      piece.place = used;
      used += needed;
      waves.back().push_back(piece);
      continue;
    }
    for (int64_t h = 0; h < p.num_kv_heads; h += heads) {
      piece.first_head = h, piece.stop_head = std::min(h + heads, p.num_kv_heads);
      for (int64_t q = 0; q < sequence.q_len; q += queries) {
        piece.queries = {q, std::min(q + queries, sequence.q_len)};
        piece.continues = q > 0;
        waves.push_back({piece});
      }
    }
    open = false;
  }
  return waves;
}

// A key tile of all heads of a piece, which are the wave's parts [first, stop).
struct NewTile {
  int64_t first, stop, tile;
};

// One thread packs all heads of a tile, whose rows are contiguous, unless tiles are too few for all threads.
void pack_tiles(const AttentionForwardKernels& kernels, const AttentionParams& p,
                const std::vector<QueryPart>& parts, const std::vector<NewTile>& tiles) {
  const int64_t number = tiles.size(), wanted = 2 * num_threads(), heads = tiles[0].stop - tiles[0].first;
  const int64_t length = std::clamp<int64_t>(number / wanted, 1, kRunTiles);
  const int64_t groups = std::clamp<int64_t>((wanted + number - 1) / number, 1, heads);
  const auto pack = [&](const NewTile& it, int64_t group, const NewTile* next, void* scratch) {
    const int64_t step = (it.stop - it.first + groups - 1) / groups, first = it.first + group * step;
    const ReadAhead ahead{parts[it.first].kv_head, it.stop - it.first, next ? next->tile * kTile : -1};
    for (int64_t n = first; n < std::min(first + step, it.stop); ++n) {
      const QueryPart& part = parts[n];
      kernels.pack_keys(p, part.sequence, part.kv_head, it.tile, ahead, part.tiles.at(it.tile), scratch);
    }
  };
  const int64_t runs = (number + length - 1) / length;
  const int64_t work = length * (heads + groups - 1) / groups * 4 * kTile * (p.head_dim + p.head_dim_v);
  run_with_scratch(runs * groups, work, kernels.scratch_bytes(p), [&](int64_t task, void* scratch) {
    const int64_t begin = task / groups * length, end = std::min(begin + length, number);
    for (int64_t i = begin; i < end; ++i) {
      const bool goes_on = i + 1 < end && tiles[i + 1].first == tiles[i].first;
      pack(tiles[i], task % groups, goes_on ? &tiles[i + 1] : nullptr, scratch);
    }
  });
}

}  // namespace

void run_with_scratch(int64_t num_tasks, int64_t task_work, int64_t scratch_bytes,
                      const std::function<void(int64_t task, void* scratch)>& body) {
  if (num_tasks == 0) return;
  const int64_t grain = std::max<int64_t>(1, kThreadWork / std::max<int64_t>(task_work, 1));
  run_tasks(num_tasks, grain, [&](const NextTask& next) {
    const Workspace scratch = make_workspace(scratch_bytes);
    for (int64_t task; (task = next()) >= 0;) body(task, scratch.get());
  });
}

void run_waves(const AttentionForwardKernels& kernels, const AttentionParams& p,
               const std::function<bool(const Sequence&)>& wanted, int64_t step,
               const std::function<void(const std::vector<QueryPart>& parts)>& run) {
  const int64_t tile_bytes = kernels.tile_bytes(p);
  const std::vector<Wave> waves = plan_waves(p, wanted, step, kWaveBytes * num_threads() / tile_bytes);
  int64_t slots = 0;
  for (const Wave& wave : waves) {
    for (const Piece& x : wave) {
      slots = std::max(slots, x.place + (x.stop_head - x.first_head) * count(x.slots));
    }
  }
  const Workspace packed = make_workspace(slots * tile_bytes);

  std::vector<QueryPart> parts;
  std::vector<NewTile> tiles;
  std::vector<int64_t> held;  // the tile in each slot of a head of the last piece
  for (const Wave& wave : waves) {
    parts.clear(), tiles.clear();
    for (const Piece& piece : wave) {
      const int64_t first_part = parts.size();
      for (int64_t h = piece.first_head; h < piece.stop_head; ++h) {
        PackedTiles of_head = piece.slots;
        of_head.data =
            packed.get() + (piece.place + (h - piece.first_head) * count(piece.slots)) * tile_bytes;
        of_head.tile_bytes = tile_bytes;
        parts.push_back({piece.sequence, h, piece.queries, of_head});
      }
      if (!piece.continues) held.assign(count(piece.slots), -1);
      if (empty(piece.queries)) continue;
      const TileList list = tiles_of_queries(p, p.sequences[piece.sequence], piece.queries);
      for (int64_t u = 0; u < count(list); ++u) {
        const int64_t tile = tile_at(list, u);
        int64_t& in_slot = held[piece.slots.slot(tile)];
        if (in_slot == tile) continue;
        in_slot = tile;
        tiles.push_back({first_part, static_cast<int64_t>(parts.size()), tile});
      }
    }
    if (!tiles.empty()) pack_tiles(kernels, p, parts, tiles);
    run(parts);
  }
}

}  // namespace lck
