// Sequences and segments from the layout's tables.
#include <unordered_map>

#include "cpu/attention/run.h"

namespace lck {

namespace {

// Numbers the segments of one row in order of appearance; returns whether one is not contiguous.
bool number_segments(const int64_t* ids, int64_t count, int32_t* numbers, Span* spans) {
  std::unordered_map<int64_t, int32_t> number_of;
  std::vector<Span> found;
  bool scattered = false;
  for (int64_t j = 0; j < count; ++j) {
    if (j > 0 && ids[j] == ids[j - 1]) {
      numbers[j] = numbers[j - 1];
    } else {
      const auto [place, fresh] = number_of.try_emplace(ids[j], static_cast<int32_t>(found.size()));
      if (fresh) found.push_back({j, j});
      scattered |= !fresh;
      numbers[j] = place->second;
    }
    found[numbers[j]].end = j + 1;
  }
  for (int64_t j = 0; j < count; ++j) spans[j] = found[numbers[j]];
  return scattered;
}

}  // namespace

void build_tables(const LayoutTables& layout, AttentionTables* tables, AttentionParams* params) {
  for (int64_t t = 0; t < layout.num_sequences; ++t) {
    tables->sequences.push_back(
        sequence_at(layout, params->seqlen_q, params->seqlen_k, params->window.chunk, t));
  }
  params->sequences = tables->sequences.data();
  params->num_sequences = layout.num_sequences;
  if (!layout.segment_ids) return;
  const int64_t count = params->seqlen_k;
  tables->segments.resize(layout.batch * count);
  tables->segment_spans.resize(layout.batch * count);
  for (int64_t b = 0; b < layout.batch; ++b) {
    params->scattered |=
        number_segments(layout.segment_ids + b * count, count, tables->segments.data() + b * count,
                        tables->segment_spans.data() + b * count);
  }
  params->segments = tables->segments.data();
  params->segment_spans = tables->segment_spans.data();
}

}  // namespace lck
