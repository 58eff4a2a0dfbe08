// The library lckernels_cpu of private torch ops, on the libtorch stable ABI; <op>/register.cpp adds to it.
// The ops of windowed attention allocate their outputs; the caller of another op does.
#include <atomic>
#include <optional>
#include <string>

#include "cpu/common/tensor_args.h"

namespace lck {

namespace {

std::atomic<Isa> isa_in_use{default_isa()};

// The instruction set in use.
std::string isa() {
  return std::string(isa_name(current_isa()));
}

// Sets the instruction set in use; raises if the processor does not support it.
void set_isa(std::string name) {
  const std::optional<Isa> wanted = isa_from_name(name);
  STD_TORCH_CHECK(wanted.has_value(), "isa: got '", name,
                  "'; allowed are generic, avx2, avx512, avx512_bf16");
  STD_TORCH_CHECK(*wanted <= detected_isa(), "isa: got '", name, "'; this processor goes up to ",
                  std::string(isa_name(detected_isa())));
  isa_in_use = *wanted;
}

}  // namespace

Isa current_isa() {
  return isa_in_use;
}

}  // namespace lck

STABLE_TORCH_LIBRARY(lckernels_cpu, m) {
  m.def("isa() -> str");
  m.def("set_isa(str name) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lckernels_cpu, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&lck::isa));
  m.impl("set_isa", TORCH_BOX(&lck::set_isa));
}
