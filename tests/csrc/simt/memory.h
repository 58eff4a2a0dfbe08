// Shared memory and stacks of the running block.
#pragma once

#include <cstddef>

namespace simt {

// Fresh memory for a block: shared memory is NaN, beyond its bytes AddressSanitizer reports.
void begin_memory();
void end_memory();
size_t static_smem_bytes();

}  // namespace simt
