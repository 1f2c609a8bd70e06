// Communicators whose exchanges are made by the kernels of the devices: "host-ll" through memory of the host that all
// of them reach, "p2p-ll" through one another's memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "parallel/communicator.h"
#include "parallel/world.h"

namespace shoal {

struct SharedCommunicatorOptions {
  enum class Mailboxes : uint8_t { kHost, kPeer };
  Mailboxes mailboxes = Mailboxes::kHost;
  int64_t sum_elements = 8192;               // As in PeerLinkOptions.
  int64_t put_bytes = kAllReduceChunkBytes;  // 0: Send and Receive are not used.
  double seconds = 10;                       // A kernel gives up on a rank that is silent for longer.
  uint32_t first_epoch = 0;                  // For tests.
};

// The ranks of `group`, all on this host, which list themselves by their rank in the group; `options` are the same on
// all of them. Calls only queue; a rank that does not answer is kUnavailable from then on, at the next call or at
// Device::Synchronize. Collective over the whole world: every rank calls it, each with its own group. `device` must
// outlive it; destroy it when no rank has work queued. Errors, the same on all ranks of a group: kInvalidArgument if
// they disagree about it; kUnimplemented if a device has no such kernels; kUnavailable if memory cannot be shared;
// kResourceExhausted.
absl::StatusOr<std::unique_ptr<Communicator>> CreateSharedCommunicator(World& world, Device& device,
                                                                       std::span<const int> group,
                                                                       const SharedCommunicatorOptions& options);

}  // namespace shoal
