#include "host/viterbi.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace lck {

namespace {

constexpr double kForbidden = -std::numeric_limits<double>::infinity();
constexpr float kMaxFinite = std::numeric_limits<float>::max();
constexpr int64_t kMaxLabels = 65536;

[[noreturn]] void fail(const std::string& message) {
  throw std::invalid_argument(message);
}

std::string str(int64_t value) {
  return std::to_string(value);
}

// NaN and +inf fail the comparison.
bool is_score(float value) {
  return value <= kMaxFinite;
}

void check_table(const char* name, std::span<const float> table, int64_t expected) {
  if (static_cast<int64_t>(table.size()) != expected) {
    fail(std::string(name) + ": got " + std::to_string(table.size()) + " numbers; expected " + str(expected));
  }
  for (const float value : table) {
    if (!is_score(value)) {
      fail(std::string(name) + ": got " + std::to_string(value) + "; expected finite numbers or -inf");
    }
  }
}

// Throws for the first token with NaN or +inf.
void check_emissions(const float* row, int64_t num_labels, int64_t token) {
  for (int64_t label = 0; label < num_labels; ++label) {
    if (!is_score(row[label])) {
      fail("logits: got " + std::to_string(row[label]) + " at token " + str(token) + ", label " + str(label) +
           "; expected finite numbers or -inf");
    }
  }
}

// The columns of a transition matrix, each distinct one once, without its forbidden entries.
class Columns {
 public:
  struct Source {
    int32_t label;
    float score;
  };

  explicit Columns(const LabelScores& scores) : column_of_(scores.num_labels) {
    const int64_t num_labels = scores.num_labels;
    const auto at = [&](int64_t from, int64_t to) { return scores.transitions[from * num_labels + to]; };
    std::vector<int64_t> firsts;  // the first label with each column
    for (int64_t to = 0; to < num_labels; ++to) {
      const auto equal = [&](int64_t other) {
        for (int64_t from = 0; from < num_labels; ++from) {
          if (at(from, to) != at(from, other)) return false;
        }
        return true;
      };
      const auto found = std::find_if(firsts.begin(), firsts.end(), equal);
      column_of_[to] = static_cast<int32_t>(found - firsts.begin());
      if (found != firsts.end()) continue;
      firsts.push_back(to);
      for (int64_t from = 0; from < num_labels; ++from) {
        const float score = at(from, to);
        if (score >= -kMaxFinite) sources_.push_back({static_cast<int32_t>(from), score});
      }
      ends_.push_back(sources_.size());
    }
  }

  size_t size() const { return ends_.size(); }
  const int32_t* column_of() const { return column_of_.data(); }

  // Calls visit(column, sources of the column) for each.
  template <typename Visit>
  void for_each(Visit visit) const {
    size_t first = 0;
    for (size_t column = 0; column < ends_.size(); ++column) {
      visit(column, std::span(sources_).subspan(first, ends_[column] - first));
      first = ends_[column];
    }
  }

 private:
  std::vector<int32_t> column_of_;  // of each label
  std::vector<Source> sources_;
  std::vector<size_t> ends_;
};

// `Pointer` holds a label.
template <typename Pointer>
class Decoder {
 public:
  Decoder(const LabelScores& scores, int64_t longest)
      : scores_(scores),
        columns_(scores),
        best_(columns_.size()),
        sums_(scores.num_labels),
        pointers_(
            std::make_unique_for_overwrite<Pointer[]>(std::max<int64_t>(longest - 1, 0) * columns_.size())) {}

