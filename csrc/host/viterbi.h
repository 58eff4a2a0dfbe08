// The best sequence of labels under allowed transitions: Viterbi's algorithm.
#pragma once

#include <cstdint>
#include <span>

namespace lck {

// What a sequence of labels may be, as numbers that are added to its score; -inf forbids.
struct LabelScores {
  int64_t num_labels;                  // 1 to 65,536
  std::span<const float> transitions;  // (num_labels, num_labels): from a label (row) to the next (column)
  std::span<const float> begin;        // (num_labels): of the first label of a sequence
  std::span<const float> end;          // (num_labels): of the last one
};

// The label of each token of several sequences that are concatenated, such that the sum of emissions and
// scores of each sequence is largest. Sums are in double. Of equal sums the lowest label is kept, from the
// last token to the first. emissions: (num_tokens, num_labels); -inf forbids a label. lengths: tokens of each
// sequence, 0 allowed. path: (num_tokens). Throws std::invalid_argument; NaN and +inf are errors, and so is a
// sequence without a path. Time: a token costs one step for each finite entry of the distinct columns of
// `transitions`. Memory: a byte (two above 256 labels) for each token of the longest sequence and distinct
// column.
void viterbi(std::span<const float> emissions, const LabelScores& scores, std::span<const int64_t> lengths,
             std::span<int32_t> path);

}  // namespace lck
