// The private torch ops of overlap_merge and overlap_split.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "cpu/overlap.h"
#include "cpu/tensor_args.h"

namespace lck {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

WeightMode mode_of(const std::string& name) {
  if (name == "uniform") return WeightMode::kUniform;
  if (name == "triangular") return WeightMode::kTriangular;
  if (name == "hann") return WeightMode::kHann;
  if (name == "crop") return WeightMode::kCrop;
  if (name == "explicit") return WeightMode::kExplicit;
  STD_TORCH_CHECK(name == "add", "lckernels_cpu: unknown weight mode ", name);
  return WeightMode::kAdd;
}

// An explicit table of weights or its gradient: contiguous, one entry per chunk and column.
void check_table(const Tensor& table, const Tensor& chunks, const char* name) {
  STD_TORCH_CHECK(table.is_cpu() && table.dim() == 2 && table.is_contiguous() &&
                      table.size(0) == chunks.size(0) && table.size(1) == chunks.size(1) &&
                      table.scalar_type() == accumulator_of(chunks),
                  "lckernels_cpu: ", name, " must be a contiguous (num_chunks, chunk_len) table on the CPU");
}

OverlapParams overlap_params(const Tensor& chunks, const Tensor& sequence,
                             const std::optional<Tensor>& weights, const Tensor& segments,
                             const Tensor& tile_segments, const std::string& mode) {
  STD_TORCH_CHECK(chunks.is_cpu() && sequence.is_cpu() && segments.is_cpu() && tile_segments.is_cpu(),
                  "lckernels_cpu: all tensors must be on the CPU");
  STD_TORCH_CHECK(chunks.dim() == 3 && sequence.dim() == 2 && chunks.size(2) == sequence.size(1),
                  "lckernels_cpu: chunks must be (num_chunks, chunk_len, dim), sequence (total_len, dim)");
  STD_TORCH_CHECK(chunks.scalar_type() == sequence.scalar_type(),
                  "lckernels_cpu: chunks and sequence must have one dtype");
  const int64_t dim = chunks.size(2);
  STD_TORCH_CHECK(dim <= 1 || (chunks.stride(2) == 1 && sequence.stride(1) == 1),
                  "lckernels_cpu: the last dim must be contiguous");
  STD_TORCH_CHECK(segments.scalar_type() == ScalarType::Int && segments.is_contiguous() &&
                      segments.dim() == 2 && segments.size(1) * sizeof(int32_t) == sizeof(Segment),
                  "lckernels_cpu: segments must be a contiguous (num_segments, 10) int32 tensor");
  STD_TORCH_CHECK(tile_segments.scalar_type() == ScalarType::Int && tile_segments.is_contiguous() &&
                      tile_segments.dim() == 2 && tile_segments.size(1) == 2 &&
                      tile_segments.size(0) == (sequence.size(0) + kTileLen - 1) / kTileLen,
                  "lckernels_cpu: tile_segments must be a contiguous (ceil(total_len / 64), 2) int32 tensor");
  OverlapParams p{};
  p.chunks = const_cast<void*>(chunks.const_data_ptr());
  p.sequence = const_cast<void*>(sequence.const_data_ptr());
  p.mode = mode_of(mode);
  STD_TORCH_CHECK((p.mode == WeightMode::kExplicit) == weights.has_value(),
                  "lckernels_cpu: weights are given with mode 'explicit' and with no other");
  if (weights) {
    check_table(*weights, chunks, "weights");
    p.weights = weights->const_data_ptr();
  }
  p.segments = static_cast<const Segment*>(segments.const_data_ptr());
  p.tile_segments = static_cast<const int32_t*>(tile_segments.const_data_ptr());
  p.num_segments = segments.size(0);
  p.num_tiles = tile_segments.size(0);
  p.num_chunks = chunks.size(0);
  p.chunk_len = chunks.size(1);
  p.total_len = sequence.size(0);
  p.dim = dim;
  p.most_segments = most_segments(p);
  p.chunk_stride = chunks.stride(0);
  p.column_stride = chunks.stride(1);
  p.position_stride = sequence.stride(0);
  return p;
}

// Runs a pass over all tiles on torch's threads; the first bad position, or -1.
int64_t run_tiles(OverlapPass pass, const OverlapParams& p) {
  const int64_t scratch_bytes = overlap_scratch_bytes(p);
  const int64_t grain = std::max<int64_t>(1, kGrainElements / (kTileLen * std::max<int64_t>(p.dim, 1)));
  std::atomic<int64_t> bad{p.total_len};
  run_ranges(p.num_tiles, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<std::byte[]> scratch(new std::byte[scratch_bytes]);
    const int64_t position = pass(p, begin, end, scratch.get());
    int64_t seen = bad.load();
    while (position >= 0 && position < seen && !bad.compare_exchange_weak(seen, position)) {
    }
  });
  return bad < p.total_len ? bad.load() : -1;
}

int64_t overlap_gather(Tensor chunks, std::optional<Tensor> weights, Tensor segments, Tensor tile_segments,
                       std::string mode, bool fresh, Tensor out) {
  OverlapParams p = overlap_params(chunks, out, weights, segments, tile_segments, mode);
  p.stream_out = prepare_output(out, fresh);
  return run_tiles(overlap_kernels(current_isa(), dtype_of(chunks)).gather, p);
}

void overlap_scatter(Tensor sequence, std::optional<Tensor> weights, Tensor segments, Tensor tile_segments,
                     std::string mode, bool fresh, Tensor out) {
  OverlapParams p = overlap_params(out, sequence, weights, segments, tile_segments, mode);
  p.stream_out = prepare_output(out, fresh);
  const OverlapKernels& kernels = overlap_kernels(current_isa(), dtype_of(sequence));
  run_tiles(kernels.scatter, p);
  run_ranges(p.num_segments, 64, [&](int64_t begin, int64_t end) { kernels.fill(p, begin, end); });
}

void overlap_weight_grad(Tensor dout, Tensor chunks, Tensor weights, Tensor segments, Tensor tile_segments,
                         Tensor dweights) {
  OverlapParams p = overlap_params(chunks, dout, weights, segments, tile_segments, "explicit");
  check_table(dweights, chunks, "dweights");
  p.dweights = dweights.mutable_data_ptr();
  run_tiles(overlap_kernels(current_isa(), dtype_of(chunks)).weight_grad, p);
}

}  // namespace
}  // namespace lck

STABLE_TORCH_LIBRARY_FRAGMENT(lckernels_cpu, m) {
  m.def(
      "overlap_gather(Tensor chunks, Tensor? weights, Tensor segments, Tensor tile_segments, str mode, "
      "bool fresh, Tensor(a!) out) -> int");
  m.def(
      "overlap_scatter(Tensor sequence, Tensor? weights, Tensor segments, Tensor tile_segments, str mode, "
      "bool fresh, Tensor(a!) out) -> ()");
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
