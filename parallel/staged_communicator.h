// "mpi-host": a Communicator for tensors in device memory over one for tensors in host memory. Works with every device,
// also for several ranks on one, and is the fallback of all faster transports.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "parallel/communicator.h"

namespace shoal {

// Wraps `inner`, which has no time limits of its own, by copies through host memory that is taken here. Tensors travel
// in pieces of at most `piece_bytes`: the same number on all ranks, a multiple of 8, and at least the bytes of the
// largest tensor sent where Send must not wait for its reader. Every call waits for the device's queue, so none may be
// part of a Replay. `device` must outlive it. Errors: kResourceExhausted; kInvalidArgument for a bad size.
absl::StatusOr<std::unique_ptr<Communicator>> CreateStagedCommunicator(std::unique_ptr<Communicator> inner,
                                                                       Device& device,
                                                                       int64_t piece_bytes = kAllReduceChunkBytes);

}  // namespace shoal
