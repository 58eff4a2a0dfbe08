// The kernels of merge_attention_states, compiled once per instruction set. A kernel computes a range of
// query tiles, without torch and threads.
#pragma once

#include <cstdint>

#include "host/cpu_features.h"
#include "params.h"

namespace lck {

// Queries of one tile: all heads of tile i of a batch row are at [i * kStateTile, (i + 1) * kStateTile).
inline constexpr int64_t kStateTile = 16;

// Runs tiles [begin, end) of num_state_tiles(params); scratch holds states_scratch_bytes(params).
using StatesKernel = void (*)(const StatesParams&, int64_t begin, int64_t end, void* scratch);

struct StatesKernels {
  StatesKernel forward;   // out and lse
  StatesKernel backward;  // douts and dlses
};

const StatesKernels& states_kernels(Isa isa, DType dtype);

// Tiles of all batch rows.
int64_t num_state_tiles(const StatesParams& params);

int64_t states_scratch_bytes(const StatesParams& params);

}  // namespace lck
