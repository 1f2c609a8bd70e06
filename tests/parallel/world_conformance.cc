#include "tests/parallel/world_conformance.h"

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "base/str_cat.h"
#include "gmock/gmock.h"

namespace shoal {
namespace {

using testing::HasSubstr;

// Empty, tiny, around the limits of MPI's eager protocols, and large.
size_t RandomSize(uint64_t seed) {
  std::mt19937_64 random(seed);
  switch (random() % 4) {
    case 0:
      return random() % 3;
    case 1:
      return random() % 300;
    case 2:
      return 3900 + random() % 400;
    default:
      return random() % 330'000;
  }
}

TEST_P(WorldConformanceTest, RanksAreNumberedFromZero) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    ASSERT_GE(world.rank(), 0);
    ASSERT_LT(world.rank(), world.size());
    EXPECT_LT(world.local_rank(), world.local_size());
    EXPECT_LE(world.local_size(), world.size());
    const int32_t mine = world.rank();
    auto all = world.AllGather(std::as_bytes(std::span(&mine, 1)));
    ASSERT_TRUE(all.ok()) << all.status();
    ASSERT_EQ(static_cast<int>(all->size()), world.size());
    for (int r = 0; r < world.size(); ++r) {
      int32_t theirs = -1;
      ASSERT_EQ((*all)[r].size(), sizeof(theirs));
      std::memcpy(&theirs, (*all)[r].data(), sizeof(theirs));
      EXPECT_EQ(theirs, r);
    }
  });
}

TEST_P(WorldConformanceTest, ManyMessagesInFlightArriveWholeAndInOrder) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    constexpr int kMessages = 12;  // Times three channels: 36 per receiver, of 40 allowed.
    constexpr Channel kChannels[] = {Channel::kPlan, Channel::kResult, Channel::kControl};
    const auto seed = [](int from, int to, int i, Channel c) {
      return static_cast<uint64_t>(((from * 64 + to) * 64 + i) * 4 + static_cast<int>(c));
    };
    for (int round = 0; round < 3; ++round) {
      for (int i = 0; i < kMessages; ++i) {
        for (int to = 0; to < world.size(); ++to) {
          if (to == world.rank()) continue;
          for (const Channel channel : kChannels) {
            const uint64_t s = seed(world.rank(), to, i + round * kMessages, channel);
            const absl::Status sent = world.Send(to, channel, RandomBytes(s, RandomSize(s)));
            ASSERT_TRUE(sent.ok()) << sent;
          }
        }
      }
      // The channels are read one after the other, and the senders in another order than they sent.
      for (const Channel channel : {Channel::kControl, Channel::kPlan, Channel::kResult}) {
        for (int from = world.size() - 1; from >= 0; --from) {
          if (from == world.rank()) continue;
          for (int i = 0; i < kMessages; ++i) {
            const uint64_t s = seed(from, world.rank(), i + round * kMessages, channel);
            auto got = world.Receive(from, channel);
            ASSERT_TRUE(got.ok()) << got.status();
            ASSERT_EQ(*got, RandomBytes(s, RandomSize(s))) << "message " << i << " from " << from;
          }
        }
      }
    }
  });
}

TEST_P(WorldConformanceTest, TryReceiveFindsMessagesOfAllSenders) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    auto none = world.TryReceive(Channel::kControl);
    ASSERT_TRUE(none.ok()) << none.status();
    EXPECT_FALSE(none->has_value());
    ASSERT_TRUE(AgreeOn(world, absl::OkStatus()).ok());  // Nobody sends before all have looked.
    if (world.rank() != 0) {
      for (int i = 0; i < 5; ++i) {
        ASSERT_TRUE(world.Send(0, Channel::kControl, RandomBytes(world.rank() * 8 + i, 1000 * i)).ok());
      }
    } else {
      std::vector<int> next(world.size(), 0);
      const auto start = std::chrono::steady_clock::now();
      for (int got = 0; got < 5 * (world.size() - 1);) {
        ASSERT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
        auto message = world.TryReceive(Channel::kControl);
        ASSERT_TRUE(message.ok()) << message.status();
        if (!message->has_value()) {
          usleep(100);
          continue;
        }
        const auto& [from, bytes] = **message;
        ASSERT_GT(from, 0);
        ASSERT_EQ(bytes, RandomBytes(from * 8 + next[from], 1000 * next[from]));
        ++next[from];
        ++got;
      }
    }
    ASSERT_TRUE(AgreeOn(world, absl::OkStatus()).ok());
  });
}

TEST_P(WorldConformanceTest, SendGivesUpOnAReceiverThatDoesNotRead) {
  Run(kImpatientLimits, [](RankUnderTest& rank) {
    World& world = rank.world;
    const Bytes bytes = RandomBytes(1, 100);
    if (world.rank() == 0 && world.size() > 1) {
      for (int i = 0; i < kTestLimits.unread_messages_max; ++i) ASSERT_TRUE(world.Send(1, Channel::kPlan, bytes).ok());
      const absl::Status refused = world.Send(1, Channel::kPlan, bytes);
      EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << refused;
      EXPECT_THAT(refused.message(), HasSubstr("rank 1 has left 40 messages unread"));
    }
    ASSERT_TRUE(AgreeOn(world, absl::OkStatus()).ok());
    if (world.rank() == 1) {
      for (int i = 0; i < kTestLimits.unread_messages_max; ++i) ASSERT_TRUE(world.Receive(0, Channel::kPlan).ok());
      auto more = world.TryReceive(Channel::kPlan);
      ASSERT_TRUE(more.ok());
      EXPECT_FALSE(more->has_value()) << "the refused message was sent";
    }
    ASSERT_TRUE(AgreeOn(world, absl::OkStatus()).ok());
  });
}

