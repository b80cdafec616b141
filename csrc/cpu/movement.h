// Copies between a dense weight and its compact entries.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace clm {

// Compact entries [begin, end): from the dense weight to `compact`, which holds these alone, and back.
void read_entries(const void* dense, const Entries& entries, int64_t item_size, int64_t begin, int64_t end, void* compact);
void write_entries(void* dense, const Entries& entries, int64_t item_size, int64_t begin, int64_t end, const void* compact);

// Asks for the cache lines that write_entries will touch, where they are too scattered for the processor to foresee.
void prefetch_entries(const void* dense, const Entries& entries, int64_t item_size, int64_t begin, int64_t end);

}  // namespace clm
