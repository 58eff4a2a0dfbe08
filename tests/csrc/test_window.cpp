// csrc/window.h against the definition, key by key, and far from the keys.
#include <cstdio>
#include <random>
#include <vector>

#include "check.h"
#include "plain_window.h"
#include "window.h"

namespace {

using lck::KeyBounds;
using lck::Span;
using lck::VisibleKeys;
using lck::Window;

bool inside(Span span, int64_t at) {
  return at >= span.begin && at < span.end;
}

bool inside(const VisibleKeys& keys, int64_t j) {
  return inside(keys.window, j) || inside(keys.sink, j);
}

// A window, bounds and, in some cases, contiguous segments.
struct Drawn {
  Window window;
  KeyBounds bounds;
  std::vector<int64_t> segment_ids;

  explicit Drawn(std::mt19937& random) {
    const auto draw = [&](int low, int high) {
      return std::uniform_int_distribution<int>(low, high)(random);
    };
    const int n = draw(1, 24);
    window = {draw(-1, n + 2), draw(-1, n + 2), draw(0, 2) ? 0 : draw(0, n + 2), draw(0, 2) ? 0 : draw(1, 9)};
    bounds = {0, n, n, draw(-30, 30)};
    if (draw(0, 1)) bounds.kv_start = draw(-5, n + 3);
    if (draw(0, 1)) bounds.kv_end = draw(-5, n + 3);
    if (draw(0, 2)) return;
    for (int j = 0, id = 7; j < n; ++j) segment_ids.push_back(id -= draw(0, 4) == 0);
  }

  const int64_t* ids() const { return segment_ids.empty() ? nullptr : segment_ids.data(); }

  Span segment(int64_t at) const {
    if (!ids()) return {lck::smaller(0, bounds.kv_start), bounds.num_keys};
    if (at < 0 || at >= bounds.num_keys) return {0, 0};
    Span found{at, at + 1};
    while (found.begin > 0 && segment_ids[found.begin - 1] == segment_ids[at]) --found.begin;
    while (found.end < bounds.num_keys && segment_ids[found.end] == segment_ids[at]) ++found.end;
    return found;
  }
};

void check_keys(const Drawn& d) {
  for (int64_t p = -40; p < 70; ++p) {
    const VisibleKeys keys = lck::visible_keys(d.window, d.bounds, d.segment(p), p);
    for (int64_t j = -8; j < d.bounds.num_keys + 8; ++j) {
      CHECK(inside(keys, j) == lck::test::sees(d.window, d.bounds, d.ids(), p, j));
      CHECK(!inside(keys.window, j) || !inside(keys.sink, j));
    }
  }
}

void check_queries(const Drawn& d) {
  for (int64_t j = 0; j < d.bounds.num_keys; ++j) {
    if (!inside(lck::valid_keys(d.bounds), j)) continue;
    const Span queries = lck::visible_queries(d.window, d.bounds, d.segment(j), j);
    for (int64_t p = -40; p < 70; ++p) {
      const bool same = !d.ids() || inside(d.segment(j), p);
      CHECK((same && inside(queries, p)) == lck::test::sees(d.window, d.bounds, d.ids(), p, j));
    }
  }
}

void check_hull(const Drawn& d) {
  for (int64_t first = -9; first < 33; first += 4) {
    for (int64_t last = first; last < first + 12; last += 5) {
      const VisibleKeys keys = lck::visible_hull(d.window, d.bounds, d.ids() != nullptr, first, last);
      for (int64_t p = first; p <= last; ++p) {
        for (int64_t j = 0; j < d.bounds.num_keys; ++j) {
          CHECK(inside(keys, j) || !lck::test::sees(d.window, d.bounds, d.ids(), p, j));
        }
      }
      CHECK(lck::empty(keys.window) || (keys.window.begin >= 0 && keys.window.end <= d.bounds.num_keys));
      CHECK(lck::empty(keys.sink) || (keys.sink.begin >= 0 && keys.sink.end <= d.bounds.num_keys));
    }
  }
}

// The largest arguments of window.h: positions slightly above 2^60, windows below 2^31.
void check_far() {
  constexpr int64_t kFar = int64_t{1} << 60, kMost = (int64_t{1} << 31) - 1;
  for (const int64_t at : {-kFar, kFar, kFar + kMost}) {
    for (const int64_t start : {-kFar, int64_t{0}, kFar}) {
      for (const int64_t origin : {-kFar, int64_t{0}, kFar}) {
        for (const int64_t chunk : {int64_t{0}, int64_t{1}, kMost}) {
          const Window w{kMost, kMost, kMost, chunk};
          for (const int64_t end : {-kFar, int64_t{5}, kFar}) {
            const KeyBounds bounds{start, end, 10, origin};
            const Span all{lck::smaller(0, start), 10};
            for (int64_t j = 0; j < 10; ++j) {
              CHECK(inside(lck::visible_keys(w, bounds, all, at), j) ==
                    lck::test::sees(w, bounds, nullptr, at, j));
              if (!inside(lck::valid_keys(bounds), j)) continue;
              CHECK(inside(lck::visible_queries(w, bounds, all, j), at) ==
                    lck::test::sees(w, bounds, nullptr, at, j));
            }
            const VisibleKeys hull = lck::visible_hull(w, bounds, false, at, at + 100);
            CHECK(!inside(hull, -1) && !inside(hull, 10));
          }
        }
      }
    }
  }
}

}  // namespace

int main() {
  std::mt19937 random(3);
  for (int i = 0; i < 3000; ++i) {
    const Drawn drawn(random);
    check_keys(drawn);
    check_queries(drawn);
    check_hull(drawn);
  }
  check_far();
  std::puts("test_window: ok");
}
