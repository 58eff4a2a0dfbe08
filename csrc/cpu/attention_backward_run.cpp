// The tasks of the backward of windowed attention.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/attention_run.h"
#include "cpu/attention_tiles.h"
#include "cpu/key_waves.h"
#include "cpu/workspace.h"

namespace lck {

namespace {

// d sink_logits = -sum over queries of P_sink * delta, in fp64 and in order.
template <typename A>
void sink_gradient(const AttentionParams& p, int64_t head, A* dsink) {
  double total = 0;
  const double sink = static_cast<const A*>(p.sink_logits)[head];
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t row = (b * p.num_heads + head) * p.seqlen_q;
    const A* lse = static_cast<const A*>(p.lse) + row;
    const A* delta = static_cast<const A*>(p.delta) + row;
    for (int64_t i = 0; i < p.seqlen_q; ++i) {
      if (lse[i] != -INFINITY) total -= std::exp(sink - lse[i]) * delta[i];
    }
  }
  dsink[head] = static_cast<A>(total);
}

// out (size) = the sum of slots of partial (slots, size), in order, within [begin, end).
template <typename A>
void sum_slots(const A* partial, int64_t slots, int64_t size, int64_t begin, int64_t end, A* out) {
  for (int64_t i = begin; i < end; ++i) {
    A total = 0;
    for (int64_t slot = 0; slot < slots; ++slot) total += partial[slot * size + i];
    out[i] = total;
  }
}

// dbias and dsink, whose parts the query tasks have left.
template <typename A>
void finish_score_gradients(const AttentionParams& p, void* dbias, void* dsink) {
  run_with_scratch(p.num_heads, p.batch * p.seqlen_q * 16 + p.bias_slots * p.bias_len, 0,
                   [&](int64_t head, void*) {
                     if (dbias) {
                       sum_slots(static_cast<const A*>(p.dbias), p.bias_slots, p.num_heads * p.bias_len,
                                 head * p.bias_len, (head + 1) * p.bias_len, static_cast<A*>(dbias));
                     }
                     if (dsink) sink_gradient(p, head, static_cast<A*>(dsink));
                   });
}

// Strips over all texts and kv heads that there are at least, if the keys allow it, so that threads have
// work. None of this depends on the number of threads.
constexpr int64_t kFewestStrips = 32;
constexpr int64_t kLeastStripKeys = 512, kMostStripKeys = 8192;

// Strips that one query sees at most, or a few more: what bounds the memory of the parts of dq.
constexpr int64_t kMostParts = 8;

// Partial gradients of rel_bias that are kept apart, so that strips run in parallel.
constexpr int64_t kBiasSlots = 32;

struct Strip {
  Span keys, tiles;
  int64_t first_part;  // of its shared tiles among those of the text
};

// How the keys of one text are parted, the same for every head.
struct TextStrips {
  std::vector<Strip> strips;
  std::vector<uint8_t> shared;  // (query tiles): by several strips
  std::vector<uint8_t> whole;   // (query tiles): seen by exactly one
  std::vector<int64_t> shared_before;
  int64_t num_parts = 0;
};

int64_t reach_of(const AttentionParams& p, int64_t num_keys) {
  const Window& w = p.window;
  const int64_t reach = w.left >= 0 && w.right >= 0 ? w.left + w.right + 1 : num_keys;
  return std::min(w.chunk ? std::min(reach, w.chunk) : reach, num_keys);
}

// Long strips share fewer query tiles, short ones keep more threads busy.
int64_t strip_keys(const AttentionParams& p, int64_t num_keys) {
  const int64_t units = p.num_texts * p.num_kv_heads, reach = reach_of(p, num_keys);
  const int64_t wanted = (kFewestStrips + units - 1) / units;
  int64_t keys = (num_keys + wanted - 1) / wanted;
  if (2 * reach < num_keys) keys = std::clamp(keys, reach, 4 * reach);
  keys = std::max(std::clamp(keys, kLeastStripKeys, kMostStripKeys), reach / kMostParts);
  return (keys + kTile - 1) / kTile * kTile;
}

TextStrips make_strips(const AttentionParams& p, const Text& text) {
  TextStrips made;
  const int64_t num_keys = text.bounds.num_keys, step = strip_keys(p, num_keys);
  const int64_t num_tiles = (text.q_len + kTile - 1) / kTile;
  std::vector<int64_t> seen_by(num_tiles);
  for (int64_t first = 0; first < num_keys; first += step) {
    const Span keys{first, std::min(first + step, num_keys)};
    const Span tiles = query_tiles(p, text, keys);
    for (int64_t t = tiles.begin; t < tiles.end; ++t) ++seen_by[t];
    made.strips.push_back({keys, tiles, 0});
  }
  made.shared_before.push_back(0);
  for (const int64_t number : seen_by) {
    made.shared.push_back(number > 1);
    made.whole.push_back(number == 1);
    made.shared_before.push_back(made.shared_before.back() + made.shared.back());
  }
  for (Strip& strip : made.strips) {
    strip.first_part = made.num_parts;
    if (!empty(strip.tiles)) {
      made.num_parts += made.shared_before[strip.tiles.end] - made.shared_before[strip.tiles.begin];
    }
  }
  return made;
}

// A kv head of a text, with where its parts of dq lie.
struct Unit {
  int64_t text, kv_head;
  std::byte* parts;
};

class Backward {
 public:
  Backward(Isa isa, DType dtype, const AttentionParams& p)
      : passes_(attention_backward(isa, dtype)),
        p_(p),
        group_(p.num_heads / p.num_kv_heads),
        acc_bytes_(acc_bytes(dtype)),
        part_bytes_(passes_.dq_part_bytes(p)) {
    int64_t most_keys = 0;
    for (int64_t t = 0; t < p.num_texts; ++t) {
      first_strip_.push_back(num_strips_);
      texts_.push_back(make_strips(p, p.texts[t]));
      num_strips_ += texts_.back().strips.size();
      for (const Strip& strip : texts_.back().strips) {
        most_keys = std::max(most_keys, strip.keys.end - strip.keys.begin);
      }
    }
    scratch_bytes_ = std::max(passes_.scratch_bytes(p, (most_keys + kTile - 1) / kTile), part_bytes_);
    strip_work_ = 5 * group_ * std::min(most_keys, p.seqlen_k) *
                  std::min(reach_of(p, p.seqlen_k), p.seqlen_q) / 2 * (p.head_dim + p.head_dim_v);
  }

