// The layout's tables as the passes want them.
#include <algorithm>
#include <unordered_map>

#include "cpu/attention_run.h"

namespace lck {

namespace {

// Positions further away see the same; it keeps the window's arithmetic far from overflow.
int64_t bounded(int64_t position) {
  constexpr int64_t kFar = int64_t{1} << 60;
  return std::clamp(position, -kFar, kFar);
}

// Numbers the segments of one row in order of appearance; true if one has holes.
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
  const bool packed = layout.cu_seqlens_q != nullptr;
  for (int64_t b = 0; b < layout.num_texts; ++b) {
    Text text{};
    text.batch = packed ? 0 : b;
    text.index = b;
    text.q_begin = packed ? layout.cu_seqlens_q[b] : 0;
    text.q_len = packed ? layout.cu_seqlens_q[b + 1] - text.q_begin : params->seqlen_q;
    text.k_begin = packed ? layout.cu_seqlens_k[b] : 0;
    KeyBounds& bounds = text.bounds;
    bounds.num_keys = packed ? layout.cu_seqlens_k[b + 1] - text.k_begin : params->seqlen_k;
    text.offset = layout.offsets      ? bounded(layout.offsets[b * layout.offset_step])
                  : layout.has_offset ? layout.offset
                                      : bounds.num_keys - text.q_len;
    bounds.kv_start = layout.kv_start ? bounded(layout.kv_start[b]) : 0;
    bounds.kv_end = layout.kv_end ? bounded(layout.kv_end[b]) : bounds.num_keys;
    const int64_t origin =
        layout.chunk_origins ? layout.chunk_origins[b * layout.chunk_origin_step] : layout.chunk_origin;
    bounds.chunk_origin =
        params->window.chunk ? origin % params->window.chunk : 0;  // the chunks are the same
    tables->texts.push_back(text);
  }
  params->texts = tables->texts.data();
  params->num_texts = layout.num_texts;
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
