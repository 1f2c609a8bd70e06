// What only communicators of devices can do. Ranks are threads with an emulated GPU each.
#include "parallel/shared_communicator.h"

#include <dirent.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/ops.h"
#include "parallel/thread_world.h"
#include "tests/parallel/device_communicators.h"

namespace shoal {
namespace {

using testing::HasSubstr;

struct Rank {
  World& world;
  Device& device;
  std::unique_ptr<Communicator> communicator;
};

// All ranks in one group. `body` must not leave other ranks waiting when it fails: they have options.seconds.
absl::Status RunLinked(int ranks, const SharedCommunicatorOptions& options,
                       const std::function<absl::Status(Rank&)>& body) {
  return RunRanks(ranks, [&](ThreadRank& thread) -> absl::Status {
    const std::unique_ptr<Device> device = EmulatedDevice();
    std::vector<int> all(thread.size());
    std::iota(all.begin(), all.end(), 0);
    ASSIGN_OR_RETURN(auto communicator, CreateSharedCommunicator(thread.world(), *device, all, options));
    Rank rank{thread.world(), *device, std::move(communicator)};
    return body(rank);
  });
}

Tensor Doubles(std::vector<double>& v) {
  return MakeTensor(v.data(), DType::kF64, {1, static_cast<int64_t>(v.size())});
}

std::vector<std::string> LeftOver() {
  std::vector<std::string> names;
  DIR* const folder = opendir("/dev/shm");
  const std::string mine = StrCat("shoal-", getpid(), "-");
  while (const dirent* entry = readdir(folder)) {
    if (std::string(entry->d_name).starts_with(mine)) names.push_back(entry->d_name);
  }
  closedir(folder);
  return names;
}

TEST(SharedCommunicatorTest, AReplayedSumAddsUpAnew) {
  SharedCommunicatorOptions options;
  options.first_epoch = 0xffffffff - 3;  // And over the wrap-around.
  const absl::Status status = RunLinked(3, options, [](Rank& rank) -> absl::Status {
    EXPECT_TRUE(rank.communicator->SumOnlyQueues(300 * 8));
    std::vector<double> x(300), y(20);
    for (int step = 0; step < 10; ++step) {
      for (size_t i = 0; i < x.size(); ++i) x[i] = step + static_cast<double>(i) * rank.world.rank();
      y.assign(y.size(), step);
      RETURN_IF_ERROR(rank.device.Replay(7, [&]() -> absl::Status {
        RETURN_IF_ERROR(rank.communicator->AllReduceSum(Doubles(x)));
        return rank.communicator->AllReduceSum(Doubles(y));
      }));
      RETURN_IF_ERROR(rank.device.Synchronize());
      for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(x[i], 3 * step + 3 * static_cast<double>(i));
      for (const double v : y) EXPECT_EQ(v, 3 * step);
      // Replayed and direct calls take turns.
      std::vector<double> z(1, 1.0);
      RETURN_IF_ERROR(rank.communicator->AllReduceSum(Doubles(z)));
      EXPECT_EQ(z[0], 3);
    }
    EXPECT_GT(rank.communicator->exchange_ns(), 0);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SharedCommunicatorTest, TensorsKeepTheirOrderWhenPieceNumbersWrap) {
  SharedCommunicatorOptions options;
  options.put_bytes = 256;  // The larger ones need many pieces, more than there are slots.
  options.first_epoch = 0xffffffff - 20;
  const absl::Status status = RunLinked(2, options, [](Rank& rank) -> absl::Status {
    for (int i = 0; i < 60; ++i) {
      const auto bytes = static_cast<int64_t>(i % 5 == 4 ? 4000 + i : i * 7 % 300);
      std::vector<uint8_t> expected(bytes), x(bytes);
      std::minstd_rand random(i);
      for (uint8_t& b : expected) b = static_cast<uint8_t>(random());
      if (rank.world.rank() == 0) x = expected;
      const Tensor tensor = MakeTensor(x.data(), DType::kU8, {1, bytes});
      RETURN_IF_ERROR(rank.world.rank() == 0 ? rank.communicator->Send(tensor, 1)
                                             : rank.communicator->Receive(tensor, 0));
      EXPECT_EQ(x, expected);
    }
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SharedCommunicatorTest, ALateRankIsWaitedFor) {
  const absl::Status status = RunLinked(3, {}, [](Rank& rank) -> absl::Status {
    if (rank.world.rank() == 1) usleep(300'000);
    std::vector<double> x(500, 1.0);
    RETURN_IF_ERROR(rank.communicator->AllReduceSum(Doubles(x)));
    EXPECT_THAT(x, testing::Each(3.0));
    if (rank.world.rank() != 1) {
      EXPECT_GT(rank.communicator->exchange_ns(), 200'000'000);
    }
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SharedCommunicatorTest, ARankThatIsGoneIsAnErrorAtTheCallAndAtSynchronize) {
  SharedCommunicatorOptions options;
  options.seconds = 0.2;
  const absl::Status status = RunLinked(3, options, [](Rank& rank) -> absl::Status {
    std::vector<double> x(50, 1.0);
    RETURN_IF_ERROR(rank.communicator->AllReduceSum(Doubles(x)));
    if (rank.world.rank() == 2) return absl::OkStatus();
    const auto start = std::chrono::steady_clock::now();
    const absl::Status gone = rank.communicator->AllReduceSum(Doubles(x));
    EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(gone.message(), HasSubstr("rank 2 of the group does not answer"));
    EXPECT_EQ(rank.device.Synchronize(), gone);
    EXPECT_EQ(rank.communicator->Send(Doubles(x), 1 - rank.world.rank()), gone);
    EXPECT_EQ(rank.communicator->Receive(Doubles(x), 2), gone);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
    rank.communicator.reset();
    EXPECT_TRUE(rank.device.Synchronize().ok()) << "the device outlives a broken link";
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SharedCommunicatorTest, AReceiverOrSenderThatIsGoneIsNamed) {
  SharedCommunicatorOptions options;
  options.seconds = 0.2;
  const absl::Status status = RunLinked(3, options, [](Rank& rank) -> absl::Status {
    std::vector<double> x(50, 1.0);
    absl::Status gone;
    if (rank.world.rank() == 0) {
      for (int i = 0; i < kSendsInFlight; ++i) RETURN_IF_ERROR(rank.communicator->Send(Doubles(x), 2));
      gone = rank.communicator->Send(Doubles(x), 2);
    } else if (rank.world.rank() == 1) {
      gone = rank.communicator->Receive(Doubles(x), 2);
    } else {
      return absl::OkStatus();
    }
    EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(gone.message(), HasSubstr("rank 2 of the group does not answer: a tensor"));
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// The fused op and the two that it stands for, on the same numbers.
absl::Status CompareFused(Rank& rank, int64_t rows, int64_t cols, int64_t group, bool dense) {
  std::mt19937 random(static_cast<uint32_t>(rows * cols + rank.world.rank()));
  std::normal_distribution<double> normal;
  std::vector<double> delta(rows * cols);
  for (double& v : delta) v = std::nearbyint(normal(random) * 0x1p30) * 0x1p-30;
  std::mt19937 shared(5);
  std::vector<float> residual(rows * cols), gain(cols);
  for (float& v : residual) v = static_cast<float>(normal(shared));
  for (float& v : gain) v = static_cast<float>(normal(shared));

  struct Result {
    std::vector<float> residual, dense, scale;
    std::vector<int8_t> q;
    std::vector<int32_t> sum;
    bool operator==(const Result&) const = default;
  } results[2];
  for (int fused = 0; fused < 2; ++fused) {
    Result& r = results[fused];
    r.residual = residual;
    r.dense.resize(dense ? rows * cols : 0);
    Activation out;
    if (dense) out.dense = MakeTensor(r.dense.data(), DType::kF32, {rows, cols});
    if (group > 0) {
      r.q.resize(rows * cols), r.scale.resize(rows * cols / group), r.sum.resize(rows * cols / kWeightGroup);
      out.q = MakeTensor(r.q.data(), DType::kI8, {rows, cols});
      out.scale = MakeTensor(r.scale.data(), DType::kF32, {rows, cols / group});
      out.sum = MakeTensor(r.sum.data(), DType::kI32, {rows, cols / kWeightGroup});
      out.group = group;
    }
    std::vector<double> d = delta;
    const Tensor x = MakeTensor(d.data(), DType::kF64, {rows, cols});
    const Tensor g = MakeTensor(gain.data(), DType::kF32, {cols});
    const Tensor stream = MakeTensor(r.residual.data(), DType::kF32, {rows, cols});
    if (fused == 1) {
      ASSIGN_OR_RETURN(const bool done, rank.communicator->AllReduceAddRmsNorm(x, g, 1e-6f, stream, out));
      EXPECT_TRUE(done);
    } else {
      RETURN_IF_ERROR(rank.communicator->AllReduceSum(x));
      rank.device.ops().AddRmsNorm(x, g, 1e-6f, stream, out);
    }
    RETURN_IF_ERROR(rank.device.Synchronize());
  }
  EXPECT_TRUE(results[0] == results[1]) << rows << " rows of " << cols << ", group " << group;
  return absl::OkStatus();
}

TEST(SharedCommunicatorTest, TheFusedSumAndNormHaveTheBitsOfTheTwoOps) {
  const absl::Status status = RunLinked(3, {}, [](Rank& rank) -> absl::Status {
    RETURN_IF_ERROR(CompareFused(rank, 1, 896, 128, false));
    RETURN_IF_ERROR(CompareFused(rank, 3, 256, 64, true));
    RETURN_IF_ERROR(CompareFused(rank, 20, 320, 0, true));  // More rows than blocks.
    std::vector<double> delta(20'000);                      // More than an exchange carries.
    std::vector<float> residual(20'000), gain(20'000), dense(20'000);
    Activation out;
    out.dense = MakeTensor(dense.data(), DType::kF32, {1, 20'000});
    ASSIGN_OR_RETURN(const bool done, rank.communicator->AllReduceAddRmsNorm(
                                          Doubles(delta), MakeTensor(gain.data(), DType::kF32, {20'000}), 1e-6f,
                                          MakeTensor(residual.data(), DType::kF32, {1, 20'000}), out));
    EXPECT_FALSE(done);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SharedCommunicatorTest, LeavesNoFilesBehind) {
  const absl::Status status = RunLinked(2, {}, [](Rank& rank) -> absl::Status {
    RETURN_IF_ERROR(AgreeOn(rank.world, absl::OkStatus()));
    EXPECT_THAT(LeftOver(), testing::IsEmpty()) << "while they are used";
    return AgreeOn(rank.world, absl::OkStatus());
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SharedCommunicatorTest, OneGroupFailsWithoutTheOther) {
  const absl::Status status = RunRanks(4, [](ThreadRank& thread) -> absl::Status {
    // Ranks 2 and 3 have a CPU, which has no kernels for this.
    const bool gpu = thread.rank() < 2;
    std::unique_ptr<Device> device = gpu ? EmulatedDevice() : CreateReferenceDevice();
    const std::vector<int> group = gpu ? std::vector<int>{1, 0} : std::vector<int>{2, 3};
    for (const auto mailboxes :
         {SharedCommunicatorOptions::Mailboxes::kHost, SharedCommunicatorOptions::Mailboxes::kPeer}) {
      SharedCommunicatorOptions options;
      options.mailboxes = mailboxes;
      auto communicator = CreateSharedCommunicator(thread.world(), *device, group, options);
      EXPECT_EQ(communicator.ok(), gpu) << communicator.status();
      if (!gpu) {
        EXPECT_EQ(communicator.status().code(), absl::StatusCode::kUnimplemented);
        EXPECT_THAT(communicator.status().message(), HasSubstr("rank 2: kernels of this device"));
        continue;
      }
      std::vector<double> x(3, 1.0);
      RETURN_IF_ERROR((*communicator)->AllReduceSum(Doubles(x)));
      EXPECT_EQ(x[2], 2.0);
    }
    EXPECT_THAT(LeftOver(), testing::IsEmpty());
    return AgreeOn(thread.world(), absl::OkStatus());
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SharedCommunicatorTest, OptionsOutOfRangeAreRefused) {
  SharedCommunicatorOptions options;
  options.sum_elements = -1;
  EXPECT_EQ(RunLinked(2, options, [](Rank&) { return absl::OkStatus(); }).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal
