#include <chrono>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "base/str_cat.h"
#include "gmock/gmock.h"
#include "tests/parallel/world_conformance.h"

namespace shoal {
namespace {

using testing::HasSubstr;

std::vector<int> AllRanks(const World& world) {
  std::vector<int> all(world.size());
  std::iota(all.begin(), all.end(), 0);
  return all;
}

std::unique_ptr<Communicator> Create(RankUnderTest& rank, std::span<const int> group) {
  auto communicator = rank.create_communicator(group);
  EXPECT_TRUE(communicator.ok()) << communicator.status();
  return communicator.ok() ? *std::move(communicator) : nullptr;
}

Tensor Vector(std::vector<double>& v) { return MakeTensor(v.data(), DType::kF64, {1, static_cast<int64_t>(v.size())}); }

TEST_P(CommunicatorConformanceTest, SumsAreExactAndTheSameBitsOnAllRanks) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    const auto communicator = Create(rank, AllRanks(world));
    ASSERT_NE(communicator, nullptr);
    EXPECT_EQ(communicator->rank(), world.rank());
    EXPECT_EQ(communicator->size(), world.size());
    for (const size_t size : {1, 7, 384, 1536, 5000, 16 * 5120, 100'001}) {
      // Multiples of 2^-30 below 2^20, as LinearPartial makes them; the sum in integers is the truth.
      std::vector<int64_t> truth(size, 0);
      std::vector<double> mine(size);
      for (int r = 0; r < world.size(); ++r) {
        std::mt19937_64 random(size * 16 + r);
        for (size_t i = 0; i < size; ++i) {
          const int64_t units = static_cast<int64_t>(random() >> 14) - (int64_t{1} << 49);
          truth[i] += units;
          if (r == world.rank()) mine[i] = static_cast<double>(units) * 0x1p-30;
        }
      }
      const absl::Status summed = communicator->AllReduceSum(Vector(mine));
      ASSERT_TRUE(summed.ok()) << summed;
      for (size_t i = 0; i < size; ++i) ASSERT_EQ(mine[i], static_cast<double>(truth[i]) * 0x1p-30) << i;
    }
    // Sums that round: not exact, but still the same bits everywhere.
    for (const size_t size : {1000, 90'000}) {
      std::mt19937_64 random(world.rank());
      std::vector<double> mine(size);
      for (double& v : mine) v = std::normal_distribution<double>()(random);
      ASSERT_TRUE(communicator->AllReduceSum(Vector(mine)).ok());
      auto all = world.AllGather(std::as_bytes(std::span(mine)));
      ASSERT_TRUE(all.ok()) << all.status();
      for (const Bytes& theirs : *all) ASSERT_EQ(theirs, (*all)[0]);
    }
  });
}

TEST_P(CommunicatorConformanceTest, GroupsWorkSideBySideInAnyOrder) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    std::vector<int> group;  // Even or odd ranks, from the last to the first.
    for (int r = world.size() - 1; r >= 0; --r) {
      if (r % 2 == world.rank() % 2) group.push_back(r);
    }
    const auto mine = Create(rank, group);
    const auto all = Create(rank, AllRanks(world));
    ASSERT_NE(mine, nullptr);
    ASSERT_NE(all, nullptr);
    ASSERT_EQ(mine->size(), static_cast<int>(group.size()));
    EXPECT_EQ(group[mine->rank()], world.rank());
    for (int round = 0; round < 20; ++round) {
      std::vector<double> value = {static_cast<double>(world.rank() + 1), 1.0};
      ASSERT_TRUE(mine->AllReduceSum(Vector(value)).ok());
      double expected = 0;
      for (int r : group) expected += r + 1;
      EXPECT_EQ(value[0], expected);
      EXPECT_EQ(value[1], static_cast<double>(group.size()));
      ASSERT_TRUE(all->AllReduceSum(Vector(value)).ok());
    }
  });
}

TEST_P(CommunicatorConformanceTest, DisagreeingGroupsAreRefusedOnEveryRank) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    if (world.size() == 1) return;
    std::vector<int> group = AllRanks(world);
    if (world.rank() == 1) std::swap(group[0], group[1]);
    const auto refused = rank.create_communicator(group);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
    const std::vector<int> next = {(world.rank() + 1) % world.size()};
    EXPECT_EQ(rank.create_communicator(next).status().code(), absl::StatusCode::kInvalidArgument);
  });
}

