#include "cpu/attention/query_ranges.h"

#include <algorithm>
#include <functional>

#include "cpu/attention/key_waves.h"
#include "cpu/attention/query_tasks.h"
#include "cpu/common/parallel.h"

namespace lck {

namespace {

// The largest ring: it stays in the second cache while queries read it.
constexpr int64_t kRingBytes = int64_t{768} << 10;

// Ranges per thread where sequences permit it, so that threads end at about the same time.
constexpr int64_t kRangesPerThread = 8;

// A range is at least so many rings long, since it packs a ring of keys that the range before it packed too.
constexpr int64_t kLeastRings = 3;

// The longest time of a thread, divided by the shortest possible; waves are faster than ranges with more.
constexpr double kMostUnequal = 1.04;

// Queries whose tasks are prepared at once, so that a long range does not need memory for all of its tasks.
constexpr int64_t kPreparedQueries = 16 * kQueryTileRows;

// The same queries of every kv head; a thread takes one kv head of them.
struct Range {
  QueryPart part;  // without kv head and memory
  int64_t work;    // of a kv head: rows times key tiles
};

int64_t work_of(const AttentionParams& p, const QueryPart& part) {
  const Sequence& sequence = p.sequences[part.sequence];
  int64_t work = 0;
  for (int64_t first = part.queries.begin; first < part.queries.end; first += kQueryTileRows) {
    const int64_t stop = std::min(first + kQueryTileRows, part.queries.end);
    work += (stop - first) * count(tiles_of_queries(p, sequence, {first, stop}));
  }
  return work * (p.num_heads / p.num_kv_heads);
}

// Appends the ranges of a sequence, each of about `usual` queries, or of all.
void add_ranges(const AttentionParams& p, QueryPart part, int64_t usual, std::vector<Range>* ranges) {
  const int64_t length = part.queries.end, least = kLeastRings * count(part.tiles) * kTile;
  const bool one = across_heads(p.sequences[part.sequence]);
  const int64_t number = one ? 1 : std::max<int64_t>(length / std::max({usual, least, int64_t{1}}), 1);
  const int64_t steps = (length + number * kQueryTileRows - 1) / (number * kQueryTileRows);
  for (int64_t first = 0; first < length; first += steps * kQueryTileRows) {
    part.queries = {first, std::min(first + steps * kQueryTileRows, length)};
    ranges->push_back({part, work_of(p, part)});
  }
}

// The ranges of the sequences that fit, those with the most work first.
std::vector<Range> plan_ranges(const AttentionForwardKernels& kernels, const AttentionParams& p) {
  const int64_t tile_bytes = kernels.tile_bytes(p);
  std::vector<QueryPart> whole;
  int64_t queries = 0;
  for (int64_t t = 0; t < p.num_sequences; ++t) {
    const Sequence& sequence = p.sequences[t];
    if (rows_per_kv_head(p, sequence) <= kMostTileRows) continue;
    PackedTiles slots = slots_of(p, sequence, across_heads(sequence) ? sequence.q_len : kQueryTileRows);
    slots.tile_bytes = tile_bytes;
    if (count(slots) * tile_bytes > kRingBytes) continue;
    whole.push_back({t, 0, {0, sequence.q_len}, slots});
    queries += sequence.q_len * p.num_kv_heads;
  }
  std::vector<Range> ranges;
  for (const QueryPart& part : whole)
    add_ranges(p, part, queries / (kRangesPerThread * num_threads()), &ranges);
  std::stable_sort(ranges.begin(), ranges.end(),
                   [](const Range& a, const Range& b) { return a.work > b.work; });
  return ranges;
}

// Whether threads that take one kv head of one range after another end at about the same time.
bool are_balanced(const std::vector<Range>& ranges, int64_t kv_heads) {
  const int64_t threads = num_threads(), number = ranges.size() * kv_heads;
  if (number < threads) return false;
  std::vector<int64_t> of_thread(threads);  // a heap: the least is first
  int64_t total = 0;
  for (int64_t i = 0; i < number; ++i) {
    const int64_t work = ranges[i / kv_heads].work;
    std::pop_heap(of_thread.begin(), of_thread.end(), std::greater<>());
    of_thread.back() += work;
    std::push_heap(of_thread.begin(), of_thread.end(), std::greater<>());
    total += work;
  }
  const int64_t longest = *std::max_element(of_thread.begin(), of_thread.end());
  return static_cast<double>(longest) * threads <= kMostUnequal * static_cast<double>(total);
}

// Prefetches of keys: those that the next task packs; after the last, in equal parts, those that `after`
// packs first, if not null.
void set_keys_ahead(const AttentionParams& p, DType dtype, const QueryPart* after,
                    std::vector<QueryTask>* tasks) {
  const auto ahead = [&](const QueryPart& of, Span keys, QueryTask* task) {
    const Sequence& sequence = p.sequences[of.sequence];
    keys = intersect(keys, valid_keys(sequence.bounds));
    if (empty(keys)) return;
    const auto rows = [&](const HeadsTensor& x, int64_t dim) {
      return rows_ahead(dtype, x, sequence.batch, sequence.k_begin + keys.begin, of.kv_head,
                        keys.end - keys.begin, dim);
    };
    task->next[2] = rows(p.k, p.head_dim);
    task->next[3] = rows(p.v, p.head_dim_v);
  };
  const int64_t number = tasks->size();
  const auto window = [&](const QueryTask& task) { return tiles_of_task(p, task).window; };
  const QueryPart own{(*tasks)[0].sequence, (*tasks)[0].kv_head, {}, {}};
  int64_t last = 0;  // the last task that packs keys
  Span before = window((*tasks)[0]);
  for (int64_t i = 1; i < number; ++i) {
    const Span now = window((*tasks)[i]), more{std::max(before.end, now.begin), now.end};
    before = now;
    if (more.begin >= more.end) continue;
    ahead(own, {more.begin * kTile, more.end * kTile}, &(*tasks)[i - 1]);
    last = i;
  }
  if (!after) return;
  const Sequence& sequence = p.sequences[after->sequence];
  const int64_t stop = std::min(after->queries.begin + kQueryTileRows, after->queries.end);
  const Span first = tiles_of_queries(p, sequence, {after->queries.begin, stop}).window;
  const int64_t step = ((first.end - first.begin) * kTile + number - last - 1) / (number - last);
  for (int64_t i = last; i < number; ++i) {
    const int64_t begin = first.begin * kTile + (i - last) * step;
    ahead(*after, {begin, std::min(begin + step, first.end * kTile)}, &(*tasks)[i]);
  }
}

// One kv head of a range. after: as in set_keys_ahead.
void run_range(const AttentionForwardKernels& kernels, DType dtype, const AttentionParams& p,
               const QueryPart& range, const QueryPart* after, void* scratch) {
  std::vector<int64_t> held(count(range.tiles), -1);  // the tile in each slot
  std::vector<QueryTask> tasks;
  for (int64_t first = range.queries.begin, stop; first < range.queries.end; first = stop) {
    stop = std::min(first + kPreparedQueries, range.queries.end);
    const bool more = stop < range.queries.end;
    QueryPart prepared = range;  // with the next step, which is prefetched
    prepared.queries = {first, std::min(stop + kQueryTileRows, range.queries.end)};
    tasks.clear();
    add_query_steps(p, prepared, &tasks);
    set_rows_ahead(p, dtype, 1, &tasks);
    set_keys_ahead(p, dtype, more ? nullptr : after, &tasks);
    const int64_t number = tasks.size() - (more ? p.num_heads / p.num_kv_heads : 0);
    for (int64_t i = 0; i < number; ++i) {
      const QueryTask& task = tasks[i];
      const TileList tiles = tiles_of_task(p, task);
      for (int64_t u = 0; u < count(tiles); ++u) {
        const int64_t tile = tile_at(tiles, u);
        int64_t& in_slot = held[task.packed.slot(tile)];
        if (in_slot == tile) continue;
        in_slot = tile;
        kernels.pack_keys(p, range.sequence, range.kv_head, tile, kNoReadAhead, task.packed.at(tile),
                          scratch);
      }
      kernels.forward(p, task, scratch);
    }
  }
}

}  // namespace

void run_query_ranges(const AttentionForwardKernels& kernels, DType dtype, const AttentionParams& p,
                      std::vector<bool>* done) {
  const std::vector<Range> ranges = plan_ranges(kernels, p);
  if (!are_balanced(ranges, p.num_kv_heads)) return;
  const int64_t scratch_bytes = kernels.scratch_bytes(p), threads = num_threads();
  const int64_t number = ranges.size() * p.num_kv_heads;
  int64_t ring_bytes = 0;
  for (const auto& [part, work] : ranges) {
    ring_bytes = std::max(ring_bytes, count(part.tiles) * part.tiles.tile_bytes);
    (*done)[part.sequence] = true;
  }
  const auto part_of = [&](int64_t i) {
    QueryPart part = ranges[i / p.num_kv_heads].part;
    part.kv_head = i % p.num_kv_heads;
    return part;
  };
  const int64_t work = ranges[ranges.size() / 2].work * kTile * (p.head_dim + p.head_dim_v);
  run_with_scratch(number, work, scratch_bytes + ring_bytes, [&](int64_t i, void* scratch) {
    QueryPart range = part_of(i);
    range.tiles.data = static_cast<std::byte*>(scratch) + scratch_bytes;
    const int64_t next = i + threads;  // what the thread is likely to run next
    const QueryPart after = part_of(std::min(next, number - 1));
    run_range(kernels, dtype, p, range, next < number ? &after : nullptr, scratch);
  });
}

}  // namespace lck
