// Part of the composition root: which device each rank of the job uses, how much of its memory, and how it talks to the
// devices of other ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "parallel/communicator.h"
#include "parallel/mpi_world.h"
#include "parallel/plan.h"
#include "server/config.h"

namespace shoal {

// The same on every rank, but for `gpu` and `free_bytes`.
struct DeviceChoice {
  bool cuda = false;
  int gpu = 0;                         // This rank's, of its host.
  int64_t free_bytes = 0;              // Of that GPU, once this process's context was in place.
  std::vector<int64_t> memory_budget;  // As PlanRequest has it.
  int64_t reserved_bytes = 0;
  int64_t workspace_bytes = 0;
};

// Collective. Errors, on every rank: kFailedPrecondition if device is CUDA and some rank has no GPU.
absl::StatusOr<DeviceChoice> ChooseDevices(World& world, const Config& config);

// Puts the choice in place of what the configuration says of memory. Errors: kInvalidArgument if the chosen devices
// cannot run the model's shape.
absl::Status ApplyTo(const DeviceChoice& choice, PlanRequest& request);

// The cores that this rank's threads should keep to, so that ranks of one host do not meet on a core: its part of those
// that it shares with others. None where that has no use: alone, on a GPU, with more threads than its part has, or
// where mpirun has bound ranks already.
std::vector<int> CoresForRank(const MpiWorld& world, const Config& config, const DeviceChoice& choice);

// This rank's device, with `mine`'s budget. Errors: as CreateCpuDevice and CreateCudaDevice.
absl::StatusOr<std::unique_ptr<Device>> MakeDevice(const MpiWorld& world, const Config& config,
                                                   const DeviceChoice& choice, const RankPlan& mine);

struct Communicators {
  std::unique_ptr<Communicator> tp;        // The ranks of this rank's stage.
  std::unique_ptr<Communicator> pipeline;  // All ranks.
};

// Collective; destroy before `device` and `world`. Errors, on every rank: what the chosen transport reports.
absl::StatusOr<Communicators> MakeCommunicators(MpiWorld& world, const Config& config, const DeviceChoice& choice,
                                                const Plan& plan, Device& device);

// For the log, once all memory is taken: what the driver has given since the context was made, beside the ledger of
// `device`. Graphs, libraries and other users of the GPU make the difference. "" on a CPU.
std::string GpuMemoryText(const DeviceChoice& choice, const Device& device);

}  // namespace shoal
