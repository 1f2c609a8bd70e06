// The suite on one rank, and on ranks that are threads; and what only threads can do.
#include "tests/parallel/world_conformance.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "gmock/gmock.h"
#include "parallel/shared_segment.h"
#include "parallel/single_communicator.h"
#include "parallel/single_world.h"
#include "parallel/thread_world.h"
#include "tests/parallel/device_communicators.h"

namespace shoal {
namespace {

WorldBackend Single() {
  return {"Single", 1, [](const RankBody& body, const WorldLimits&) {
            const auto world = CreateSingleWorld();
            RankUnderTest rank{*world,
                               [&](std::span<const int> group) -> absl::StatusOr<std::unique_ptr<Communicator>> {
                                 RETURN_IF_ERROR(CheckGroups(*world, group));
                                 return CreateSingleCommunicator();
                               }};
            body(rank);
          }};
}

WorldBackend Threads(int ranks) {
  return {StrCat("Threads", ranks), ranks, [ranks](const RankBody& body, const WorldLimits& limits) {
            const absl::Status status = RunRanks(
                ranks,
                [&](ThreadRank& thread) {
                  RankUnderTest rank{thread.world(),
                                     [&](std::span<const int> group) { return thread.CreateCommunicator(group); }};
                  body(rank);
                  // An ASSERT that fails on one rank must not leave the others waiting.
                  return testing::Test::HasFatalFailure() ? absl::InternalError("the test failed") : absl::OkStatus();
                },
                limits);
            EXPECT_TRUE(status.ok()) << status;
          }};
}

// Memory of the process that the ranks of a group share; the sanitizers see it, other than a segment which every rank
// has at an address of its own.
absl::StatusOr<std::span<std::byte>> ShareMemory(World& world, std::span<const int> group, std::span<std::byte> mine) {
  std::byte* const data = mine.data();
  ASSIGN_OR_RETURN(const auto all, world.AllGather(std::as_bytes(std::span(&data, 1))));
  std::byte* first = nullptr;
  std::memcpy(&first, all[group[0]].data(), sizeof(first));
  return std::span(first, mine.size());
}

// Ranks that are threads, over memory of the process or, as processes have it, over a segment.
WorldBackend ShmThreads(int ranks, bool segment) {
  return {
      StrCat(segment ? "Segment" : "Memory", ranks), ranks, [=](const RankBody& body, const WorldLimits& limits) {
        std::vector<std::vector<int64_t>> memories(64);  // Outlives the ranks. One per call and rank.
        const auto create = [&](ThreadRank& thread, Device& device, std::span<const int> group,
                                int call) -> absl::StatusOr<std::unique_ptr<Communicator>> {
          const int size = static_cast<int>(group.size());
          const ShmOptions options = ShmOptionsOfSuite(size);
          if (segment) return CreateShmCommunicator(thread.world(), device, group, options);
          RETURN_IF_ERROR(CheckGroups(thread.world(), group));
          std::vector<int64_t>& mine = memories[call * ranks + thread.rank()];
          mine.resize(ShmBytes(size, options) / 8 + kShmAlignment / 8);  // Aligned by hand.
          std::byte* data = reinterpret_cast<std::byte*>(
              (reinterpret_cast<uintptr_t>(mine.data()) + kShmAlignment - 1) / kShmAlignment * kShmAlignment);
          ASSIGN_OR_RETURN(const std::span<std::byte> memory,
                           ShareMemory(thread.world(), group, {data, static_cast<size_t>(ShmBytes(size, options))}));
          const auto rank = std::find(group.begin(), group.end(), thread.rank()) - group.begin();
          return MakeShmCommunicator(memory, device, static_cast<int>(rank), size, options);
        };
        const absl::Status status = RunRanks(
            ranks,
            [&](ThreadRank& thread) -> absl::Status {
              const std::unique_ptr<Device> device = CreateReferenceDevice();
              int calls = 0;
              RankUnderTest rank{thread.world(),
                                 [&](std::span<const int> group) { return create(thread, *device, group, calls++); }};
              body(rank);
              if (testing::Test::HasFatalFailure()) return absl::InternalError("the test failed");
              return AgreeOn(thread.world(), absl::OkStatus());
            },
            limits);
        EXPECT_TRUE(status.ok()) << status;
      }};
}
const auto kShm = testing::Values(ShmThreads(2, false), ShmThreads(3, false), ShmThreads(4, false), ShmThreads(2, true),
                                  ShmThreads(5, true));

const auto kBackends = testing::Values(Single(), Threads(2), Threads(3), Threads(4), Threads(5));
const auto kBackendName = [](const auto& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(Ranks, WorldConformanceTest, kBackends, kBackendName);
INSTANTIATE_TEST_SUITE_P(Ranks, CommunicatorConformanceTest, kBackends, kBackendName);

INSTANTIATE_TEST_SUITE_P(Shm, CommunicatorConformanceTest, kShm, kBackendName);

TEST(ThreadWorldTest, AFailingRankEndsTheWaitsOfTheOthers) {
  for (int bad = 0; bad < 3; ++bad) {
    std::vector<absl::Status> seen(3);
    const absl::Status status = RunRanks(3, [&](ThreadRank& rank) -> absl::Status {
      std::vector<int> all = {0, 1, 2};
      auto communicator = rank.CreateCommunicator(all);
      // A slow rank may meet the failure while it still creates its communicator.
      if (!communicator.ok()) return seen[rank.rank()] = communicator.status();
      if (rank.rank() == bad) return absl::DataLossError("a bad disk");
      std::vector<double> x(8);
      if (rank.rank() == (bad + 1) % 3) {
        seen[rank.rank()] = (*communicator)->AllReduceSum(MakeTensor(x.data(), DType::kF64, {1, 8}));
      } else {
        seen[rank.rank()] = rank.world().Receive(bad, Channel::kPlan).status();
      }
      return seen[rank.rank()];
    });
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(status.message(), StrCat("rank ", bad, ": a bad disk"));
    for (int r = 0; r < 3; ++r) {
      if (r == bad) continue;
      EXPECT_EQ(seen[r].code(), absl::StatusCode::kAborted);
      EXPECT_THAT(seen[r].message(), testing::HasSubstr("a bad disk"));
    }
  }
}

TEST(ThreadWorldTest, AbortReachesASenderThatWaitsForRoom) {
  const absl::Status status = RunRanks(2, [](ThreadRank& rank) -> absl::Status {
    std::vector<int> all = {0, 1};
    auto communicator = rank.CreateCommunicator(all);
    if (!communicator.ok()) return communicator.status();
    float x = 0;
    if (rank.rank() == 1) {
      rank.Abort(absl::CancelledError("enough"));
      return absl::OkStatus();
    }
    while (true) {  // Full after kSendsInFlight at the latest.
      const absl::Status sent = (*communicator)->Send(MakeTensor(&x, DType::kF32, {1, 1}), 1);
      if (!sent.ok()) return sent;
    }
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(status.message(), "rank 0: enough");
}

TEST(SingleWorldTest, ThereIsNobodyToSendTo) {
  const auto world = CreateSingleWorld();
  EXPECT_EQ(world->Send(1, Channel::kPlan, {}).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(world->Receive(1, Channel::kPlan).status().code(), absl::StatusCode::kInternal);
  float x = 0;
  const auto communicator = CreateSingleCommunicator();
  EXPECT_EQ(communicator->Send(MakeTensor(&x, DType::kF32, {1, 1}), 1).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(communicator->Receive(MakeTensor(&x, DType::kF32, {1, 1}), 1).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace shoal
