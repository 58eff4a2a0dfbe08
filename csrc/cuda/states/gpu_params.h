// The states of a merge as kernel arguments on a GPU, by value.
#pragma once

#include "params.h"

namespace lck {

inline constexpr int kMaxStates = 24;

// The tensors that StatesParams points to on a CPU.
struct GpuStates {
  HeadsTensor outs[kMaxStates], lses[kMaxStates], douts[kMaxStates], dlses[kMaxStates];
};

}  // namespace lck
