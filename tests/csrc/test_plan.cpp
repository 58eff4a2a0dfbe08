// The planner without Python: golden vectors, invariants over small sizes, limits of int32, bad input.
#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>

#include "check.h"
#include "host/plan.h"

namespace {

using lck::ChunkOptions;
using lck::ChunkSpan;
using lck::KeepRule;
using lck::plan_chunks;
using Lengths = std::vector<int64_t>;
using Boundaries = std::vector<std::vector<int64_t>>;

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr std::array kRules = {KeepRule::kSled, KeepRule::kMaxContext, KeepRule::kSentence};

bool is(const ChunkSpan& span, int start, int end, int keep_start, int keep_end) {
  return span.start == start && span.start + span.length == end && span.keep_start == keep_start &&
         span.keep_end == keep_end;
}

void test_sled_golden() {
  const auto half = plan_chunks(Lengths{1050}, {.chunk_len = 512, .overlap = 256});
  CHECK(half.size() == 4);
  CHECK(is(half[0], 0, 512, 0, 384));
  CHECK(is(half[1], 256, 768, 128, 384));
  CHECK(is(half[2], 512, 1024, 128, 384));
  CHECK(is(half[3], 538, 1050, 358, 512));
  const auto three_quarters = plan_chunks(Lengths{1050}, {.chunk_len = 256, .overlap = 64});
  CHECK(is(three_quarters.back(), 794, 1050, 198, 256));
}

// The keep ranges partition each document, inside chunks of at most `content` columns.
void check_partition(const std::vector<ChunkSpan>& spans, const Lengths& lengths,
                     const ChunkOptions& options) {
  const int64_t content = options.chunk_len - options.num_leading - options.num_trailing;
  size_t row = 0;
  int64_t document = 0;
  for (const int64_t length : lengths) {
    for (int64_t kept = 0; kept < length; ++row) {
      CHECK(row < spans.size());
      const ChunkSpan& span = spans[row];
      const int64_t start = span.start - document;
      CHECK(span.row == static_cast<int64_t>(row) && span.col == options.num_leading);
      CHECK(start >= 0 && span.length >= 1 && span.length <= content && start + span.length <= length);
      CHECK(start + span.keep_start == kept);
      CHECK(span.keep_end > span.keep_start && span.keep_end <= span.length);
      CHECK(span.starts_document == (start == 0));
      CHECK(span.ends_document == (start + span.length == length));
      kept = start + span.keep_end;
    }
    document += length;
  }
  CHECK(row == spans.size());
}

// Boundaries that leave short and long sentences, with repeats and both ends.
std::vector<int64_t> some_boundaries(int64_t length, int64_t step) {
  std::vector<int64_t> cuts = {0};
  for (int64_t at = step; at < length; at += 1 + at % (2 * step)) cuts.push_back(at);
  cuts.push_back(cuts.back());
  cuts.push_back(length);
  return cuts;
}

void test_partitions() {
  for (const KeepRule rule : kRules) {
    for (int64_t content = 1; content <= 9; ++content) {
      for (int64_t overlap = 0; overlap < content; ++overlap) {
        const ChunkOptions options{content + 3, overlap, rule, 2, 1};
        for (int64_t length = 1; length <= 3 * content + 2; ++length) {
          const Lengths lengths = {length, 1, 2 * length};
          Boundaries boundaries;
          if (rule == KeepRule::kSentence) {
            for (const int64_t n : lengths) boundaries.push_back(some_boundaries(n, 1 + content / 2));
          }
          check_partition(plan_chunks(lengths, options, boundaries), lengths, options);
        }
      }
    }
  }
}

void test_sentences() {
  const ChunkOptions options{.chunk_len = 10, .overlap = 5, .rule = KeepRule::kSentence};
  const auto spans = plan_chunks(Lengths{24}, options, Boundaries{{3, 7, 8, 12}});
  CHECK(spans.size() == 4);
  // In reach are 7, then (with 2 tokens of context before, 3 after) 12, then none: a hard cut at 17, then the
  // end.
  CHECK(is(spans[0], 0, 10, 0, 7));
  CHECK(is(spans[1], 5, 15, 2, 7));
  CHECK(is(spans[2], 10, 20, 2, 7));
  CHECK(is(spans[3], 15, 24, 2, 9));
}

void test_limits() {
  CHECK(plan_chunks(Lengths{}, {.chunk_len = 8, .overlap = 2}).empty());
  const int64_t big = int64_t{1} << 30;
  const Lengths lengths = {big, big - 1};
  const ChunkOptions options{.chunk_len = 1 << 20, .overlap = 1 << 19};
  check_partition(plan_chunks(lengths, options), lengths, options);
  const Lengths longest = {kInt32Max};
  for (const KeepRule rule : {KeepRule::kSled, KeepRule::kMaxContext}) {
    const ChunkOptions wide{kInt32Max - 1, kInt32Max - 2, rule};
    check_partition(plan_chunks(longest, wide), longest, wide);
  }
}

void test_bad_input() {
  const auto plan = [](Lengths lengths, ChunkOptions options, Boundaries boundaries = {}) {
    return plan_chunks(lengths, options, boundaries);
  };
  using Error = std::invalid_argument;
  const int64_t huge = std::numeric_limits<int64_t>::max();
  CHECK_THROWS(plan({9}, {0, 0}), Error, "chunk_len must be between 1 and 2147483647, got 0");
  CHECK_THROWS(plan({9}, {huge, 0}), Error, "chunk_len must be between 1 and 2147483647");
  CHECK_THROWS(plan({9}, {4, 0, KeepRule::kSled, -1, 0}), Error, "must not be negative, got -1 and 0");
  CHECK_THROWS(plan({9}, {4, 0, KeepRule::kSled, 3, 1}), Error, "special tokens, got chunk_len = 4");
  CHECK_THROWS(plan({9}, {4, 0, KeepRule::kSled, huge, huge}), Error, "special tokens, got chunk_len = 4");
  CHECK_THROWS(plan({9}, {4, 3, KeepRule::kSled, 1, 0}), Error,
               "below the 3 content columns of a chunk, got 3");
  CHECK_THROWS(plan({9}, {4, -1}), Error, "overlap must be at least 0");
  CHECK_THROWS(plan({9, 0}, {4, 1}), Error, "lengths[1] is 0: an empty sequence has no chunks");
  CHECK_THROWS(plan({-9}, {4, 1}), Error, "lengths[0] must be positive, got -9");
  CHECK_THROWS(plan({kInt32Max, 1}, {4, 1}), Error, "exceeded by lengths[1] = 1");
  CHECK_THROWS(plan({1, huge}, {4, 1}), Error, "at most 2147483647 tokens together");
  const ChunkOptions sentence{4, 1, KeepRule::kSentence};
  CHECK_THROWS(plan({9}, {4, 1}, {{3}}), Error, "boundaries are for rule \"sentence\" only");
  CHECK_THROWS(plan({9, 9}, sentence, {{3}}), Error, "one list per document: expected 2, got 1");
  CHECK_THROWS(plan({9}, sentence, {{5, 3}}), Error, "boundaries[0] must be sorted, got 3 after 5");
  CHECK_THROWS(plan({9}, sentence, {{5, 10}}), Error,
               "boundaries[0] must lie in [0, 9], the document, got 10");
  CHECK_THROWS(plan({9}, sentence, {{-1}}), Error, "boundaries[0] must lie in [0, 9], the document, got -1");
  CHECK_THROWS(lck::keep_rule_from_name("middle"), Error, "\"max_context\" or \"sentence\", got \"middle\"");
}

}  // namespace

int main() {
  test_sled_golden();
  test_partitions();
  test_sentences();
  test_limits();
  test_bad_input();
  std::puts("test_plan: ok");
}
