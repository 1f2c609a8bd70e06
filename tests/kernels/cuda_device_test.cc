// The CUDA back end as a Device, on whatever GPU the test program is linked with: sizes, budget, copies and replays.
#include <functional>
#include <numeric>

#include "gmock/gmock.h"
#include "kernels/cuda/pack.h"
#include "tests/kernels/kernels_testing.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class CudaDeviceTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ReplaceDevice({}); }

  // Skips the test where the GPU is absent.
  void ReplaceDevice(const CudaDeviceOptions& options) {
    auto device = MakeCudaVariant(GetParam(), options);
    if (device.status().code() == absl::StatusCode::kFailedPrecondition) GTEST_SKIP() << device.status().message();
    ASSERT_TRUE(device.ok()) << device.status();
    rig_ = std::make_unique<Rig>(*std::move(device));
  }
  Rig& rig() { return *rig_; }
  Device& device() { return rig_->device(); }

 private:
  std::unique_ptr<Rig> rig_;
};

int64_t Used(const Device& device, MemoryKind kind) { return device.ledger().used[static_cast<size_t>(kind)]; }

TEST_P(CudaDeviceTest, LoadWeightUsesExactlyWeightBytes) {
  Random random(1);
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (bool bias : {false, true}) {
      // Rows around the padding, odd numbers of groups in a row and in the matrix.
      for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 32}, {16, 64}, {17, 160}, {37, 96}, {33, 224}}) {
        const int64_t before = Used(device(), MemoryKind::kWeights);
        const WeightData w = RandomWeight(random, format, rows, cols, 32, bias);
        const Weight loaded = device().LoadWeight(w.host()).value();
        EXPECT_EQ(Used(device(), MemoryKind::kWeights) - before, WeightBytes(format, rows, cols, bias))
            << WeightFormatName(format) << " " << rows << "x" << cols;
        EXPECT_EQ(loaded.rows, rows);
        EXPECT_EQ(loaded.cols, cols);
        EXPECT_EQ(loaded.bias.empty(), !bias);
      }
    }
  }
}

TEST_P(CudaDeviceTest, AMatrixOfManyPiecesIsThatOfItsRows) {
  Random random(3);
  const auto bytes_of = [&](const Tensor& tensor, int64_t bytes) {
    std::vector<uint8_t> out(bytes);
    device().CopyOut(MakeTensor(tensor.data, DType::kU8, {bytes}), out.data());
    EXPECT_TRUE(device().Synchronize().ok());
    return out;
  };
  const auto same = [](const std::vector<uint8_t>& found, const void* expected) {
    return std::memcmp(found.data(), expected, found.size()) == 0;
  };
  // More than a slot of the staging ring; the last piece has an odd number of groups.
  constexpr int64_t kRows = 5001, kCols = 1056, kGroups = kCols / kWeightGroup;
  const WeightData w8 = RandomWeight(random, WeightFormat::kInt8, kRows, kCols, 32, true);
  const Weight loaded8 = device().LoadWeight(w8.host()).value();
  EXPECT_TRUE(same(bytes_of(loaded8.values, kRows * kCols), w8.i8.data()));
  EXPECT_TRUE(same(bytes_of(loaded8.scales, kRows * 4), w8.scales.data()));
  EXPECT_TRUE(same(bytes_of(loaded8.bias, kRows * 4), w8.bias.data()));

  const WeightData w4 = RandomWeight(random, WeightFormat::kInt4, 2 * kRows, kCols, 32, false);
  const Weight loaded4 = device().LoadWeight(w4.host()).value();
  std::vector<uint8_t> values(w4.q4.size()), scales((w4.group_scales.size() + 1) / 2);
  cuda::PackNibbles(w4.q4.data(), static_cast<int64_t>(values.size()), values.data());
  cuda::PackGroupScales(w4.group_scales.data(), 0, 2 * kRows * kGroups, static_cast<int64_t>(scales.size()),
                        scales.data());
  EXPECT_TRUE(same(bytes_of(loaded4.values, static_cast<int64_t>(values.size())), values.data()));
  EXPECT_TRUE(same(bytes_of(loaded4.group_scales, static_cast<int64_t>(scales.size())), scales.data()));
  EXPECT_TRUE(same(bytes_of(loaded4.group_offsets, 2 * kRows * kGroups), w4.group_offsets.data()));
  EXPECT_TRUE(same(bytes_of(loaded4.scales, 2 * kRows * 4), w4.scales.data()));

  const std::vector<float> values32 = random.Normal(kRows * 300);
  const Tensor table =
      device().LoadTensor(MakeTensor(const_cast<float*>(values32.data()), DType::kF32, {kRows, 300})).value();
  EXPECT_TRUE(same(bytes_of(table, table.bytes()), values32.data()));
}

