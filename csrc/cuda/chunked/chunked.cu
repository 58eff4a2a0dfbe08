#include "cuda/chunked/launch.h"
#include "cuda/chunked/run.h"

namespace lck {

void chunked_forward_cuda(DType dtype, const GpuChunkedParams& params, const Launch& launch) {
  with_chunked_run(dtype, params, [&](auto run) { run.forward(params, launch); });
}

void chunked_backward_cuda(DType dtype, const GpuChunkedParams& params, const Launch& launch) {
  with_chunked_run(dtype, params, [&](auto run) { run.backward(params, launch); });
}

}  // namespace lck
