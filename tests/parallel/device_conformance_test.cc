// The suite on communicators of emulated GPUs, whose ranks are threads.
#include <string>

#include "base/str_cat.h"
#include "gmock/gmock.h"
#include "parallel/thread_world.h"
#include "tests/parallel/device_communicators.h"
#include "tests/parallel/world_conformance.h"

namespace shoal {
namespace {

WorldBackend Threads(const std::string& kind, int ranks) {
  return {StrCat(kind, ranks), ranks,
          [kind, ranks](const RankBody& body, const WorldLimits& limits) {
            const absl::Status status = RunRanks(
                ranks,
                [&](ThreadRank& thread) {
                  const std::unique_ptr<Device> device = EmulatedDevice();
                  const auto host = [&](std::span<const int> group) { return thread.CreateCommunicator(group); };
                  RankUnderTest rank{thread.world(), [&](std::span<const int> group) {
                                       return CreateDeviceCommunicator(kind, thread.world(), *device, host, group);
                                     }};
                  body(rank);
                  return testing::Test::HasFatalFailure() ? absl::InternalError("the test failed") : absl::OkStatus();
                },
                limits);
            EXPECT_TRUE(status.ok()) << status;
          },
          /*emulated=*/true};
}

INSTANTIATE_TEST_SUITE_P(Devices, CommunicatorConformanceTest,
                         testing::Values(Threads("Staged", 1), Threads("Staged", 3), Threads("HostLl", 1),
                                         Threads("HostLl", 2), Threads("HostLl", 4), Threads("PeerLl", 3)),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace shoal