TEST_P(CudaDeviceTest, BudgetIsHardAndTheMessageSaysWhatWasWanted) {
  CudaDeviceOptions options;
  options.workspace_bytes = 4096;
  options.memory_budget = 5096;
  ReplaceDevice(options);
  EXPECT_EQ(Used(device(), MemoryKind::kActivations), 4096);
  auto kept = device().Allocate(MemoryKind::kWeights, 900).value();
  const auto refused = device().Allocate(MemoryKind::kKv, 101);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("101 bytes of kv wanted, 100 left"));
  EXPECT_TRUE(device().Allocate(MemoryKind::kKv, 100).ok());
  Random random(2);
  const WeightData w = RandomWeight(random, WeightFormat::kInt8, 16, 64, 32, false);
  EXPECT_EQ(device().LoadWeight(w.host()).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(device().ledger().total(), 4996);
  kept.reset();
  EXPECT_EQ(device().ledger().total(), 4096);
}

TEST_P(CudaDeviceTest, ImpossibleOptionsAndSizesAreRefused) {
  CudaDeviceOptions options;
  options.memory_budget = 1000;
  options.workspace_bytes = 1001;
  EXPECT_EQ(MakeCudaVariant(GetParam(), options).status().code(), absl::StatusCode::kResourceExhausted);
  options.workspace_bytes = -1;
  EXPECT_EQ(MakeCudaVariant(GetParam(), options).status().code(), absl::StatusCode::kInvalidArgument);
  options = {};
  options.memory_budget = -1;
  EXPECT_EQ(MakeCudaVariant(GetParam(), options).status().code(), absl::StatusCode::kInvalidArgument);
  options = {};
  options.path = "sm20";
  const auto unknown = CreateCudaDevice(options);
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("'sm20' is unknown; use dp4a, sm75, sm80"));
  for (int64_t bytes : {int64_t{1} << 60, INT64_MAX}) {
    EXPECT_EQ(device().Allocate(MemoryKind::kKv, bytes).status().code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_THAT(device().description(), HasSubstr("multiprocessors, " + GetParam().substr(5, 4)));
}

TEST_P(CudaDeviceTest, MemoryIsZeroedAndAligned) {
  for (int64_t bytes : {0, 1, 65, 4096, 5 << 20}) {
    auto buffer = device().Allocate(MemoryKind::kKv, bytes).value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    std::vector<int8_t> values(bytes, 1);
    device().CopyOut(MakeTensor(buffer->data(), DType::kI8, {bytes}), values.data());
    ASSERT_TRUE(device().Synchronize().ok());
    EXPECT_EQ(std::count(values.begin(), values.end(), 0), bytes);
  }
}

TEST_P(CudaDeviceTest, CopiesOfEverySizeArriveOnceSynchronized) {
  // Through page-locked memory up to 64 KiB each and 2 MiB in all, past it beyond.
  std::vector<std::vector<int32_t>> sent, received;
  std::vector<Tensor> tensors;
  for (const int64_t n : {1, 3, 16 << 10, (16 << 10) + 1, 700000, 5}) {
    sent.emplace_back(n);
    std::iota(sent.back().begin(), sent.back().end(), static_cast<int32_t>(n));
  }
  for (int i = 0; i < 40; ++i) sent.emplace_back(16 << 10, i);
  for (const std::vector<int32_t>& values : sent) {
    tensors.push_back(rig().New(DType::kI32, {static_cast<int64_t>(values.size())}));
    received.emplace_back(values.size(), -1);
  }
  for (int round = 0; round < 2; ++round) {  // What was taken is free again.
    for (std::vector<int32_t>& values : sent) ++values[0];
    for (size_t i = 0; i < sent.size(); ++i) device().CopyIn(sent[i].data(), tensors[i]);
    for (size_t i = 0; i < sent.size(); ++i) device().CopyOut(tensors[i], received[i].data());
    ASSERT_TRUE(device().Synchronize().ok());
    for (size_t i = 0; i < sent.size(); ++i) EXPECT_TRUE(SameValues(received[i], sent[i])) << i;
  }
}

// Four slots of 4 MiB: the fifth piece must wait for the first.
TEST_P(CudaDeviceTest, WhatIsLargerThanTheStagingRingArrivesWhole) {
  WeightData w;
  w.format = WeightFormat::kInt4;
  w.rows = 4501;  // An odd number of groups in all, 18 MB.
  w.cols = 255 * 32;
  w.group = 32;
  const int64_t bytes = w.rows * w.cols / 2, groups = w.rows * 255;
  for (int64_t i = 0; i < bytes; ++i) w.q4.push_back(static_cast<uint8_t>(i * 2654435761u >> 24));
  for (int64_t i = 0; i < groups; ++i) w.group_scales.push_back(static_cast<uint8_t>(1 + (i * 40503u >> 8) % 16));
  for (int64_t i = 0; i < groups; ++i) w.group_offsets.push_back(static_cast<int8_t>(-(i % 113)));
  w.scales.assign(w.rows, 0.5f);
  const Weight loaded = device().LoadWeight(w.host()).value();
  const std::vector<uint8_t> values = rig().Out<uint8_t>(loaded.values);
  const auto nibble = [&](int64_t i) { return w.q4[i / 2] >> i % 2 * 4 & 15; };
  for (int64_t i = 0; i < bytes; ++i) {  // The layout of kernels/cuda/linear_weights.cuh.
    const int64_t first = i / 4 * 8 + i % 4;
    ASSERT_EQ(values[i], nibble(first) | nibble(first + 4) << 4) << i;
  }
  const std::vector<uint8_t> scales = rig().Out<uint8_t>(loaded.group_scales);
  for (int64_t i = 0; i < groups; ++i) ASSERT_EQ((scales[i / 2] >> i % 2 * 4 & 15) + 1, w.group_scales[i]) << i;
  std::vector<int8_t> offsets = rig().Out<int8_t>(loaded.group_offsets);
  offsets.resize(groups);
  EXPECT_TRUE(SameValues(offsets, w.group_offsets));

  std::vector<float> table(4500000);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i);
  const Tensor host = MakeTensor(table.data(), DType::kF32, {4500, 1000});
  EXPECT_TRUE(SameValues(rig().Out<float>(device().LoadTensor(host).value()), table));
}

