// The Executor over a World: plans go to all ranks, this rank (0) runs its own part, results come back.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "engine/executor.h"
#include "engine/runner.h"
#include "parallel/backoff.h"
#include "parallel/plan.h"
#include "parallel/world.h"

namespace shoal {

class WorldExecutor final : public Executor {
 public:
  // All outlive the executor. This process is rank 0.
  WorldExecutor(World& world, const Plan& plan, Runner& runner);

  absl::Status Submit(const StepPlan& plan) override;
  absl::StatusOr<StepOutput> Wait() override;
  int in_flight() const override { return static_cast<int>(steps_.size()); }
  int depth() const override;
  std::vector<StageLoad> stage_loads() const override;
  absl::Status Shutdown() override;

 private:
  struct Step {
    uint64_t step;
    int rows;
    int candidates;
    bool after_idle;                // Nothing was in flight when it was submitted.
    int parts_missing;              // Last-stage ranks whose result has not come.
    std::vector<StepResult> parts;  // By tp_rank of the last stage.
  };

  absl::Status TakeMessage(const World::Message& message);
  absl::Status Take(StepResult result);
  void Account(const StepResult& result, bool after_idle);
  StepOutput Merge(const Step& step) const;

  World& world_;
  const Plan& plan_;
  Runner& runner_;
  BackoffPolicy wait_policy_;
  std::deque<Step> steps_;  // In flight, oldest first; at most depth().
  int results_unread_ = 0;  // Of other ranks; those of earlier stages may come after their step is done.
  std::vector<StageLoad> loads_;
  // Busy and wall seconds with exponential forgetting, per stage.
  std::vector<std::pair<double, double>> recent_;
};

}  // namespace shoal
