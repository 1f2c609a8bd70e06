#include "kernels/machine_rates.h"

#include <algorithm>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

MachineRatesOptions Quick(const std::string& isa = "") {
  return {.threads = 1, .isa = isa, .bytes = 16 << 20, .rounds = 3, .int8_seconds = 0.005};
}

class MachineRatesTest : public testing::TestWithParam<const char*> {};

TEST_P(MachineRatesTest, RatesAreThoseOfAMachine) {
  const absl::StatusOr<MachineRates> rates = MeasureMachineRates(Quick(GetParam()));
  if (absl::IsFailedPrecondition(rates.status())) GTEST_SKIP() << rates.status().message();
  ASSERT_TRUE(rates.ok()) << rates.status();
  EXPECT_EQ(rates->threads, 1);
  EXPECT_FALSE(rates->kernels.empty());
  // Wide enough for sanitizers, emulated tiles and neighbours; a unit mistaken for another is further off.
  EXPECT_GT(rates->read_bytes_per_second, 1e7);
  EXPECT_LT(rates->read_bytes_per_second, 1e12);
  EXPECT_GT(rates->int8_ops_per_second, 1e6);
  EXPECT_LT(rates->int8_ops_per_second, 1e14);
}

INSTANTIATE_TEST_SUITE_P(Kernels, MachineRatesTest,
                         testing::Values("portable", "avx2", "avxvnni", "avxvnni-emulated", "avx512", "amx",
                                         "amx-emulated"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(MachineProbeTest, TheBestOfManyPassesRepeats) {
  const MachineRates first = MeasureMachineRates(Quick()).value(), second = MeasureMachineRates(Quick()).value();
  // Neighbours may take most of a core for a while, hence the wide bounds.
  EXPECT_LT(first.int8_ops_per_second / second.int8_ops_per_second, 10);
  EXPECT_GT(first.int8_ops_per_second / second.int8_ops_per_second, 0.1);
  EXPECT_LT(first.read_bytes_per_second / second.read_bytes_per_second, 10);
  EXPECT_GT(first.read_bytes_per_second / second.read_bytes_per_second, 0.1);
}

TEST(MachineProbeTest, WrongOptionsAreRefused) {
  MachineRatesOptions options = Quick();
  options.isa = "z80";
  EXPECT_EQ(MeasureMachineRates(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = Quick();
  options.bytes = 100;
  EXPECT_THAT(MeasureMachineRates(options).status().message(), HasSubstr("bytes 100"));
  options = Quick();
  options.rounds = 0;
  EXPECT_EQ(MeasureMachineRates(options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal
