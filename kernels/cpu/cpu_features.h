// Which kernel paths this CPU can run.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/cpu/kernel_table.h"

namespace shoal::cpu {

// The kernels for `isa` as in CpuDeviceOptions; the best that this CPU has if empty.
// Errors: kInvalidArgument for an unknown name; kFailedPrecondition if this CPU or its kernel lacks it.
absl::StatusOr<const KernelTable*> ChooseKernels(std::string_view isa);

}  // namespace shoal::cpu
