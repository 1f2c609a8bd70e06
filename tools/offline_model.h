// A model in this process, on one rank: no server, no network, no other processes. For measurements.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/runner.h"
#include "engine/step_plan.h"
#include "kernels/device.h"
#include "model/config.h"
#include "parallel/communicator.h"
#include "parallel/plan.h"

namespace shoal {

struct OfflineModelOptions {
  std::string model_dir;  // Whatever shoal-server's `model` takes.
  std::optional<WeightFormat>
      weights;              // Of an ordinary folder, int8 if nothing; nothing for one with formats of its own.
  DType kv = DType::kF16;   // kF16, kF32 or kI8
  int threads = 0;          // 0: one per core that this process may use.
  std::string isa;          // As CpuDeviceOptions.
  int max_sequences = 1;    // At once; each has KV blocks for max_context tokens.
  int max_step_tokens = 0;  // 0: the server's default.
  int64_t max_context = 0;  // Tokens of one sequence at most.
};

class OfflineModel {
 public:
  // Reads and loads the model. Errors: kInvalidArgument for options that no model or this one cannot have; otherwise as
  // LoadModelConfig, MakePlan, CreateCpuDevice and LoadWeights.
  static absl::StatusOr<std::unique_ptr<OfflineModel>> Load(const OfflineModelOptions& options);

  // Runs one step. Errors: the runner's.
  absl::StatusOr<StepResult> Run(const StepPlan& step);

  // Copies KV blocks to as many other ones, between steps. Errors: the device's.
  absl::Status CopyKvBlocks(std::span<const int32_t> from, std::span<const int32_t> to);

  const ModelConfig& config() const { return config_; }
  const Plan& plan() const { return plan_; }
  const RankPlan& rank() const { return plan_.ranks[0]; }
  const Device& device() const { return *device_; }
  double load_seconds() const { return load_seconds_; }  // Reading (and quantizing) the weights.

 private:
  OfflineModel() = default;

  // In the order of use; destroyed in reverse.
  ModelConfig config_;
  Plan plan_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Communicator> alone_;
  std::unique_ptr<Runner> runner_;
  double load_seconds_ = 0;
};

}  // namespace shoal
