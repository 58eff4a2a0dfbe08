// The private torch ops of overlap_merge and overlap_split on a GPU; outputs are allocated by the caller.
#include <string>

#include "binding/overlap_args.h"
#include "cuda/device.h"
#include "cuda/overlap/launch.h"

namespace lck {
namespace {

void overlap_gather(Tensor chunks, OptionalTensor weights, Tensor segments, Tensor tile_segments,
                    std::string mode, Tensor out) {
  const OverlapParams p = overlap_params(chunks, out, weights, segments, tile_segments, mode);
  on_device_of(chunks, "overlap_gather",
               [&](const Launch& launch) { overlap_gather_cuda(dtype_of(chunks), p, launch); });
}

void overlap_scatter(Tensor sequence, OptionalTensor weights, Tensor segments, Tensor tile_segments,
                     std::string mode, Tensor out) {
  const OverlapParams p = overlap_params(out, sequence, weights, segments, tile_segments, mode);
  on_device_of(sequence, "overlap_scatter",
               [&](const Launch& launch) { overlap_scatter_cuda(dtype_of(sequence), p, launch); });
}

void overlap_weight_grad(Tensor dout, Tensor chunks, Tensor weights, Tensor segments, Tensor tile_segments,
                         Tensor dweights) {
  OverlapParams p = overlap_params(chunks, dout, weights, segments, tile_segments, "explicit");
  check_overlap_table(dweights, chunks, "dweights");
  p.dweights = dweights.mutable_data_ptr();
  on_device_of(chunks, "overlap_weight_grad",
               [&](const Launch& launch) { overlap_weight_grad_cuda(dtype_of(chunks), p, launch); });
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cuda, m) {
  m.def(
      "overlap_gather(Tensor chunks, Tensor? weights, Tensor segments, Tensor tile_segments, str mode, "
      "Tensor(a!) out) -> ()");
  m.def(
      "overlap_scatter(Tensor sequence, Tensor? weights, Tensor segments, Tensor tile_segments, str mode, "
      "Tensor(a!) out) -> ()");
  m.def(
      "overlap_weight_grad(Tensor dout, Tensor chunks, Tensor weights, Tensor segments, Tensor "
      "tile_segments, "
      "Tensor(a!) dweights) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cuda, CUDA, m) {
  m.impl("overlap_gather", TORCH_BOX(&lck::overlap_gather));
  m.impl("overlap_scatter", TORCH_BOX(&lck::overlap_scatter));
  m.impl("overlap_weight_grad", TORCH_BOX(&lck::overlap_weight_grad));
}
