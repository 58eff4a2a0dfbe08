// The private torch ops of overlap_merge and overlap_split.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include "binding/overlap_args.h"
#include "cpu/common/tensor_args.h"
#include "cpu/overlap/kernels.h"

namespace lck {
namespace {

OverlapParams cpu_params(const Tensor& chunks, const Tensor& sequence, const OptionalTensor& weights,
                         const Tensor& segments, const Tensor& tile_segments, const std::string& mode) {
  STD_TORCH_CHECK(chunks.is_cpu(), "lckernels_cpu: all tensors must be on the CPU");
  OverlapParams p = overlap_params(chunks, sequence, weights, segments, tile_segments, mode);
  p.most_segments = most_segments(p);
  return p;
}

// Runs a kernel over all tiles on torch's threads; returns the first position with invalid weights, or -1.
int64_t run_tiles(OverlapKernel kernel, const OverlapParams& p) {
  const int64_t scratch_bytes = overlap_scratch_bytes(p);
  const int64_t grain = std::max<int64_t>(1, kGrainElements / (kTileLen * std::max<int64_t>(p.dim, 1)));
  std::atomic<int64_t> bad{p.total_len};
  run_ranges(p.num_tiles, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<std::byte[]> scratch(new std::byte[scratch_bytes]);
    const int64_t position = kernel(p, begin, end, scratch.get());
    int64_t seen = bad.load();
    while (position >= 0 && position < seen && !bad.compare_exchange_weak(seen, position)) {
    }
  });
  return bad < p.total_len ? bad.load() : -1;
}

int64_t overlap_gather(Tensor chunks, OptionalTensor weights, Tensor segments, Tensor tile_segments,
                       std::string mode, Tensor out) {
  OverlapParams p = cpu_params(chunks, out, weights, segments, tile_segments, mode);
  p.stream_out = prepare_output(out);
  return run_tiles(overlap_kernels(current_isa(), dtype_of(chunks)).gather, p);
}

void overlap_scatter(Tensor sequence, OptionalTensor weights, Tensor segments, Tensor tile_segments,
                     std::string mode, Tensor out) {
  OverlapParams p = cpu_params(out, sequence, weights, segments, tile_segments, mode);
  p.stream_out = prepare_output(out);
  const OverlapKernels& kernels = overlap_kernels(current_isa(), dtype_of(sequence));
  run_tiles(kernels.scatter, p);
  run_ranges(p.num_segments, 64, [&](int64_t begin, int64_t end) { kernels.fill(p, begin, end); });
}

void overlap_weight_grad(Tensor dout, Tensor chunks, Tensor weights, Tensor segments, Tensor tile_segments,
                         Tensor dweights) {
  OverlapParams p = cpu_params(chunks, dout, weights, segments, tile_segments, "explicit");
  check_overlap_table(dweights, chunks, "dweights");
  p.dweights = dweights.mutable_data_ptr();
  run_tiles(overlap_kernels(current_isa(), dtype_of(chunks)).weight_grad, p);
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cpu, m) {
  m.def(
      "overlap_gather(Tensor chunks, Tensor? weights, Tensor segments, Tensor tile_segments, str mode, "
      "Tensor(a!) out) -> int");
  m.def(
      "overlap_scatter(Tensor sequence, Tensor? weights, Tensor segments, Tensor tile_segments, str mode, "
      "Tensor(a!) out) -> ()");
  m.def(
      "overlap_weight_grad(Tensor dout, Tensor chunks, Tensor weights, Tensor segments, Tensor "
      "tile_segments, "
      "Tensor(a!) dweights) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cpu, CPU, m) {
  m.impl("overlap_gather", TORCH_BOX(&lck::overlap_gather));
  m.impl("overlap_scatter", TORCH_BOX(&lck::overlap_scatter));
  m.impl("overlap_weight_grad", TORCH_BOX(&lck::overlap_weight_grad));
}
