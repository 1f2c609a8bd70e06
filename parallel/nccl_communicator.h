// "nccl": a Communicator over NVIDIA's collectives. Provided by one of two libraries: shoal_nccl where CMake finds
// NCCL, else shoal_nccl_absent.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "parallel/communicator.h"
#include "parallel/world.h"

namespace shoal {

// The ranks of `group`, each with a CUDA device of its own, which must be current in this thread. Sums and tensors are
// queued on the device's queue; a tensor's sender may wait there for its receiver. No call waits on the host for longer
// than `seconds`; after a fault the communicator is aborted and every call fails. What hangs on the device, as NCCL
// does on some PCIe topologies, hangs in Device::Synchronize; with `wait`, for self-tests, each call waits for its end
// instead and aborts what has none after `seconds`. Takes little device memory: at most two channels, and buffers of 1
// MiB unless NCCL_BUFFSIZE says otherwise. A group of one rank does without NCCL.
//
// Collective over the whole world: every rank calls it, each with its own group. `device` must outlive it. Errors, the
// same on all ranks of a group: kInvalidArgument if they disagree about it; kFailedPrecondition if a device has no CUDA
// queue, or this build no NCCL; kUnavailable with what NCCL says, as for two ranks on one GPU.
absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(World& world, Device& device,
                                                                     std::span<const int> group, double seconds,
                                                                     bool wait = false);

}  // namespace shoal
