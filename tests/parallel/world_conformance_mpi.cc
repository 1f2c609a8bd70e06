// The suite on processes: run under mpirun with any number of ranks.
#include <cstdio>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_world.h"
#include "tests/parallel/device_communicators.h"
#include "tests/parallel/world_conformance.h"

namespace shoal {
namespace {

// Set by main before the tests run, which all share the one world a process can have.
MpiWorld* g_world = nullptr;

absl::StatusOr<std::unique_ptr<Communicator>> CreateHost(std::span<const int> group) {
  return CreateMpiCommunicator(*g_world, group);
}

const auto kBackendName = [](const auto& info) { return info.param.name; };
const auto kMpi = testing::Values(WorldBackend{"Mpi", 1, [](const RankBody& body, const WorldLimits&) {
                                                 RankUnderTest rank{*g_world, CreateHost};
                                                 body(rank);
                                               }});
INSTANTIATE_TEST_SUITE_P(Ranks, WorldConformanceTest, kMpi, kBackendName);
INSTANTIATE_TEST_SUITE_P(Ranks, CommunicatorConformanceTest, kMpi, kBackendName);

const auto kShm = testing::Values(
    WorldBackend{"Shm", 1, [](const RankBody& body, const WorldLimits&) {
                   const std::unique_ptr<Device> device = CreateReferenceDevice();
                   RankUnderTest rank{*g_world, [&](std::span<const int> group) {
                                        return CreateShmCommunicator(*g_world, *device, group,
                                                                     ShmOptionsOfSuite(static_cast<int>(group.size())));
                                      }};
                   body(rank);
                 }});
INSTANTIATE_TEST_SUITE_P(Shm, CommunicatorConformanceTest, kShm, kBackendName);

// Emulated GPUs, one per process.
WorldBackend Devices(const std::string& kind) {
  return {kind, 1,
          [kind](const RankBody& body, const WorldLimits&) {
            const std::unique_ptr<Device> device = EmulatedDevice();
            RankUnderTest rank{*g_world, [&](std::span<const int> group) {
                                 return CreateDeviceCommunicator(kind, *g_world, *device, CreateHost, group);
                               }};
            body(rank);
            // The device must outlive what other ranks still have queued for it.
            ASSERT_TRUE(AgreeOn(*g_world, absl::OkStatus()).ok());
          },
          /*emulated=*/true};
}
INSTANTIATE_TEST_SUITE_P(Devices, CommunicatorConformanceTest, testing::Values(Devices("Staged"), Devices("HostLl")),
                         kBackendName);

TEST(MpiWorldTest, StartsOnlyOnce) {
  EXPECT_EQ(MpiWorld::Create(nullptr, nullptr).status().code(), absl::StatusCode::kFailedPrecondition);
}

// The others would wait for ever for a rank that left a test early.
class AbortOnFailure : public testing::EmptyTestEventListener {
  void OnTestEnd(const testing::TestInfo& info) override {
    if (!info.result()->Failed()) return;
    std::fprintf(stderr, "rank %d: %s.%s failed\n", g_world->rank(), info.test_suite_name(), info.name());
    AbortWorld(1);
  }
};

int Main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  auto world = MpiWorld::Create(&argc, &argv, kProcessLimits);
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", world.status().ToString().c_str());
    return 1;
  }
  g_world = world->get();
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (g_world->rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new AbortOnFailure);
  const int result = RUN_ALL_TESTS();
  const absl::Status end = g_world->Finalize();
  if (!end.ok()) std::fprintf(stderr, "%s\n", end.ToString().c_str());
  return end.ok() ? result : 1;
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) { return shoal::Main(argc, argv); }
