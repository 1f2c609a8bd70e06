#include "tools/statistics.h"

#include "gtest/gtest.h"

namespace shoal {
namespace {

// Expected values: numpy.percentile of the same lists.
TEST(StatisticsTest, PercentilesLieBetweenTheNearestTwoValues) {
  EXPECT_DOUBLE_EQ(Percentile({4, 1, 3, 2}, 50), 2.5);
  EXPECT_DOUBLE_EQ(Percentile({4, 1, 3, 2}, 90), 3.7);
  EXPECT_DOUBLE_EQ(Percentile({10, 20, 30}, 99), 29.8);
  EXPECT_DOUBLE_EQ(Percentile({10, 20, 30}, 0), 10);
  EXPECT_DOUBLE_EQ(Percentile({10, 20, 30}, 100), 30);
  EXPECT_DOUBLE_EQ(Percentile({7}, 99), 7);
  EXPECT_DOUBLE_EQ(Percentile({}, 50), 0);
}

TEST(StatisticsTest, MedianIsTheMiddleOrTheMeanOfTwo) {
  EXPECT_EQ(SpreadOf({3, 1, 2}).median, 2);
  EXPECT_EQ(SpreadOf({4, 1, 2, 3}).median, 2.5);
  EXPECT_EQ(SpreadOf({3, 1, 2}).min, 1);
  EXPECT_EQ(SpreadOf({3, 1, 2}).max, 3);
  EXPECT_EQ(SpreadOf({}).max, 0);
}

TEST(StatisticsTest, MeanOfNothingIsZero) {
  EXPECT_EQ(Mean({}), 0);
  EXPECT_EQ(Mean({1, 2, 6}), 3);
  EXPECT_EQ(StandardDeviation({}), 0);
  EXPECT_DOUBLE_EQ(StandardDeviation({2, 4, 4, 4, 5, 5, 7, 9}), 2);
}

}  // namespace
}  // namespace shoal
