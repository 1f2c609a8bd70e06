// NCCL between as many ranks as there are GPUs, as threads. A program of its own: it needs libnccl.so.2 to start.
#include <numeric>

#include "gtest/gtest.h"
#include "parallel/nccl_communicator.h"
#include "tests/gpu/transport_checks.h"

namespace shoal {
namespace {

absl::Status CheckNccl(int ranks) {
  return CheckTransport("nccl", ranks, [](ThreadRank& rank, Device& device) {
    std::vector<int> group(rank.size());
    std::iota(group.begin(), group.end(), 0);
    return CreateNcclCommunicator(rank.world(), device, group, /*seconds=*/60);
  });
}

TEST(NcclTest, SumsAndTensorsArriveOnAllGpus) {
  const int gpus = CountGpus();
  if (gpus == 0) GTEST_SKIP() << CreateCudaDevice({}).status().message();
  if (gpus == 1) GTEST_SKIP() << "one GPU: nothing to exchange";
  const absl::Status made = CheckNccl(gpus < 8 ? gpus : 8);
  EXPECT_TRUE(made.ok()) << made;
}

// Most versions of NCCL refuse; later ones may be told to do it. Either is fine, hanging is not.
TEST(NcclTest, TwoRanksOnOneGpuWorkOrAreRefused) {
  const int gpus = CountGpus();
  if (gpus == 0) GTEST_SKIP() << CreateCudaDevice({}).status().message();
  if (gpus > 1) GTEST_SKIP() << "every rank has a GPU";
  const absl::Status made = CheckNccl(2);
  if (made.ok()) return;
  EXPECT_EQ(made.code(), absl::StatusCode::kUnavailable) << made;
  std::printf("refused: %s\n", std::string(made.message()).c_str());
}

}  // namespace
}  // namespace shoal
