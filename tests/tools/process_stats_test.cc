#include "tools/process_stats.h"

#include <chrono>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace shoal {
namespace {

TEST(ProcessStatsTest, TimeSinceTheStartGoesOnWithTheClock) {
  const double first = SecondsSinceProcessStart().value();
  EXPECT_GE(first, 0);
  EXPECT_LT(first, 3600);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const double second = SecondsSinceProcessStart().value();
  EXPECT_GE(second - first, 0.05);
}

TEST(ProcessStatsTest, PeakGrowsWithMemoryThatIsTouchedAndStays) {
  const int64_t before = PeakResidentBytes().value();
  EXPECT_GT(before, 1 << 20);
  {
    std::vector<char> memory(static_cast<size_t>(before) + (64 << 20), 1);
    EXPECT_EQ(memory.back(), 1);
  }
  const int64_t after = PeakResidentBytes().value();
  EXPECT_GE(after, before + (32 << 20));
}

}  // namespace
}  // namespace shoal