  void run() const {
    run_delta();
    // Units share the memory of as many parts of dq as the keys and values would take.
    const int64_t key_bytes =
        p_.batch * p_.seqlen_k * p_.num_kv_heads * (p_.head_dim + p_.head_dim_v) * acc_bytes_;
    std::vector<Unit> units;
    int64_t used = 0;
    const auto flush = [&] {
      const Workspace parts = make_workspace(used);
      std::byte* place = parts.get();
      for (Unit& unit : units) {
        unit.parts = place;
        place += unit_bytes(unit.text);
      }
      run_strips(units);
      run_merges(units);
      units.clear(), used = 0;
    };
    for (int64_t t = 0; t < p_.num_texts; ++t) {
      for (int64_t kv_head = 0; kv_head < p_.num_kv_heads; ++kv_head) {
        if (used > 0 && used + unit_bytes(t) > key_bytes) flush();
        units.push_back({t, kv_head, nullptr});
        used += unit_bytes(t);
      }
    }
    flush();
  }

 private:
  int64_t unit_bytes(int64_t text) const { return texts_[text].num_parts * group_ * part_bytes_; }

  void run_delta() const {
    const int64_t per_row = (p_.seqlen_q + kTile - 1) / kTile;
    run_with_scratch(p_.batch * per_row, kTile * p_.num_heads * p_.head_dim_v, 0, [&](int64_t i, void*) {
      const int64_t first = i % per_row * kTile;
      passes_.delta(p_, i / per_row, first, std::min<int64_t>(first + kTile, p_.seqlen_q));
    });
  }

