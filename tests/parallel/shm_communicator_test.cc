// What the conformance suite does not ask of communicators in shared memory. Ranks are threads over memory of the
// process, so that the thread sanitizer sees what they share.
#include "parallel/shm_communicator.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "base/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/ops.h"
#include "parallel/shared_segment.h"
#include "parallel/thread_world.h"
#include "tests/parallel/device_communicators.h"

namespace shoal {
namespace {

using testing::HasSubstr;

struct Rank {
  int rank;
  Device& device;
  std::unique_ptr<Communicator> communicator;
};

// Runs `body` on all ranks of one group.
void RunShm(int ranks, const ShmOptions& options, const std::function<void(Rank&)>& body) {
  const auto bytes = static_cast<size_t>(ShmBytes(ranks, options));
  std::vector<std::byte> memory(bytes + kShmAlignment);
  std::byte* const aligned =
      memory.data() + (kShmAlignment - reinterpret_cast<uintptr_t>(memory.data()) % kShmAlignment);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      const auto device = CreateCpuDevice({.threads = 1, .memory_budget = 0, .isa = ""});
      ASSERT_TRUE(device.ok()) << device.status();
      Rank rank{r, **device, MakeShmCommunicator({aligned, bytes}, **device, r, ranks, options)};
      body(rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

ShmOptions Options(int64_t sum_bytes, int64_t tensor_bytes = 0, std::vector<std::pair<int, int>> hops = {}) {
  ShmOptions options;
  options.sum_bytes = sum_bytes;
  options.tensor_bytes = tensor_bytes;
  options.hops = std::move(hops);
  return options;
}

Tensor Doubles(std::vector<double>& v) {
  return MakeTensor(v.data(), DType::kF64, {1, static_cast<int64_t>(v.size())});
}

// A partial result of LinearPartial.
double Quantum(std::mt19937_64& random) {
  return std::nearbyint(std::normal_distribution<double>()(random) * 0x1p30) * 0x1p-30;
}

// Numbers, residual and outputs of one sum with its norm.
struct Rows {
  Rows(int64_t rows, int64_t cols, int64_t group, bool dense, uint64_t seed, int rank) : rows(rows), cols(cols) {
    std::mt19937_64 mine(seed * 64 + static_cast<uint64_t>(rank)), shared(seed);
    delta.resize(rows * cols), residual.resize(rows * cols), gain.resize(cols);
    for (double& v : delta) v = Quantum(mine);
    for (float& v : residual) v = static_cast<float>(Quantum(shared));
    for (float& v : gain) v = static_cast<float>(Quantum(shared));
    this->dense.resize(dense ? rows * cols : 0);
    if (dense) out.dense = MakeTensor(this->dense.data(), DType::kF32, {rows, cols});
    if (group == 0) return;
    q.resize(rows * cols), scale.resize(rows * cols / group), sum.resize(rows * cols / kWeightGroup);
    out.q = MakeTensor(q.data(), DType::kI8, {rows, cols});
    out.scale = MakeTensor(scale.data(), DType::kF32, {rows, cols / group});
    out.sum = MakeTensor(sum.data(), DType::kI32, {rows, cols / kWeightGroup});
    out.group = group;
  }
  Rows(const Rows&) = delete;
  Tensor Delta() { return MakeTensor(delta.data(), DType::kF64, {rows, cols}); }
  Tensor Gain() { return MakeTensor(gain.data(), DType::kF32, {cols}); }
  Tensor Residual() { return MakeTensor(residual.data(), DType::kF32, {rows, cols}); }
  void ExpectEq(const Rows& other) const {
    EXPECT_EQ(residual, other.residual);
    EXPECT_EQ(dense, other.dense);
    EXPECT_EQ(q, other.q);
    EXPECT_EQ(scale, other.scale);
    EXPECT_EQ(sum, other.sum);
  }

  int64_t rows, cols;
  std::vector<double> delta;
  std::vector<float> residual, gain, dense, scale;
  std::vector<int8_t> q;
  std::vector<int32_t> sum;
  Activation out;
};

TEST(ShmCommunicatorTest, TheFusedSumAndNormHaveTheBitsOfTheTwoOps) {
  ShmOptions options;
  options.sum_bytes = 300 * 320 * 8;  // A slot carries some of it only.
  for (const int ranks : {2, 3, 4}) {
    RunShm(ranks, options, [&](Rank& rank) {
      for (const auto& [rows, cols, group, dense] : {std::tuple(int64_t{300}, int64_t{320}, int64_t{64}, false),
                                                     {37, 896, 128, true},
                                                     {17, 1536, 0, true},
                                                     {5, 1536, 256, false},
                                                     {301, 256, 32, true}}) {
        const uint64_t seed = static_cast<uint64_t>(rows * cols);
        Rows fused(rows, cols, group, dense, seed, rank.rank), two(rows, cols, group, dense, seed, rank.rank);
        const auto done =
            rank.communicator->AllReduceAddRmsNorm(fused.Delta(), fused.Gain(), 1e-6f, fused.Residual(), fused.out);
        ASSERT_TRUE(done.ok()) << done.status();
        EXPECT_TRUE(*done);
        ASSERT_TRUE(rank.communicator->AllReduceSum(two.Delta()).ok());
        rank.device.ops().AddRmsNorm(two.Delta(), two.Gain(), 1e-6f, two.Residual(), two.out);
        fused.ExpectEq(two);
      }
      // Small sums are added up everywhere, and the norm is the caller's.
      Rows few(2, 320, 0, true, 1, rank.rank);
      const auto done = rank.communicator->AllReduceAddRmsNorm(few.Delta(), few.Gain(), 1e-6f, few.Residual(), few.out);
      ASSERT_TRUE(done.ok()) << done.status();
      EXPECT_FALSE(*done);
    });
  }
}

// Sums of all lengths and kinds, and tensors around the ring, with ranks that are late at random.
TEST(ShmCommunicatorTest, ManyExchangesOfAllKindsWithRandomDelays) {
  for (const int ranks : {2, 3, 4}) {
    ShmOptions options;
    options.sum_bytes = 40'000;
    options.tensor_bytes = 70'000;
    for (int r = 0; r < ranks; ++r) options.hops.emplace_back(r, (r + 1) % ranks);
    RunShm(ranks, options, [&](Rank& rank) {
      std::mt19937 same(7), mine(static_cast<uint32_t>(rank.rank));
      std::vector<double> x;
      for (int i = 0; i < 400; ++i) {
        const uint32_t n = same() % (i % 10 == 0 ? 100'000 : 3000);
        if (const uint32_t late = mine() % 64; late < 4) usleep(late * 100);
        const bool sum = same() % 2 == 0;
        x.resize(n);
        const int before = (rank.rank + ranks - 1) % ranks;
        for (uint32_t j = 0; j < n; ++j) x[j] = rank.rank + 1 + 1000.0 * i + j;
        if (sum) {
          ASSERT_TRUE(rank.communicator->AllReduceSum(Doubles(x)).ok());
          for (uint32_t j = 0; j < n; ++j) ASSERT_EQ(x[j], ranks * (ranks + 1) / 2 + ranks * (1000.0 * i + j));
        } else {
          // Long tensors find room only when they are read, so somebody has to begin with that.
          std::vector<double> y(n);
          if (rank.rank == 0) {
            ASSERT_TRUE(rank.communicator->Receive(Doubles(y), before).ok());
          }
          ASSERT_TRUE(rank.communicator->Send(Doubles(x), (rank.rank + 1) % ranks).ok());
          if (rank.rank != 0) {
            ASSERT_TRUE(rank.communicator->Receive(Doubles(y), before).ok());
          }
          x = y;
          for (uint32_t j = 0; j < n; ++j) ASSERT_EQ(x[j], before + 1 + 1000.0 * i + j);
        }
      }
      EXPECT_GT(rank.communicator->exchange_ns(), 0);
    });
  }
}

TEST(ShmCommunicatorTest, SumsOfFewerNumbersThanRanksAndOfNone) {
  ShmOptions options;
  options.sum_bytes = 64;
  RunShm(4, options, [](Rank& rank) {
    for (const size_t n : {1, 0, 3, 8, 9, 5000}) {  // The last two take several exchanges.
      std::vector<double> x(n, rank.rank + 1.0);
      ASSERT_TRUE(rank.communicator->AllReduceSum(Doubles(x)).ok());
      EXPECT_THAT(x, testing::Each(10.0));
    }
  });
}

TEST(ShmCommunicatorTest, WhatIsNotANumberHasTheSameBitsOnAllRanks) {
  ShmOptions options;
  options.sum_bytes = 100'000;
  std::vector<std::vector<double>> seen(3);
  RunShm(3, options, [&](Rank& rank) {
    for (const size_t n : {100, 10'000}) {  // Added up everywhere, and in shares.
      std::vector<double> x(n);
      const uint64_t nan = 0x7ff8000000000000u + static_cast<uint64_t>(rank.rank) + 1;
      for (size_t i = 0; i < n; ++i) {
        if (i % 3 != static_cast<size_t>(rank.rank)) std::memcpy(&x[i], &nan, sizeof(nan));
      }
      ASSERT_TRUE(rank.communicator->AllReduceSum(Doubles(x)).ok());
      seen[rank.rank].insert(seen[rank.rank].end(), x.begin(), x.end());
    }
  });
  for (const auto& x : seen) {
    EXPECT_TRUE(std::isnan(x[0]));
    EXPECT_EQ(std::memcmp(x.data(), seen[0].data(), x.size() * sizeof(double)), 0);
  }
}

TEST(ShmCommunicatorTest, ALateRankIsWaitedForAndOtherWorkGoesOn) {
  std::atomic<int> looks{0};
  ShmOptions options;
  options.sum_bytes = 4000;
  options.meanwhile = [&] { ++looks; };
  RunShm(3, options, [](Rank& rank) {
    if (rank.rank == 1) usleep(200'000);
    std::vector<double> x(500, 1.0);
    ASSERT_TRUE(rank.communicator->AllReduceSum(Doubles(x)).ok());
    EXPECT_THAT(x, testing::Each(3.0));
    if (rank.rank != 1) {
      EXPECT_GT(rank.communicator->exchange_ns(), 100'000'000);
    }
  });
  EXPECT_GT(looks, 10);
}

TEST(ShmCommunicatorTest, ARankThatIsGoneIsNamedAndNobodyWaitsForItAgain) {
  ShmOptions options;
  options.sum_bytes = 400;
  options.tensor_bytes = 400;
  options.hops = {{0, 1}, {1, 0}, {2, 0}};
  options.seconds = 0.2;
  RunShm(3, options, [](Rank& rank) {
    std::vector<double> x(50, 1.0);
    ASSERT_TRUE(rank.communicator->AllReduceSum(Doubles(x)).ok());
    if (rank.rank == 2) return;
    const auto start = std::chrono::steady_clock::now();
    const absl::Status gone = rank.communicator->AllReduceSum(Doubles(x));
    EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(gone.message(), HasSubstr("rank 2 of the group does not answer: a sum, 0.2 seconds"));
    EXPECT_EQ(rank.communicator->Send(Doubles(x), 1 - rank.rank), gone);
    EXPECT_EQ(rank.communicator->Receive(Doubles(x), 1 - rank.rank), gone);
    EXPECT_EQ(rank.communicator->AllReduceSum(Doubles(x)), gone);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  });
}

TEST(ShmCommunicatorTest, ASenderOrReceiverThatIsGoneIsNamed) {
  ShmOptions options;
  options.tensor_bytes = 400;
  options.hops = {{0, 2}, {2, 1}};
  options.seconds = 0.2;
  RunShm(3, options, [](Rank& rank) {
    std::vector<double> x(50, 1.0);
    absl::Status gone;
    if (rank.rank == 0) {
      for (int i = 0; i < kSendsInFlight; ++i) ASSERT_TRUE(rank.communicator->Send(Doubles(x), 2).ok());
      gone = rank.communicator->Send(Doubles(x), 2);
    } else if (rank.rank == 1) {
      gone = rank.communicator->Receive(Doubles(x), 2);
    } else {
      return;
    }
    EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(gone.message(), HasSubstr("rank 2 of the group does not answer: a tensor"));
  });
}

TEST(ShmCommunicatorTest, RanksThatAddUpDifferentLengthsAreOutOfStep) {
  ShmOptions options;
  options.sum_bytes = 800;
  RunShm(2, options, [](Rank& rank) {
    std::vector<double> x(100 - static_cast<size_t>(rank.rank));
    const absl::Status status = rank.communicator->AllReduceSum(Doubles(x));
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(status.message(), HasSubstr("out of step"));
  });
}

TEST(ShmCommunicatorTest, OptionsOutOfRangeAreRefusedByTheGroupThatHasThem) {
  const absl::Status status = RunRanks(4, [](ThreadRank& thread) -> absl::Status {
    const auto device = CreateReferenceDevice();
    const bool good = thread.rank() < 2;
    const std::vector<int> group = good ? std::vector<int>{1, 0} : std::vector<int>{2, 3};
    for (const auto& [options, code] :
         {std::pair(Options(-1), absl::StatusCode::kInvalidArgument),
          {Options(0, 1, {{0, 2}}), absl::StatusCode::kInvalidArgument},
          {Options(0, int64_t{1} << 30, {{0, 1}, {1, 0}, {0, 1}}), absl::StatusCode::kResourceExhausted}}) {
      auto communicator = CreateShmCommunicator(thread.world(), *device, group, good ? Options(64) : options);
      EXPECT_EQ(communicator.status().code(), good ? absl::StatusCode::kOk : code) << communicator.status();
      if (!good) continue;
      std::vector<double> x(3, 1.0);
      RETURN_IF_ERROR((*communicator)->AllReduceSum(Doubles(x)));
      EXPECT_EQ(x[2], 2.0);
    }
    return AgreeOn(thread.world(), absl::OkStatus());
  });
  EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace shoal
