// One rank's part of a step: StepPlan in, StepResult out. The same code on every rank.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/step_plan.h"
#include "kernels/device.h"
#include "model/activations.h"
#include "model/config.h"
#include "model/decoder.h"
#include "model/kv_cache.h"
#include "model/weights.h"
#include "parallel/communicator.h"
#include "parallel/plan.h"

namespace shoal {

// Owns this rank's KV cache and activations. Used by the rank's engine thread only; references outlive it.
class Runner {
 public:
  // `tp`: the ranks of this stage. `pipeline`: all ranks, numbered as in the world. Reserves every buffer.
  // Errors: kResourceExhausted.
  static absl::StatusOr<std::unique_ptr<Runner>> Create(const ModelConfig& config, const Plan& plan, int rank,
                                                        DecoderWeights weights, Device& device, Communicator& tp,
                                                        Communicator& pipeline);

  // Runs one micro-batch. The result's status carries faults; a rank with one cannot go on.
  StepResult Run(const StepPlan& plan);

  // This rank's keys and values; who copies blocks of them does so between steps.
  const KvCache& kv() const { return kv_; }

 private:
  Runner(const ModelConfig& config, const Plan& plan, int rank, DecoderWeights weights, Device& device,
         Communicator& tp, Communicator& pipeline);

  // Records the graphs of all decode steps, where device and communicator allow it, so that no request waits for that.
  absl::Status RecordGraphs();
  absl::Status Check(const StepPlan& plan) const;
  StepInput Upload(const StepPlan& plan);
  int BucketMax() const;
  // Whether steps of this bucket are replayed: if the device can, and the ranks' sums are part of its queue.
  bool HasGraph(int bucket) const;
  // Forward, as a replay where the step is one of decoding.
  absl::Status RunForward(const StepPlan& plan);
  absl::Status ReceiveFromStageBefore(int tokens);
  absl::Status SendToStageAfter(int tokens);
  absl::Status Compute(const StepPlan& plan, StepResult& result);
  void QueueCandidates(const StepPlan& plan, StepResult& result);

  const ModelConfig& config_;
  const Plan& plan_;
  const RankPlan& rank_;
  DecoderWeights weights_;
  Device& device_;
  Communicator& tp_;
  Communicator& pipeline_;
  KvCache kv_;
  OwnedActivations activations_;
  std::unique_ptr<DecoderContext> context_;
  StepPlan padded_;                   // The step under way, made up to its bucket.
  std::vector<int32_t> block_table_;  // Host copy, [S, max_blocks]; must live until Synchronize.
  int64_t last_end_ns_ = 0;
};

}  // namespace shoal
