#include "binding/tensors.h"

namespace lck {

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      STD_TORCH_CHECK(false, "lckernels: allowed dtypes are float32, bfloat16, float16, float64");
  }
}

ScalarType accumulator_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

bool same_device(const Tensor& x, const Tensor& like) {
  return x.is_cpu() == like.is_cpu() && (x.is_cpu() || x.get_device_index() == like.get_device_index());
}

HeadsTensor heads_tensor(const Tensor& x, const Tensor& like, const char* name, bool heads_first) {
  STD_TORCH_CHECK(
      same_device(x, like) && x.scalar_type() == like.scalar_type() && x.dim() == 4 &&
          (x.size(3) <= 1 || x.numel() == 0 || x.stride(3) == 1),
      "lckernels: ", name,
      " must be (batch, seqlen, heads, dim) with a contiguous last dim, all of one device and dtype");
  const int64_t seqlen = heads_first ? 2 : 1;
  return {x.const_data_ptr(), x.stride(0), x.stride(seqlen), x.stride(3 - seqlen)};
}

const void* table_data(const OptionalTensor& x, const Tensor& like, ScalarType type, int64_t numel,
                       const char* name) {
  if (!x) return nullptr;
  STD_TORCH_CHECK(
      same_device(*x, like) && x->scalar_type() == type && x->is_contiguous() && x->numel() == numel,
      "lckernels: ", name, " must be a contiguous table of ", numel, " entries on q's device");
  return x->const_data_ptr();
}

}  // namespace lck