TEST_P(CommunicatorConformanceTest, ASenderDoesNotWaitWhileFewTensorsAreUnread) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    const auto row = Create(rank, AllRanks(world));
    ASSERT_NE(row, nullptr);
    for (int round = 0; round < 3; ++round) {
      // Rank r sends to r + 1 all that may be unread, before anybody receives.
      for (int i = 0; row->rank() + 1 < row->size() && i < kSendsInFlight; ++i) {
        Bytes bytes = RandomBytes(row->rank() * 100 + i, 100'000 * static_cast<size_t>(i % 4) + 24);
        ASSERT_TRUE(
            row->Send(MakeTensor(bytes.data(), DType::kU8, {1, static_cast<int64_t>(bytes.size())}), row->rank() + 1)
                .ok());
        std::fill(bytes.begin(), bytes.end(), std::byte{0xee});  // Ours again once Send has returned.
      }
      ASSERT_TRUE(AgreeOn(world, absl::OkStatus()).ok());
      for (int i = 0; row->rank() > 0 && i < kSendsInFlight; ++i) {
        const Bytes expected = RandomBytes((row->rank() - 1) * 100 + i, 100'000 * static_cast<size_t>(i % 4) + 24);
        Bytes bytes(expected.size());
        ASSERT_TRUE(
            row->Receive(MakeTensor(bytes.data(), DType::kU8, {1, static_cast<int64_t>(bytes.size())}), row->rank() - 1)
                .ok());
        ASSERT_EQ(bytes, expected);
      }
    }
  });
}

TEST_P(CommunicatorConformanceTest, APipelineOfManyTensorsKeepsTheirOrder) {
  const int steps = GetParam().emulated ? 40 : 200;  // Far more than may be in flight.
  Run([steps](RankUnderTest& rank) {
    const auto row = Create(rank, AllRanks(rank.world));
    ASSERT_NE(row, nullptr);
    std::vector<double> x(3000);
    for (int step = 0; step < steps; ++step) {
      if (row->rank() == 0) {
        std::fill(x.begin(), x.end(), step);
      } else {
        ASSERT_TRUE(row->Receive(Vector(x), row->rank() - 1).ok());
      }
      for (double v : x) ASSERT_EQ(v, step + row->rank());
      for (double& v : x) v += 1;
      if (row->rank() + 1 < row->size()) {
        ASSERT_TRUE(row->Send(Vector(x), row->rank() + 1).ok());
      }
    }
  });
}

TEST_P(CommunicatorConformanceTest, ATensorOfTheWrongSizeIsAnError) {
  Run([](RankUnderTest& rank) {
    const auto row = Create(rank, AllRanks(rank.world));
    ASSERT_NE(row, nullptr);
    std::vector<double> x(100);
    std::vector<double> y(101);
    if (row->rank() == 0 && row->size() > 1) {
      ASSERT_TRUE(row->Send(Vector(x), 1).ok());
      ASSERT_TRUE(row->Send(Vector(y), 1).ok());
    } else if (row->rank() == 1) {
      const absl::Status status = row->Receive(Vector(y), 0);
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
      EXPECT_THAT(status.message(), HasSubstr("800 bytes where 808 were awaited"));
      EXPECT_TRUE(row->Receive(Vector(y), 0).ok());
    }
    ASSERT_TRUE(AgreeOn(rank.world, absl::OkStatus()).ok());
  });
}

TEST_P(CommunicatorConformanceTest, AllReduceLatencyIsPrinted) {
  const int most = GetParam().emulated ? 20 : 2000;
  Run([most](RankUnderTest& rank) {
    const auto communicator = Create(rank, AllRanks(rank.world));
    ASSERT_NE(communicator, nullptr);
    for (const int64_t size : {384, 1536, 64 * 1536}) {
      std::vector<double> x(size, 1.0);
      const int rounds = size < 10'000 ? most : std::max(1, most / 200);
      ASSERT_TRUE(AgreeOn(rank.world, absl::OkStatus()).ok());
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < rounds; ++i) {
        std::fill(x.begin(), x.end(), 1.0);
        ASSERT_TRUE(communicator->AllReduceSum(Vector(x)).ok());
      }
      const double us =
          std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / rounds;
      ASSERT_THAT(x, testing::Each(rank.world.size()));
      if (rank.world.rank() == 0) {
        std::printf("all-reduce of %ld bytes over %d ranks: %.1f us\n", size * 8, rank.world.size(), us);
      }
    }
  });
}

}  // namespace
}  // namespace shoal