// A step for Replay: out = residual + delta, in place.
class Counter {
 public:
  explicit Counter(Rig& rig)
      : rig_(rig), total_(rig.Floats({0, 10}, {1, 2})), step_(rig.In<double>({1, 2}, DType::kF64, {1, 2})) {}

  absl::Status Add() {
    ++calls;
    rig_.ops().AddResidual(step_, total_);
    return absl::OkStatus();
  }
  absl::Status AddThenFail() {
    (void)Add();
    return absl::InternalError("no more");
  }
  void SetStep(double a, double b) {
    const std::vector<double> step = {a, b};
    rig_.device().CopyIn(step.data(), step_);
    SHOAL_CHECK(rig_.device().Synchronize().ok());
  }
  std::vector<float> total() { return rig_.Out<float>(total_); }

  int calls = 0;

 private:
  Rig& rig_;
  Tensor total_, step_;
};

TEST_P(CudaDeviceTest, ReplayRecordsOnceAndThenReadsWhatIsInMemory) {
  Counter counter(rig());
  const auto add = [&] { return counter.Add(); };
  ASSERT_TRUE(device().Replay(7, add).ok());
  EXPECT_THAT(counter.total(), ElementsAre(1, 12));
  counter.SetStep(100, 0);
  ASSERT_TRUE(device().Replay(7, add).ok());
  ASSERT_TRUE(device().Replay(7, add).ok());
  EXPECT_THAT(counter.total(), ElementsAre(201, 12));
  EXPECT_EQ(counter.calls, 1);
  ASSERT_TRUE(device().Replay(8, add).ok());  // Another key is another record.
  EXPECT_THAT(counter.total(), ElementsAre(301, 12));
  EXPECT_EQ(counter.calls, 2);
}

TEST_P(CudaDeviceTest, ReplayWithoutGraphsRunsTheWorkEveryTime) {
  CudaDeviceOptions options;
  options.graphs = false;
  ReplaceDevice(options);
  Counter counter(rig());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(device().Replay(7, [&] { return counter.Add(); }).ok());
  EXPECT_THAT(counter.total(), ElementsAre(3, 16));
  EXPECT_EQ(counter.calls, 3);
}

TEST_P(CudaDeviceTest, WorkThatFailsIsNeitherKeptNorRunAndLeavesTheQueueOpen) {
  Counter counter(rig());
  EXPECT_EQ(device().Replay(7, [&] { return counter.AddThenFail(); }).message(), "no more");
  EXPECT_THAT(counter.total(), ElementsAre(0, 10));
  ASSERT_TRUE(counter.Add().ok());  // Runs, and is not recorded.
  EXPECT_THAT(counter.total(), ElementsAre(1, 12));
  ASSERT_TRUE(device().Replay(7, [&] { return counter.Add(); }).ok());
  ASSERT_TRUE(device().Replay(7, [&] { return counter.Add(); }).ok());
  EXPECT_THAT(counter.total(), ElementsAre(3, 16));
  EXPECT_EQ(counter.calls, 3);
}

INSTANTIATE_TEST_SUITE_P(All, CudaDeviceTest, testing::ValuesIn(WithoutPaths(CudaVariants())), TestName);

}  // namespace
}  // namespace shoal
