// Selects the kernel of a merge of states and its grid; `launch` is as in cuda/overlap/run.h.
#pragma once

#include "cuda/states/states.cuh"

namespace lck {

template <typename T, int kBytes>
struct StatesRun {
  static int64_t blocks(const StatesParams& p) {
    constexpr int64_t kRows = kStateThreads / kStateLanes;
    return (p.batch * p.seqlen * p.num_heads + kRows - 1) / kRows;
  }
  template <typename Launch>
  static void forward(const StatesParams& p, const GpuStates& states, const Launch& launch) {
    launch(states_forward<T, kBytes>, blocks(p), kStateThreads, 0, p, states);
  }
  template <typename Launch>
  static void backward(const StatesParams& p, const GpuStates& states, const Launch& launch) {
    launch(states_backward<T, kBytes>, blocks(p), kStateThreads, 0, p, states);
  }
};

// Bits whose lowest set one is the alignment of all rows of x.
inline int64_t alignment_bits(const HeadsTensor& x, int64_t element) {
  return reinterpret_cast<int64_t>(x.data) | (x.batch_stride | x.row_stride | x.head_stride) * element;
}

// run(StatesRun<T, kBytes>{}) with vectors of 16 bytes where every row is aligned to them, else of an
// element.
template <typename T, typename Run>
void with_states_vectors(const StatesParams& p, const GpuStates& states, const Run& run) {
  constexpr int kElement = sizeof(T);
  int64_t bits = p.head_dim * kElement | alignment_bits(p.out, kElement) | alignment_bits(p.dout, kElement);
  for (int64_t n = 0; n < p.num_states; ++n) {
    bits |= alignment_bits(states.outs[n], kElement) | alignment_bits(states.douts[n], kElement);
  }
  bits % 16 ? run(StatesRun<T, kElement>{}) : run(StatesRun<T, 16>{});
}

template <typename Run>
void with_states_run(DType dtype, const StatesParams& p, const GpuStates& states, const Run& run) {
  with_elements(dtype, [&]<typename T>() { with_states_vectors<T>(p, states, run); });
}

}  // namespace lck
