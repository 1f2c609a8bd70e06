#include "engine/philox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shoal {
namespace {

using ::testing::ElementsAre;

// Expected values: kat_vectors of the Random123 distribution, lines "philox4x32 10".
TEST(PhiloxTest, MatchesKnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}), ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_THAT(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(PhiloxTest, UniformDrawUsesTheTopBitsOfTheFirstTwoWords) {
  // Words 0x6627e8d5 0xe169c58d of the zero vector.
  EXPECT_EQ(UniformDraw(0, 0, 0), static_cast<double>(0x6627e8d5e169c58dull >> 11) / 9007199254740992.0);
}

TEST(PhiloxTest, UniformDrawDependsOnSeedPositionAndDraw) {
  const double base = UniformDraw(1, 2, 3);
  EXPECT_NE(base, UniformDraw(2, 2, 3));
  EXPECT_NE(base, UniformDraw(1ull << 32 | 1, 2, 3));
  EXPECT_NE(base, UniformDraw(1, 3, 3));
  EXPECT_NE(base, UniformDraw(1, 2, 4));
}

TEST(PhiloxTest, UniformDrawFillsTheUnitIntervalEvenly) {
  constexpr int kBins = 64, kDraws = 64000;
  int counts[kBins] = {};
  for (int i = 0; i < kDraws; ++i) {
    const double u = UniformDraw(42, i, 0);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    ++counts[static_cast<int>(u * kBins)];
  }
  double chi_square = 0;
  for (const int count : counts) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_square, 103.4);  // 63 degrees of freedom, p = 0.001.
}

}  // namespace
}  // namespace shoal
