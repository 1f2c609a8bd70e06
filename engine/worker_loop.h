// The life of every rank but rank 0: plans in, steps run, results out.
#pragma once

#include "absl/status/status.h"
#include "engine/runner.h"
#include "parallel/world.h"

namespace shoal {

// Runs until rank 0 sends the shutdown plan (OK), or until a step fails: the failure is reported to rank 0 and
// returned.
absl::Status RunWorkerLoop(World& world, Runner& runner);

}  // namespace shoal
