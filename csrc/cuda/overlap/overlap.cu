#include "cuda/overlap/launch.h"
#include "cuda/overlap/run.h"

namespace lck {

void overlap_gather_cuda(DType dtype, const OverlapParams& params, const Launch& launch) {
  with_overlap_run(dtype, params, [&](auto run) { run.gather(params, launch); });
}

void overlap_scatter_cuda(DType dtype, const OverlapParams& params, const Launch& launch) {
  with_overlap_run(dtype, params, [&](auto run) { run.scatter(params, launch); });
}

void overlap_weight_grad_cuda(DType dtype, const OverlapParams& params, const Launch& launch) {
  with_overlap_run(dtype, params, [&](auto run) { run.weight_grad(params, launch); });
}

}  // namespace lck
