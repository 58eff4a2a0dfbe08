#include "host/plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace lck {

namespace {

constexpr int64_t kMaxPositions = std::numeric_limits<int32_t>::max();

[[noreturn]] void fail(const std::string& message) {
  throw std::invalid_argument(message);
}

std::string str(int64_t value) {
  return std::to_string(value);
}

std::string item(const char* name, size_t index) {
  return std::string(name) + '[' + std::to_string(index) + ']';
}

// Content columns of a chunk.
int64_t content_len(const ChunkOptions& options) {
  const auto [chunk_len, overlap, rule, num_leading, num_trailing] = options;
  if (chunk_len < 1 || chunk_len > kMaxPositions) {
    fail("chunk_len must be between 1 and " + str(kMaxPositions) + ", got " + str(chunk_len));
  }
  if (num_leading < 0 || num_trailing < 0) {
    fail("num_leading and num_trailing must not be negative, got " + str(num_leading) + " and " +
         str(num_trailing));
  }
  if (num_leading >= chunk_len || num_trailing >= chunk_len - num_leading) {
    fail("chunk_len must leave a column beside num_leading = " + str(num_leading) +
         " and num_trailing = " + str(num_trailing) + " special tokens, got chunk_len = " + str(chunk_len));
  }
  const int64_t content = chunk_len - num_leading - num_trailing;
  if (overlap < 0 || overlap >= content) {
    fail("overlap must be at least 0 and below the " + str(content) + " content columns of a chunk, got " +
         str(overlap));
  }
  return content;
}

void check_lengths(std::span<const int64_t> lengths) {
  int64_t total = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] == 0) fail(item("lengths", i) + " is 0: an empty sequence has no chunks");
    if (lengths[i] < 0) fail(item("lengths", i) + " must be positive, got " + str(lengths[i]));
    if (lengths[i] > kMaxPositions - total) {
      fail("the documents must have at most " + str(kMaxPositions) + " tokens together, exceeded by " +
           item("lengths", i) + " = " + str(lengths[i]));
    }
    total += lengths[i];
  }
}

void check_boundaries(std::span<const int64_t> lengths, KeepRule rule,
                      std::span<const std::vector<int64_t>> boundaries) {
  const size_t expected = rule == KeepRule::kSentence ? lengths.size() : 0;
  if (boundaries.size() != expected) {
    fail(rule == KeepRule::kSentence
             ? "rule \"sentence\" needs boundaries, one list per document: expected " +
                   std::to_string(expected) + ", got " + std::to_string(boundaries.size())
             : "boundaries are for rule \"sentence\" only");
  }
  for (size_t d = 0; d < boundaries.size(); ++d) {
    const auto& cuts = boundaries[d];
    for (size_t i = 0; i < cuts.size(); ++i) {
      if (cuts[i] < 0 || cuts[i] > lengths[d]) {
        fail(item("boundaries", d) + " must lie in [0, " + str(lengths[d]) + "], the document, got " +
             str(cuts[i]));
      }
      if (i > 0 && cuts[i] < cuts[i - 1]) {
        fail(item("boundaries", d) + " must be sorted, got " + str(cuts[i]) + " after " + str(cuts[i - 1]));
      }
    }
  }
}

// A chunk and its keep range, as ranges of its document's tokens.
struct Range {
  int64_t begin, end;
};

class Planner {
 public:
  Planner(const ChunkOptions& options, int64_t content) : options_(options), content_(content) {}

  void add_document(int64_t length, std::span<const int64_t> boundaries) {
    length_ = length;
    if (length <= content_) {
      add({0, length}, {0, length});
    } else if (options_.rule == KeepRule::kSentence) {
      add_cores(boundaries);
    } else {
      add_strided();
    }
    offset_ += length;
  }

  std::vector<ChunkSpan> take() { return std::move(spans_); }

 private:
  // Full chunks every content - overlap tokens, the last one shifted left.
  void add_strided() {
    const int64_t stride = content_ - options_.overlap, last = length_ - content_;
    int64_t kept = 0;
    for (int64_t start = 0; start < last; start += stride) {
      const int64_t next = std::min(start + stride, last);
      const int64_t keep_end = seam(start, next);
      add({start, start + content_}, {kept, keep_end});
      kept = keep_end;
    }
    add({last, length_}, {kept, length_});
  }

  // The end of the keep range of the chunk at `start`, which the chunk at `next` follows.
  int64_t seam(int64_t start, int64_t next) const {
    if (options_.rule == KeepRule::kSled) return start + content_ - (options_.overlap - options_.overlap / 2);
    // The last token that is not nearer to the middle of `next`, plus one.
    return (start + next + content_ - 1) / 2 + 1;
  }

  // Keep ranges that end at the furthest boundary that fits; each chunk is its keep range and tokens on both
  // sides.
  void add_cores(std::span<const int64_t> boundaries) {
    const int64_t halo_left = options_.overlap / 2, halo_right = options_.overlap - halo_left;
    auto boundary = boundaries.begin();
    for (int64_t start = 0; start < length_;) {
      const int64_t begin = std::max<int64_t>(start - halo_left, 0);
      const int64_t reach = begin + content_ - halo_right;
      int64_t end = length_;
      if (length_ - begin > content_) {
        boundary = std::upper_bound(boundary, boundaries.end(), reach);
        const bool found = boundary != boundaries.begin() && *std::prev(boundary) > start;
        end = found ? *std::prev(boundary) : reach;
      }
      add({begin, std::min(end + halo_right, length_)}, {start, end});
      start = end;
    }
  }

  void add(Range chunk, Range keep) {
    const auto narrow = [](int64_t value) { return static_cast<int32_t>(value); };
    spans_.push_back({.row = narrow(spans_.size()),
                      .col = narrow(options_.num_leading),
                      .start = narrow(offset_ + chunk.begin),
                      .length = narrow(chunk.end - chunk.begin),
                      .keep_start = narrow(keep.begin - chunk.begin),
                      .keep_end = narrow(keep.end - chunk.begin),
                      .starts_document = chunk.begin == 0,
                      .ends_document = chunk.end == length_});
  }

  const ChunkOptions& options_;
  const int64_t content_;
  int64_t length_ = 0;  // of the current document
  int64_t offset_ = 0;  // of its first token in the output
  std::vector<ChunkSpan> spans_;
};

}  // namespace

KeepRule keep_rule_from_name(std::string_view name) {
  if (name == "sled") return KeepRule::kSled;
  if (name == "max_context") return KeepRule::kMaxContext;
  if (name == "sentence") return KeepRule::kSentence;
  fail("rule must be \"sled\", \"max_context\" or \"sentence\", got \"" + std::string(name) + "\"");
}

std::vector<ChunkSpan> plan_chunks(std::span<const int64_t> lengths, const ChunkOptions& options,
                                   std::span<const std::vector<int64_t>> boundaries) {
  Planner planner(options, content_len(options));
  check_lengths(lengths);
  check_boundaries(lengths, options.rule, boundaries);
  for (size_t d = 0; d < lengths.size(); ++d) {
    planner.add_document(lengths[d], boundaries.empty() ? std::span<const int64_t>{} : boundaries[d]);
  }
  return planner.take();
}

}  // namespace lck
