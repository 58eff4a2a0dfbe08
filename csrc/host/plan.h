// Plans of overlapping chunks: the columns and positions of each chunk, and the range that it contributes.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace lck {

enum class KeepRule { kSled, kMaxContext, kSentence };

// "sled", "max_context", "sentence".
KeepRule keep_rule_from_name(std::string_view name);

struct ChunkOptions {
  int64_t chunk_len;  // columns of a row: leading, content, trailing, padding
  int64_t overlap;    // tokens in common of neighbouring chunks
  KeepRule rule = KeepRule::kSled;
  int64_t num_leading = 0;   // special tokens before the content of each chunk
  int64_t num_trailing = 0;  // and after it
};

// One chunk: columns [col, col + length) of its row are at positions [start, start + length) of
// the output.
struct ChunkSpan {
  int32_t row, col, start, length;
  int32_t keep_start, keep_end;  // relative to the chunk; the keep ranges partition each document
  int32_t starts_document, ends_document;
};

// The chunks, one row each, in order, of documents that are concatenated in the output.
// lengths: tokens of each document. boundaries: for kSentence, per document the sorted offsets where a cut is
// allowed; empty for the other rules. Throws std::invalid_argument.
std::vector<ChunkSpan> plan_chunks(std::span<const int64_t> lengths, const ChunkOptions& options,
                                   std::span<const std::vector<int64_t>> boundaries = {});

}  // namespace lck
