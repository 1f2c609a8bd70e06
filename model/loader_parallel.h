// Work on ranges of rows by all cores, at start-up.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"

namespace shoal {

// Cores of this process's affinity mask, at least 1 and at most 64.
int LoaderThreads();

// Calls `work(begin, end)` for [0, n) in ranges of at most `chunk`, on up to `threads` threads, and returns when all
// have returned. After an error no new range is begun; the error of the first range that has one is returned.
absl::Status ParallelChunks(int64_t n, int64_t chunk, int threads,
                            const std::function<absl::Status(int64_t begin, int64_t end)>& work);

}  // namespace shoal