  // Strips; with a bias those of one slot one after the other, which ones not depending on how units are run.
  void run_strips(const std::vector<Unit>& units) const {
    std::vector<std::vector<StripTask>> chains;
    if (p_.dbias) chains.resize(p_.num_kv_heads * p_.bias_slots);
    for (const Unit& unit : units) {
      const TextStrips& of = texts_[unit.text];
      for (size_t s = 0; s < of.strips.size(); ++s) {
        const Strip& strip = of.strips[s];
        const int64_t number = first_strip_[unit.text] + static_cast<int64_t>(s);
        const int64_t slot = p_.dbias ? number * p_.bias_slots / num_strips_ : 0;
        void* parts = unit.parts + strip.first_part * group_ * part_bytes_;
        if (!p_.dbias) chains.emplace_back();
        auto& chain = p_.dbias ? chains[unit.kv_head * p_.bias_slots + slot] : chains.back();
        chain.push_back({unit.text, unit.kv_head, strip.keys, strip.tiles, of.shared.data(), parts, slot});
      }
    }
    std::erase_if(chains, [](const auto& chain) { return chain.empty(); });
    run_with_scratch(chains.size(), strip_work_, scratch_bytes_, [&](int64_t i, void* scratch) {
      for (const StripTask& task : chains[i]) passes_.strip(p_, task, scratch);
    });
  }

  // dq of the query tiles that several strips see, or none.
  void run_merges(const std::vector<Unit>& units) const {
    struct Merge {
      const Unit* unit;
      int64_t tile;
    };
    std::vector<Merge> merges;
    for (const Unit& unit : units) {
      const TextStrips& of = texts_[unit.text];
      for (size_t t = 0; t < of.whole.size(); ++t) {
        if (!of.whole[t]) merges.push_back({&unit, static_cast<int64_t>(t)});
      }
    }
    run_with_scratch(merges.size(), 4 * group_ * part_bytes_, part_bytes_, [&](int64_t i, void* scratch) {
      const auto [unit, tile] = merges[i];
      const TextStrips& of = texts_[unit->text];
      std::vector<const void*> parts;
      for (int64_t g = 0; g < group_; ++g) {
        parts.clear();
        for (const Strip& strip : of.strips) {
          if (tile < strip.tiles.begin || tile >= strip.tiles.end) continue;
          const int64_t part =
              strip.first_part + of.shared_before[tile] - of.shared_before[strip.tiles.begin];
          parts.push_back(unit->parts + (part * group_ + g) * part_bytes_);
        }
        passes_.merge_dq(p_, unit->text, unit->kv_head * group_ + g, tile, parts.data(), parts.size(),
                         scratch);
      }
    });
  }

  const AttentionBackward& passes_;
  const AttentionParams& p_;
  int64_t group_, acc_bytes_, part_bytes_, scratch_bytes_, strip_work_;
  std::vector<TextStrips> texts_;
  std::vector<int64_t> first_strip_;  // of each text, counted over all
  int64_t num_strips_ = 0;
};

}  // namespace

void run_attention_backward(Isa isa, DType dtype, AttentionParams p, void* dbias, void* dsink) {
  p.bias_slots = dbias ? std::max<int64_t>(kBiasSlots / p.num_kv_heads, 1) : 0;
  const int64_t bias_bytes = p.bias_slots * p.num_heads * p.bias_len * acc_bytes(dtype);
  const Workspace partial = make_workspace(bias_bytes);
  std::fill_n(partial.get(), bias_bytes, std::byte{0});
  p.dbias = partial.get();
  Backward(isa, dtype, p).run();
  if (!dbias && !dsink) return;
  if (dtype == DType::kFloat64) {
    finish_score_gradients<double>(p, dbias, dsink);
  } else {
    finish_score_gradients<float>(p, dbias, dsink);
  }
}

}  // namespace lck