  // One sequence, which begins at token `first` of all.
  void decode(std::span<const float> emissions, int64_t first, std::span<int32_t> path) {
    const int64_t num_labels = scores_.num_labels, length = path.size(), num_columns = columns_.size();
    const int32_t* column_of = columns_.column_of();
    const float* row = emissions.data();
    check_row(row, first);
    for (int64_t label = 0; label < num_labels; ++label) {
      sums_[label] = static_cast<double>(scores_.begin[label]) + row[label];
    }
    for (int64_t t = 1; t < length; ++t) {
      row += num_labels;
      check_row(row, first + t);
      step(pointers_.get() + (t - 1) * num_columns);
      for (int64_t label = 0; label < num_labels; ++label) {
        sums_[label] = best_[column_of[label]] + row[label];
      }
    }
    double best = kForbidden;
    int64_t last = -1;
    for (int64_t label = 0; label < num_labels; ++label) {
      const double sum = sums_[label] + scores_.end[label];
      if (sum > best) best = sum, last = label;
    }
    if (last < 0) {
      fail("logits: no sequence of labels is allowed for the tokens " + str(first) + " to " +
           str(first + length - 1));
    }
    for (int64_t t = length - 1; t > 0; --t) {
      path[t] = static_cast<int32_t>(last);
      last = pointers_[(t - 1) * num_columns + column_of[last]];
    }
    path[0] = static_cast<int32_t>(last);
  }

 private:
  // The best sum, and the label it comes from, of each column.
  void step(Pointer* pointers) {
    const double* sums = sums_.data();
    columns_.for_each([&](size_t column, std::span<const Columns::Source> sources) {
      double best = kForbidden;
      int32_t from = 0;
      for (const auto& [label, score] : sources) {
        const double sum = sums[label] + score;
        if (sum > best) best = sum, from = label;
      }
      best_[column] = best;
      pointers[column] = static_cast<Pointer>(from);
    });
  }

  void check_row(const float* row, int64_t token) const {
    bool wrong = false;
    for (int64_t label = 0; label < scores_.num_labels; ++label) wrong |= !is_score(row[label]);
    if (wrong) check_emissions(row, scores_.num_labels, token);
  }

  const LabelScores& scores_;
  const Columns columns_;
  std::vector<double> best_;  // of each column
  std::vector<double> sums_;  // of each label: the best sum of a sequence that ends with it
  const std::unique_ptr<Pointer[]> pointers_;
};

template <typename Pointer>
void decode_all(std::span<const float> emissions, const LabelScores& scores, std::span<const int64_t> lengths,
                std::span<int32_t> path) {
  const auto longest = std::max_element(lengths.begin(), lengths.end());
  if (longest == lengths.end()) return;
  Decoder<Pointer> decoder(scores, *longest);
  int64_t first = 0;
  for (const int64_t length : lengths) {
    if (length > 0) {
      decoder.decode(emissions.subspan(first * scores.num_labels, length * scores.num_labels), first,
                     path.subspan(first, length));
    }
    first += length;
  }
}

}  // namespace

void viterbi(std::span<const float> emissions, const LabelScores& scores, std::span<const int64_t> lengths,
             std::span<int32_t> path) {
  const int64_t num_labels = scores.num_labels, num_tokens = path.size();
  if (num_labels < 1 || num_labels > kMaxLabels) {
    fail("labels: got " + str(num_labels) + "; expected 1 to " + str(kMaxLabels));
  }
  check_table("transitions", scores.transitions, num_labels * num_labels);
  check_table("begin", scores.begin, num_labels);
  check_table("end", scores.end, num_labels);
  int64_t total = 0;
  for (const int64_t length : lengths) {
    if (length < 0 || length > num_tokens - total) {
      fail("lengths: got " + str(length) + "; expected lengths >= 0 of sum " + str(num_tokens));
    }
    total += length;
  }
  if (total != num_tokens) {
    fail("lengths: got a sum of " + str(total) + "; expected " + str(num_tokens));
  }
  if (emissions.size() / num_labels != path.size() || emissions.size() % num_labels != 0) {
    fail("logits: got " + std::to_string(emissions.size()) + " numbers; expected " + str(num_labels) +
         " for each of " + str(num_tokens) + " tokens");
  }
  if (num_labels <= 256) {
    decode_all<uint8_t>(emissions, scores, lengths, path);
  } else {
    decode_all<uint16_t>(emissions, scores, lengths, path);
  }
}

}  // namespace lck
