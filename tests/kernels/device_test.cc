// Memory accounting, options and layout sizes of the host devices, and the number helpers.
#include "gmock/gmock.h"
#include "tests/kernels/kernels_testing.h"

namespace shoal {
namespace {

using testing::HasSubstr;

TEST(CpuDeviceTest, LedgerCountsByKindAndForgetsFreedBuffers) {
  CpuDeviceOptions options;
  options.threads = 1;
  options.memory_budget = 10 << 20;
  auto device = CreateCpuDevice(options).value();
  auto kv = device->Allocate(MemoryKind::kKv, 3 << 20).value();
  {
    auto scratch = device->Allocate(MemoryKind::kActivations, 100).value();
    EXPECT_EQ(device->ledger().used[static_cast<int>(MemoryKind::kKv)], 3 << 20);
    EXPECT_EQ(device->ledger().total(), (3 << 20) + 100);
  }
  EXPECT_EQ(device->ledger().total(), 3 << 20);
  EXPECT_EQ(device->ledger().budget, 10 << 20);
  kv.reset();
  EXPECT_EQ(device->ledger().total(), 0);
}

TEST(CpuDeviceTest, BudgetIsHardAndTheMessageSaysWhatWasWanted) {
  CpuDeviceOptions options;
  options.threads = 1;
  options.memory_budget = 1000;
  auto device = CreateCpuDevice(options).value();
  auto kept = device->Allocate(MemoryKind::kWeights, 900).value();
  const auto refused = device->Allocate(MemoryKind::kKv, 101);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("101 bytes of kv wanted, 100 left"));
  EXPECT_TRUE(device->Allocate(MemoryKind::kKv, 100).ok());
  Random random(1);
  const WeightData w = RandomWeight(random, WeightFormat::kInt8, 16, 64, 32, false);
  EXPECT_EQ(device->LoadWeight(w.host()).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(device->ledger().total(), 900);
}

TEST(CpuDeviceTest, MemoryIsZeroedAndAligned) {
  auto device = CreateCpuDevice({}).value();
  for (int64_t bytes : {0, 1, 65, 4096, 3 << 20}) {
    auto buffer = device->Allocate(MemoryKind::kKv, bytes).value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    for (int64_t i = 0; i < bytes; i += 61) ASSERT_EQ(buffer->data()[i], std::byte{0});
  }
}

TEST(CpuDeviceTest, ImpossibleSizesAreRefusedNotCrashed) {
  auto device = CreateCpuDevice({}).value();
  for (int64_t bytes : {int64_t{1} << 60, INT64_MAX}) {
    EXPECT_EQ(device->Allocate(MemoryKind::kKv, bytes).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST(CpuDeviceTest, LoadWeightUsesExactlyWeightBytes) {
  Random random(2);
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (bool bias : {false, true}) {
      for (const auto& make :
           {+[] { return MakeImplementation("portable"); }, +[] { return MakeImplementation("reference"); }}) {
        auto device = make().value();
        const WeightData w = RandomWeight(random, format, 37, 96, 32, bias);
        const Weight loaded = device->LoadWeight(w.host()).value();
        EXPECT_EQ(device->ledger().used[static_cast<int>(MemoryKind::kWeights)], WeightBytes(format, 37, 96, bias));
        EXPECT_EQ(loaded.rows, 37);
        EXPECT_EQ(loaded.group, 32);
      }
    }
  }
}

TEST(CpuDeviceTest, UnknownIsaIsAnInvalidArgumentThatListsTheChoices) {
  CpuDeviceOptions options;
  options.isa = "sse9";
  const auto device = CreateCpuDevice(options);
  EXPECT_EQ(device.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(device.status().message()), HasSubstr("'sse9' is unknown; use portable"));
}

TEST(CpuDeviceTest, DescriptionNamesThreadsAndKernels) {
  CpuDeviceOptions options;
  options.threads = 2;
  options.isa = "portable";
  EXPECT_EQ(CreateCpuDevice(options).value()->description(), "cpu, 2 threads, portable");
}

TEST(CpuDeviceDeathTest, AWrongShapeIsABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        Rig rig(MakeImplementation("portable", 1).value());
        const Activation out = rig.NewActivation(2, 64, 0);
        rig.ops().RmsNorm(rig.New(DType::kF32, {2, 32}), rig.New(DType::kF32, {32}), 1e-6f, out);
      },
      "CHECK failed: .* with 64 vs 32");
}

TEST(WeightTest, ActivationGroupIsTheLargestPowerOfTwoThatDividesColumnsAndCut) {
  EXPECT_EQ(ActivationGroup(1536, 1536), 256);
  EXPECT_EQ(ActivationGroup(384, 32), 32);
  EXPECT_EQ(ActivationGroup(384, 384), 128);
  EXPECT_EQ(ActivationGroup(640, 640), 128);
  EXPECT_EQ(ActivationGroup(172, 172), 4);
  EXPECT_EQ(ActivationGroup(8960, 256), 256);
}

TEST(WeightTest, Int4TakesFourAndThreeEighthsBitsPerWeight) {
  EXPECT_EQ(WeightBytes(WeightFormat::kInt4, 1024, 1024, false), 1024 * 1024 * 35 / 64 + 1024 * 4);
  EXPECT_EQ(WeightBytes(WeightFormat::kInt8, 17, 64, true), 32 * 64 + 2 * 32 * 4);
}

TEST(WeightTest, RoundToQuantumIsExactOnTheGridAndTiesToEven) {
  EXPECT_EQ(RoundToQuantum(3 * kExactQuantum), 3 * kExactQuantum);
  EXPECT_EQ(RoundToQuantum(1.5 * kExactQuantum), 2 * kExactQuantum);
  EXPECT_EQ(RoundToQuantum(2.5 * kExactQuantum), 2 * kExactQuantum);
  EXPECT_EQ(RoundToQuantum(-1000000.25), -1000000.25);
}

TEST(HalfTest, EveryHalfSurvivesARoundTrip) {
  for (int bits = 0; bits < 65536; ++bits) {
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    const uint16_t back = FloatToHalf(value);
    if (std::isnan(value)) {
      EXPECT_EQ(back & 0x7e00, 0x7e00);
    } else {
      ASSERT_EQ(back, bits);
    }
  }
}

TEST(HalfTest, RoundsToNearestEven) {
  EXPECT_EQ(HalfToFloat(FloatToHalf(2049.0f)), 2048.0f);
  EXPECT_EQ(HalfToFloat(FloatToHalf(2051.0f)), 2052.0f);
  EXPECT_EQ(HalfToFloat(FloatToHalf(65519.0f)), 65504.0f);
  EXPECT_TRUE(std::isinf(HalfToFloat(FloatToHalf(65520.0f))));
  EXPECT_EQ(HalfToFloat(FloatToHalf(0x1p-25f)), 0.0f);
  EXPECT_EQ(HalfToFloat(FloatToHalf(0x1.8p-25f)), 0x1p-24f);
  EXPECT_EQ(Bf16ToFloat(FloatToBf16(1.00390625f)), 1.0f);
  EXPECT_EQ(Bf16ToFloat(FloatToBf16(1.01171875f)), 1.015625f);
}

}  // namespace
}  // namespace shoal
