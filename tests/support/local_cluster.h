// A whole job in one process: every rank is a thread with its own device, weights and runner. For tests of what needs a
// model and several ranks but neither mpirun nor gRPC.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/world_executor.h"
#include "kernels/device.h"
#include "model/config.h"
#include "parallel/plan.h"

namespace shoal {

struct LocalClusterOptions {
  std::string model_dir;
  PlanRequest request;     // Shape is filled in from the model; max_context too if 0.
  bool reference = false;  // The oracle device instead of the CPU one.
  std::string isa;         // Of the CPU device.
  int threads = 1;         // Of each rank's CPU device.
  // The CUDA device that the program links, instead of the CPU one; ranks exchange through host memory.
  bool cuda = false;
  CudaDeviceOptions cuda_options;
  // This rank sends its results so much later (tests of what comes out of order).
  int late_rank = -1;
  std::chrono::milliseconds late_by{0};
};

// Explicit stages: {2, 2} is two stages of two tensor-parallel ranks.
PlanRequest RequestWithStages(const std::vector<int>& ranks_per_stage, WeightFormat weights, DType kv);

struct ClusterView {
  const ModelConfig& config;
  const Plan& plan;
  WorldExecutor& executor;
};

// Starts the ranks, runs `body` on rank 0's thread, then shuts the ranks down. Returns the first error.
absl::Status RunLocalCluster(const LocalClusterOptions& options,
                             const std::function<absl::Status(const ClusterView&)>& body);

// Runs an Engine on rank 0's thread and `client` on another one; drains when `client` returns.
absl::Status RunLocalEngine(const LocalClusterOptions& options, const EngineOptions& limits,
                            const std::function<void(EngineClient&, const ModelConfig&)>& client);

// Submits everything at once, at most `concurrency` at a time, and returns the outputs' token ids in order.
absl::StatusOr<std::vector<std::vector<int32_t>>> GenerateAll(EngineClient& engine,
                                                              const std::vector<Request>& requests, int concurrency);

}  // namespace shoal
