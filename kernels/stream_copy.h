// Copies into host memory that another core will read.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shoal {

// memcpy, but past this core's caches where the processor can: a plain store would first fetch the line from the core
// that has read it last, which costs several times what it costs to send it there (12 KB: 4 us instead of 0.7). What is
// stored with memory_order_release after StreamFence is seen after the bytes.
void StreamCopy(void* to, const void* from, int64_t bytes);
void StreamFence();

}  // namespace shoal
