// CreateNcclCommunicator of a build without NCCL.
#include "base/status_macros.h"
#include "parallel/nccl_communicator.h"
#include "parallel/single_communicator.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(World& world, Device&, std::span<const int> group,
                                                                     double, bool) {
  RETURN_IF_ERROR(CheckGroups(world, group));
  if (group.size() == 1) return CreateSingleCommunicator();
  return absl::FailedPreconditionError(
      "this build has no NCCL: install libnccl-dev beside the CUDA Toolkit, configure again and rebuild, or choose "
      "another transport");
}

}  // namespace shoal
