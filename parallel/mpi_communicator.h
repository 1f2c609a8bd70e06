// Communicator over MPI, for tensors in host memory.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/mpi_world.h"

namespace shoal {

// A group of ranks of `world`; `group` lists them by their rank in the group and holds this rank. Collective over the
// whole world: every rank calls it, each with its own group, and groups of one call are disjoint. Destroy before
// `world`. Errors: kInvalidArgument if the ranks of a group disagree about it, on every rank of the world; kUnavailable
// (MPI's own).
absl::StatusOr<std::unique_ptr<Communicator>> CreateMpiCommunicator(MpiWorld& world, std::span<const int> group);

}  // namespace shoal
