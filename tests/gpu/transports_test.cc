// Ranks that share the GPU, or have one each, exchange through every transport that needs no library.
#include <numeric>

#include "base/status_macros.h"
#include "gtest/gtest.h"
#include "parallel/shared_communicator.h"
#include "parallel/staged_communicator.h"
#include "tests/gpu/transport_checks.h"

namespace shoal {
namespace {

std::vector<int> Everyone(const ThreadRank& rank) {
  std::vector<int> group(rank.size());
  std::iota(group.begin(), group.end(), 0);
  return group;
}

TransportFactory Shared(SharedCommunicatorOptions::Mailboxes mailboxes) {
  return [mailboxes](ThreadRank& rank, Device& device) {
    SharedCommunicatorOptions options;
    options.mailboxes = mailboxes;
    options.sum_elements = 64 * 512;
    options.put_bytes = 300'000;
    options.seconds = 10;
    return CreateSharedCommunicator(rank.world(), device, Everyone(rank), options);
  };
}

class TransportsTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (CountGpus() == 0) GTEST_SKIP() << CreateCudaDevice({}).status().message();
  }
};

TEST_P(TransportsTest, ThroughTheHostByCopies) {
  const absl::Status made = CheckTransport(
      "mpi-host", GetParam(), [](ThreadRank& rank, Device& device) -> absl::StatusOr<std::unique_ptr<Communicator>> {
        ASSIGN_OR_RETURN(std::unique_ptr<Communicator> inner, rank.CreateCommunicator(Everyone(rank)));
        return CreateStagedCommunicator(std::move(inner), device, 300'000);
      });
  EXPECT_TRUE(made.ok()) << made;
}

TEST_P(TransportsTest, ThroughTheHostByKernels) {
  const absl::Status made = CheckTransport("host-ll", GetParam(), Shared(SharedCommunicatorOptions::Mailboxes::kHost));
  EXPECT_TRUE(made.ok()) << made;
}

// Real drivers open no memory of their own process; for processes mpirun is needed.
TEST_P(TransportsTest, ThroughTheMemoryOfTheGpus) {
  const absl::Status made = CheckTransport("p2p-ll", GetParam(), Shared(SharedCommunicatorOptions::Mailboxes::kPeer));
  if (made.code() == absl::StatusCode::kUnavailable) GTEST_SKIP() << made.message();
  EXPECT_TRUE(made.ok()) << made;
}

INSTANTIATE_TEST_SUITE_P(Ranks, TransportsTest, testing::Values(2, 4), testing::PrintToStringParamName());

}  // namespace
}  // namespace shoal
