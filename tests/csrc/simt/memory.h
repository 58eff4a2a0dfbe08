// Shared memory and stacks of the running block.
#pragma once

#include <cstddef>

namespace simt {

// Initialises the memory of a block: shared memory is NaN, and AddressSanitizer reports accesses beyond it.
void begin_memory();
void end_memory();
size_t static_smem_bytes();

}  // namespace simt