TEST_P(WorldConformanceTest, ReportsOfAPhaseTellRank0OfAFailureWhileOthersStillWork) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    const int last = world.size() - 1;
    if (last < 2) return;
    PhaseReports reports(world);
    if (world.rank() == 0) {
      // Rank 1 still works: it reports only after rank 0 has given up on it.
      absl::Status seen;
      for (int i = 0; i < 20000 && seen.ok(); ++i) {
        seen = reports.Look();
        usleep(100);
      }
      EXPECT_EQ(seen, absl::NotFoundError(StrCat("rank ", last, ": no such file")));
      ASSERT_TRUE(reports.Report(absl::OkStatus()).ok());
      EXPECT_EQ(reports.WaitForAll(0.05), seen);
      for (int to = 1; to <= last; ++to) ASSERT_TRUE(world.Send(to, Channel::kPlan, {}).ok());
      EXPECT_TRUE(reports.WaitForAll(20).ok());
    } else {
      const auto wait = [&] { ASSERT_TRUE(world.Receive(0, Channel::kPlan).ok()); };
      if (world.rank() == 1) wait();
      const bool failed = world.rank() == last;
      ASSERT_TRUE(reports.Report(failed ? absl::NotFoundError("no such file") : absl::OkStatus()).ok());
      if (world.rank() != 1) wait();
    }
    ASSERT_TRUE(AgreeOn(world, absl::OkStatus()).ok());
  });
}

TEST_P(WorldConformanceTest, ReportsOfAPhaseThatAllEndLeaveTheVerdictToAgreeOn) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    PhaseReports reports(world);
    const absl::Status mine = absl::DataLossError(StrCat("of ", world.rank()));
    ASSERT_TRUE(reports.Report(mine).ok());
    if (world.rank() == 0) {
      EXPECT_TRUE(reports.WaitForAll(20).ok());
    }
    EXPECT_EQ(AgreeOn(world, mine), absl::DataLossError("rank 0: of 0"));
  });
}

TEST_P(WorldConformanceTest, TooLongAMessageIsRefusedBeforeItIsRead) {
  Run([](RankUnderTest& rank) {
    if (rank.world.size() == 1) return;
    const std::byte byte{};
    const std::span<const std::byte> absurd(&byte, static_cast<size_t>(kMessageBytesMax) + 1);
    const int to = (rank.world.rank() + 1) % rank.world.size();
    EXPECT_EQ(rank.world.Send(to, Channel::kPlan, absurd).code(), absl::StatusCode::kInvalidArgument);
  });
}

TEST_P(WorldConformanceTest, AllGatherTakesAnyLengths) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    for (int round = 0; round < 30; ++round) {
      const auto seed = [&](int r) { return static_cast<uint64_t>(r * 100 + round); };
      auto all = world.AllGather(RandomBytes(seed(world.rank()), RandomSize(seed(world.rank()))));
      ASSERT_TRUE(all.ok()) << all.status();
      ASSERT_EQ(static_cast<int>(all->size()), world.size());
      for (int r = 0; r < world.size(); ++r) ASSERT_EQ((*all)[r], RandomBytes(seed(r), RandomSize(seed(r))));
    }
  });
}

TEST_P(WorldConformanceTest, AgreeOnGivesTheFirstErrorEverywhere) {
  Run([](RankUnderTest& rank) {
    World& world = rank.world;
    EXPECT_TRUE(AgreeOn(world, absl::OkStatus()).ok());
    for (int bad = 0; bad < world.size(); ++bad) {
      const bool mine = world.rank() >= bad;  // All from `bad` on fail: the first one's error counts.
      const absl::Status verdict =
          AgreeOn(world, mine ? absl::NotFoundError(StrCat("file ", world.rank())) : absl::OkStatus());
      EXPECT_EQ(verdict.code(), absl::StatusCode::kNotFound);
      EXPECT_EQ(verdict.message(), StrCat("rank ", bad, ": file ", bad));
    }
  });
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

TEST_P(WorldConformanceTest, AnIdleRankUsesLessThanTwoPercentOfACore) {
  const int ranks_in_process = GetParam().ranks_in_process;
  Run([ranks_in_process](RankUnderTest& rank) {
    World& world = rank.world;
    // The best of three windows: on a busy machine every wake-up costs more. All ranks look at the same number of them.
    double share = 1;
    for (int window = 0; window < 3; ++window) {
      ASSERT_TRUE(AgreeOn(world, absl::OkStatus()).ok());
      const double before = CpuSeconds();
      const auto start = std::chrono::steady_clock::now();
      if (world.rank() == 0) {
        usleep(1'000'000);
        for (int to = 1; to < world.size(); ++to) ASSERT_TRUE(world.Send(to, Channel::kPlan, {}).ok());
      } else {
        ASSERT_TRUE(world.Receive(0, Channel::kPlan).ok());
      }
      const double cpu = CpuSeconds() - before;
      const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      share = std::min(share, cpu / wall / ranks_in_process);
      const bool busy = share >= 0.02;
      auto all = world.AllGather(std::as_bytes(std::span(&busy, 1)));
      ASSERT_TRUE(all.ok()) << all.status();
      if (std::none_of(all->begin(), all->end(), [](const Bytes& b) { return b[0] != std::byte{0}; })) break;
    }
    EXPECT_LT(share, 0.02);
    if (world.rank() == world.size() - 1) {
      std::printf("idle: rank %d of %d used %.2f %% of a core\n", world.rank(), world.size(), 100 * share);
    }
    ASSERT_TRUE(AgreeOn(world, absl::OkStatus()).ok());
  });
}

}  // namespace
}  // namespace shoal
