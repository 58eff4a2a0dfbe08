// The instruction sets that this processor and this build support.
#pragma once

#include <optional>
#include <string_view>

namespace lck {

// In order of preference: a processor that supports one supports all before it.
enum class Isa { kGeneric, kAvx2, kAvx512, kAvx512Bf16 };

inline constexpr int kNumIsas = 4;

// The best instruction set of this processor.
Isa detected_isa();

// The default: the best, except avx512 on Intel's processors, where the bf16 dot product is slower than fp32
// multiply-adds (198 against 428 GFLOP/s on two cores with AMX).
Isa default_isa();

// "generic", "avx2", "avx512", "avx512_bf16".
std::string_view isa_name(Isa isa);

// The instruction set of that name, if there is one.
std::optional<Isa> isa_from_name(std::string_view name);

}  // namespace lck
