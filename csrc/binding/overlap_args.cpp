#include "binding/overlap_args.h"

namespace lck {

namespace {

WeightMode mode_of(const std::string& name) {
  if (name == "uniform") return WeightMode::kUniform;
  if (name == "triangular") return WeightMode::kTriangular;
  if (name == "hann") return WeightMode::kHann;
  if (name == "crop") return WeightMode::kCrop;
  if (name == "explicit") return WeightMode::kExplicit;
  STD_TORCH_CHECK(name == "add", "lckernels: unknown weight mode ", name);
  return WeightMode::kAdd;
}

}  // namespace

void check_overlap_table(const Tensor& table, const Tensor& chunks, const char* name) {
  STD_TORCH_CHECK(same_device(table, chunks) && table.dim() == 2 && table.is_contiguous() &&
                      table.size(0) == chunks.size(0) && table.size(1) == chunks.size(1) &&
                      table.scalar_type() == accumulator_of(chunks),
                  "lckernels: ", name,
                  " must be a contiguous (num_chunks, chunk_len) table on the device of chunks");
}

OverlapParams overlap_params(const Tensor& chunks, const Tensor& sequence, const OptionalTensor& weights,
                             const Tensor& segments, const Tensor& tile_segments, const std::string& mode) {
  STD_TORCH_CHECK(
      same_device(sequence, chunks) && same_device(segments, chunks) && same_device(tile_segments, chunks),
      "lckernels: all tensors must be on one device");
  STD_TORCH_CHECK(chunks.dim() == 3 && sequence.dim() == 2 && chunks.size(2) == sequence.size(1),
                  "lckernels: chunks must be (num_chunks, chunk_len, dim), sequence (total_len, dim)");
  STD_TORCH_CHECK(chunks.scalar_type() == sequence.scalar_type(),
                  "lckernels: chunks and sequence must have one dtype");
  const int64_t dim = chunks.size(2);
  STD_TORCH_CHECK(dim <= 1 || (chunks.stride(2) == 1 && sequence.stride(1) == 1),
                  "lckernels: the last dim must be contiguous");
  STD_TORCH_CHECK(segments.scalar_type() == ScalarType::Int && segments.is_contiguous() &&
                      segments.dim() == 2 && segments.size(1) * sizeof(int32_t) == sizeof(Segment),
                  "lckernels: segments must be a contiguous (num_segments, 10) int32 tensor");
  STD_TORCH_CHECK(tile_segments.scalar_type() == ScalarType::Int && tile_segments.is_contiguous() &&
                      tile_segments.dim() == 2 && tile_segments.size(1) == 2 &&
                      tile_segments.size(0) == (sequence.size(0) + kTileLen - 1) / kTileLen,
                  "lckernels: tile_segments must be a contiguous (ceil(total_len / 64), 2) int32 tensor");
  OverlapParams p{};
  p.chunks = const_cast<void*>(chunks.const_data_ptr());
  p.sequence = const_cast<void*>(sequence.const_data_ptr());
  p.mode = mode_of(mode);
  STD_TORCH_CHECK((p.mode == WeightMode::kExplicit) == weights.has_value(),
                  "lckernels: weights are given with mode 'explicit' and with no other");
  if (weights) {
    check_overlap_table(*weights, chunks, "weights");
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
  p.chunk_stride = chunks.stride(0);
  p.column_stride = chunks.stride(1);
  p.position_stride = sequence.stride(0);
  return p;
}

}  // namespace lck
