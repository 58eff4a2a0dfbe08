// Problems of merge_attention_states in fp32, on buffers of exactly the tensors' size.
#pragma once

#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include "cpu/states/kernels.h"
#include "params.h"

namespace lck::test {

// States of random numbers and memory for results; odd states have heads before queries in memory.
struct StatesProblem {
  StatesParams params{};
  std::vector<std::vector<float>> outs, lses, douts, dlses;
  std::vector<float> out, lse, dout, dlse;
  std::vector<HeadsTensor> tensors;

  StatesProblem(int64_t num_states, int64_t batch, int64_t seqlen, int64_t heads, int64_t dim) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const int64_t rows = batch * seqlen * heads;
    const auto filled = [&](int64_t size) {
      std::vector<float> x(size);
      for (float& value : x) value = normal(random);
      return x;
    };
    for (int64_t n = 0; n < num_states; ++n) {
      outs.push_back(filled(rows * dim)), lses.push_back(filled(rows));
      douts.emplace_back(rows * dim), dlses.emplace_back(rows);
      for (float& value : lses[n]) value = random() % 5 == 0 ? -INFINITY : 3 * value;
    }
    out = filled(rows * dim), dout = filled(rows * dim), lse = filled(rows), dlse = filled(rows);
    StatesParams& p = params;
    p.num_states = num_states, p.batch = batch, p.seqlen = seqlen, p.num_heads = heads, p.head_dim = dim;
    for (auto* xs : {&outs, &douts}) {
      for (int64_t n = 0; n < num_states; ++n) tensors.push_back(heads_tensor((*xs)[n].data(), n % 2));
    }
    for (auto* xs : {&lses, &dlses}) {
      for (auto& x : *xs) tensors.push_back(lse_tensor(x.data()));
    }
    p.outs = tensors.data(), p.douts = p.outs + num_states;
    p.lses = p.douts + num_states, p.dlses = p.lses + num_states;
    p.out = heads_tensor(out.data(), false), p.dout = heads_tensor(dout.data(), false);
    p.lse = lse_tensor(lse.data()), p.dlse = lse_tensor(dlse.data());
  }

  HeadsTensor heads_tensor(void* data, bool heads_first) const {
    const int64_t s = params.seqlen, h = params.num_heads, d = params.head_dim;
    return heads_first ? HeadsTensor{data, s * h * d, d, s * d} : HeadsTensor{data, s * h * d, h * d, d};
  }
  HeadsTensor lse_tensor(void* data) const {
    return {data, params.num_heads * params.seqlen, 1, params.seqlen};
  }
  std::vector<std::byte> scratch() const { return std::vector<std::byte>(lck::states_scratch_bytes(params)); }
  void run(lck::StatesKernel kernel) const {
    auto memory = scratch();
    kernel(params, 0, lck::num_state_tiles(params), memory.data());
  }
};

}  // namespace lck::test
