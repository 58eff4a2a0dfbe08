// Viterbi without Python: every sequence of short rows, random problems in double, ties, limits, bad input.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "host/viterbi.h"

namespace {

using lck::LabelScores;
using Floats = std::vector<float>;
using Path = std::vector<int32_t>;
using Error = std::invalid_argument;

constexpr float kForbidden = -std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Problem {
  int64_t num_labels;
  Floats emissions, transitions, begin, end;

  int64_t num_tokens() const { return static_cast<int64_t>(emissions.size()) / num_labels; }
  LabelScores scores() const { return {num_labels, transitions, begin, end}; }
  double sum(const Path& path) const {
    double sum = static_cast<double>(begin[path.front()]) + end[path.back()];
    for (size_t t = 0; t < path.size(); ++t) {
      sum += emissions[t * num_labels + path[t]];
      if (t > 0) sum += transitions[path[t - 1] * num_labels + path[t]];
    }
    return sum;
  }
};

Problem random_problem(std::mt19937& draw, int64_t num_tokens, int64_t num_labels, double share_forbidden) {
  std::normal_distribution<float> number;
  std::bernoulli_distribution forbidden(share_forbidden);
  const auto fill = [&](int64_t count, bool may_forbid) {
    Floats values(count);
    for (float& value : values) value = may_forbid && forbidden(draw) ? kForbidden : number(draw);
    return values;
  };
  return {num_labels, fill(num_tokens * num_labels, true), fill(num_labels * num_labels, true),
          fill(num_labels, true), fill(num_labels, true)};
}

// The label of each token; positions that the call does not write hold -7.
Path decoded(const Problem& problem, std::vector<int64_t> lengths = {}) {
  Path path(problem.num_tokens(), -7);
  if (lengths.empty()) lengths = {problem.num_tokens()};
  lck::viterbi(problem.emissions, problem.scores(), lengths, path);
  return path;
}

// The best of all sequences; -inf if none is allowed.
double best_sum(const Problem& problem) {
  Path path(problem.num_tokens(), 0);
  double best = -std::numeric_limits<double>::infinity();
  while (true) {
    best = std::max(best, problem.sum(path));
    size_t t = 0;
    while (t < path.size() && ++path[t] == problem.num_labels) path[t++] = 0;
    if (t == path.size()) return best;
  }
}

void test_every_sequence_of_short_rows() {
  std::mt19937 draw(0);
  int without_path = 0;
  for (int64_t num_labels = 1; num_labels <= 4; ++num_labels) {
    for (int64_t num_tokens = 1; num_tokens <= 5; ++num_tokens) {
      for (int repeat = 0; repeat < 20; ++repeat) {
        const Problem problem = random_problem(draw, num_tokens, num_labels, 0.02 * repeat);
        const double best = best_sum(problem);
        if (best == -std::numeric_limits<double>::infinity()) {
          CHECK_THROWS(decoded(problem), Error, "no sequence of labels is allowed for the tokens 0 to");
          ++without_path;
          continue;
        }
        CHECK(std::abs(problem.sum(decoded(problem)) - best) < 1e-9);
      }
    }
  }
  CHECK(without_path > 10 && without_path < 300);
}

// Equal columns share a search; a matrix with the labels in another order has the same sums.
void test_equal_columns() {
  std::mt19937 draw(1);
  Problem problem = random_problem(draw, 40, 6, 0.1);
  for (int64_t from = 0; from < 6; ++from) {
    problem.transitions[from * 6 + 3] = problem.transitions[from * 6];
    problem.transitions[from * 6 + 5] = problem.transitions[from * 6 + 2];
  }
  Problem reversed = problem;
  for (int64_t t = 0; t < 40; ++t) {
    for (int64_t label = 0; label < 6; ++label) {
      reversed.emissions[t * 6 + label] = problem.emissions[t * 6 + 5 - label];
    }
  }
  for (int64_t from = 0; from < 6; ++from) {
    reversed.begin[from] = problem.begin[5 - from];
    reversed.end[from] = problem.end[5 - from];
    for (int64_t to = 0; to < 6; ++to) {
      reversed.transitions[from * 6 + to] = problem.transitions[(5 - from) * 6 + 5 - to];
    }
  }
  Path path = decoded(reversed);
  for (int32_t& label : path) label = 5 - label;
  CHECK(path == decoded(problem));
}

void test_sequences_are_independent() {
  std::mt19937 draw(2);
  Problem together = random_problem(draw, 0, 5, 0.0);
  Path expected;
  const std::vector<int64_t> lengths = {3, 0, 1, 17, 0, 8, 0};
  for (const int64_t length : lengths) {
    if (length == 0) continue;
    Problem one = random_problem(draw, length, 5, 0.0);
    one.transitions = together.transitions, one.begin = together.begin, one.end = together.end;
    const Path path = decoded(one);
    expected.insert(expected.end(), path.begin(), path.end());
    together.emissions.insert(together.emissions.end(), one.emissions.begin(), one.emissions.end());
  }
  CHECK(decoded(together, lengths) == expected);
  Path none;
  lck::viterbi({}, together.scores(), {}, none);
  lck::viterbi({}, together.scores(), std::vector<int64_t>{0, 0}, none);
}

void test_ties_go_to_the_lowest_label() {
  const Problem free{3, Floats(12, 1.0f), Floats(9, 0.0f), Floats(3, 0.0f), Floats(3, 0.0f)};
  CHECK(decoded(free) == Path(4, 0));
  Problem alternating = free;
  for (int label = 0; label < 3; ++label) alternating.transitions[label * 4] = kForbidden;
  CHECK((decoded(alternating) == Path{1, 0, 1, 0}));
}

// More labels than a byte holds, and sums that float32 would round.
void test_limits() {
  for (const int64_t num_labels : {255, 256, 257, 1000}) {
    Problem problem{num_labels, Floats(6 * num_labels, 0.0f), Floats(num_labels * num_labels, kForbidden),
                    Floats(num_labels, 0.0f), Floats(num_labels, 0.0f)};
    for (int64_t label = 0; label < num_labels; ++label) {
      problem.transitions[label * num_labels + (label + 1) % num_labels] = 0.0f;
    }
    problem.emissions[2 * num_labels] = 1.0f;  // label 0 at token 2
    const auto n = static_cast<int32_t>(num_labels);
    CHECK((decoded(problem) == Path{n - 2, n - 1, 0, 1, 2, 3}));
  }
  const int64_t num_tokens = 100000;
  Problem steep{2, Floats(2 * num_tokens, 1e35f), Floats(4, 0.0f), Floats(2, 0.0f), Floats(2, 0.0f)};
  CHECK(decoded(steep) == Path(num_tokens, 0));
  Problem small{2, Floats(2 * num_tokens, 3.0f), {0.0f, kForbidden, kForbidden, 0.0f}, {0, 0}, {0, 0}};
  small.emissions[1] += 1e-6f;
  CHECK(decoded(small) == Path(num_tokens, 1));
}

void test_bad_input() {
  const Problem good{2, Floats(6, 0.0f), Floats(4, 0.0f), Floats(2, 0.0f), Floats(2, 0.0f)};
  const auto with = [&](auto change) {
    Problem problem = good;
    change(problem);
    return decoded(problem);
  };
  for (const float value : {kNaN, -kForbidden}) {
    for (const int at : {0, 3, 5}) {
      const std::string place =
          " at token " + std::to_string(at / 2) + ", label " + std::to_string(at % 2) + "; expected finite";
      CHECK_THROWS(with([&](Problem& p) { p.emissions[at] = value; }), Error, place.c_str());
    }
    CHECK_THROWS(with([&](Problem& p) { p.transitions[3] = value; }), Error, "transitions: got ");
    CHECK_THROWS(with([&](Problem& p) { p.begin[1] = value; }), Error, "begin: got ");
    CHECK_THROWS(with([&](Problem& p) { p.end[1] = value; }), Error, "end: got ");
  }
  CHECK_THROWS(with([](Problem& p) { p.transitions.pop_back(); }), Error, "transitions: got 3 numbers");
  CHECK_THROWS(with([](Problem& p) { p.begin.clear(); }), Error, "begin: got 0 numbers; expected 2");
  CHECK_THROWS(with([](Problem& p) { p.end.push_back(0); }), Error, "end: got 3 numbers; expected 2");
  CHECK_THROWS(with([](Problem& p) { p.emissions.push_back(0); }), Error, "logits: got 7 numbers");
  CHECK_THROWS(with([](Problem& p) { p.end = {kForbidden, kForbidden}; }), Error, "for the tokens 0 to 2");
  CHECK_THROWS(decoded(good, {2}), Error, "lengths: got a sum of 2; expected 3");
  CHECK_THROWS(decoded(good, {2, 2}), Error, "lengths: got 2; expected lengths >= 0 of sum 3");
  CHECK_THROWS(decoded(good, {4, -1}), Error, "lengths: got 4");
  CHECK_THROWS(decoded(good, {-1, 4}), Error, "lengths: got -1");
  Path path(3);
  CHECK_THROWS(lck::viterbi(good.emissions, {0, {}, {}, {}}, std::vector<int64_t>{3}, path), Error,
               "labels: got 0; expected 1 to 65536");
  CHECK_THROWS(lck::viterbi(good.emissions, {65537, {}, {}, {}}, std::vector<int64_t>{3}, path), Error,
               "labels: got 65537");
}

}  // namespace

int main() {
  test_every_sequence_of_short_rows();
  test_equal_columns();
  test_sequences_are_independent();
  test_ties_go_to_the_lowest_label();
  test_limits();
  test_bad_input();
  std::puts("test_viterbi: ok");
}
