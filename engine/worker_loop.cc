#include "engine/worker_loop.h"

#include "base/status_macros.h"

namespace shoal {

absl::Status RunWorkerLoop(World& world, Runner& runner) {
  while (true) {
    ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, world.Receive(0, Channel::kPlan));
    ASSIGN_OR_RETURN(const StepPlan plan, DecodeStepPlan(bytes));
    if (plan.shutdown) return absl::OkStatus();
    const StepResult result = runner.Run(plan);
    RETURN_IF_ERROR(world.Send(0, Channel::kResult, EncodeStepResult(result)));
    RETURN_IF_ERROR(result.status);
  }
}

}  // namespace shoal
