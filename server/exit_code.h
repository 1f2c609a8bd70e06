// What a rank's exit code says.
#pragma once

#include "absl/status/status.h"

namespace shoal {

// 0 is "drained".
constexpr int kExitFault = 1;
constexpr int kExitRefused = 2;  // Configuration, model or plan.
constexpr int kExitMemory = 3;
constexpr int kExitPort = 4;

int ExitCode(const absl::Status& status);

}  // namespace shoal
