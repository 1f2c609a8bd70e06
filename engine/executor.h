// Runs micro-batches on all ranks. The engine sees only this.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/step_plan.h"

namespace shoal {

// The candidates of one step, merged over the vocabulary ranges of the last stage's ranks.
struct StepOutput {
  uint64_t step = 0;
  // Row i belongs to StepPlan::sample_rows[i].
  struct Row {
    std::vector<float> logits;  // Candidates: largest first, ties to the lowest id. All logits: by id.
    std::vector<int32_t> ids;   // Empty if `logits` holds all of the vocabulary.
  };
  std::vector<Row> rows;
};

// Busy time of one pipeline stage (of its slowest rank) since start-up, and of its recent past.
struct StageLoad {
  double busy_seconds = 0;
  double wall_seconds = 0;   // Only while steps were in flight.
  double busy_fraction = 0;  // Over about the last second of work.
};

// Used by the engine thread only.
class Executor {
 public:
  virtual ~Executor() = default;

  // Sends the plan to all ranks and runs this rank's own part. Steps come back in order of submission.
  virtual absl::Status Submit(const StepPlan& plan) = 0;

  // Waits for the oldest step in flight. Errors: the first rank's fault; nothing can run after one.
  virtual absl::StatusOr<StepOutput> Wait() = 0;

  virtual int in_flight() const = 0;
  // Steps worth having in flight: 1 without a pipeline, else stages + 1 to hide the hop and the sampling.
  virtual int depth() const = 0;
  virtual std::vector<StageLoad> stage_loads() const = 0;

  // Makes every other rank leave its loop. No step may be in flight.
  virtual absl::Status Shutdown() = 0;
};

}  // namespace shoal
