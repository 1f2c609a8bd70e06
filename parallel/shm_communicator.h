// Communicator of ranks on one host, for tensors in host memory: through shared memory, without system calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "parallel/communicator.h"
#include "parallel/world.h"

namespace shoal {

// The same on all ranks of a group, but for `meanwhile`.
struct ShmOptions {
  int64_t sum_bytes = 0;     // Of the largest sum; 0: no sums. Longer ones than a piece take several exchanges.
  int64_t tensor_bytes = 0;  // Of the largest tensor that is sent.
  std::vector<std::pair<int, int>> hops;  // Sender and receiver, by rank in the group; no others may exchange tensors.
  double seconds = 10;                    // A rank that is silent for longer counts as gone.
  std::function<void()> meanwhile;        // Called now and then during long waits.
};

// Shared memory that a group needs, for all of its ranks together.
int64_t ShmBytes(int ranks, const ShmOptions& options);
// Of this, what one exchange of sums takes per rank, and one hop.
int64_t ShmSumBytesPerRank(int64_t sum_bytes);
int64_t ShmHopBytes(int64_t tensor_bytes);

// The ranks of `group`, which list themselves by their rank in the group. Every call after a rank has been silent for
// too long is kUnavailable. `device` is in host memory, its ops are done when they return, and it outlives the
// communicator. Collective over the whole world: every rank calls it, each with its own group. Errors, the same on all
// ranks of a group: kInvalidArgument if they disagree about it, or options are out of range; kUnavailable if some rank
// does not see the memory, as on another host; kResourceExhausted if the host has no room for it.
absl::StatusOr<std::unique_ptr<Communicator>> CreateShmCommunicator(World& world, Device& device,
                                                                    std::span<const int> group,
                                                                    const ShmOptions& options);

// One rank of a group that shares `memory`, ShmBytes() long, aligned to kShmAlignment and zeroed, which outlives it.
std::unique_ptr<Communicator> MakeShmCommunicator(std::span<std::byte> memory, Device& device, int rank, int ranks,
                                                  const ShmOptions& options);

}  // namespace shoal
