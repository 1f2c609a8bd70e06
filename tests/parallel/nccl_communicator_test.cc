// What holds without a GPU, with NCCL or without. Sums and tensors over NCCL are tested where there are GPUs.
#include "parallel/nccl_communicator.h"

#include <vector>

#include "gmock/gmock.h"
#include "kernels/device.h"
#include "parallel/thread_world.h"

namespace shoal {
namespace {

TEST(NcclCommunicatorTest, DevicesWithoutCudaAreRefusedOnAllRanksOfTheirGroup) {
  const absl::Status status = RunRanks(3, [](ThreadRank& thread) -> absl::Status {
    const std::unique_ptr<Device> device = CreateReferenceDevice();
    const std::vector<int> group = thread.rank() == 2 ? std::vector<int>{2} : std::vector<int>{1, 0};
    const auto made = CreateNcclCommunicator(thread.world(), *device, group, 5);
    if (thread.rank() == 2) {
      EXPECT_TRUE(made.ok()) << "one rank needs no NCCL: " << made.status();
    } else {
      EXPECT_EQ(made.status().code(), absl::StatusCode::kFailedPrecondition) << made.status();
      EXPECT_THAT(made.status().message(), testing::HasSubstr("NCCL"));
    }
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace shoal
