// What Linux says of this process.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace shoal {

// Since the kernel made the process (so with the time of the dynamic linker), to 10 ms.
// Errors: kUnavailable if /proc cannot be read.
absl::StatusOr<double> SecondsSinceProcessStart();

// The most memory that was resident at one time (VmHWM). Errors: as above.
absl::StatusOr<int64_t> PeakResidentBytes();

}  // namespace shoal
