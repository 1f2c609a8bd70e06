#include "engine/block_manager.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace shoal {
namespace {

TEST(BlockManagerTest, GrowTakesOnlyWhatTheTokensNeed) {
  BlockManager manager(10, 4);
  std::vector<int32_t> blocks;
  EXPECT_TRUE(manager.Grow(4, blocks));
  EXPECT_EQ(blocks.size(), 1u);
  EXPECT_TRUE(manager.Grow(5, blocks));
  EXPECT_TRUE(manager.Grow(8, blocks));
  EXPECT_EQ(blocks.size(), 2u);
  EXPECT_TRUE(manager.Grow(3, blocks));  // Never shrinks.
  EXPECT_EQ(blocks.size(), 2u);
  EXPECT_EQ(manager.num_free(), 8);
}

TEST(BlockManagerTest, GrowLeavesNothingTakenWhenBlocksRunOut) {
  BlockManager manager(3, 4);
  std::vector<int32_t> a, b;
  ASSERT_TRUE(manager.Grow(8, a));
  EXPECT_FALSE(manager.Grow(8, b));
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(manager.num_free(), 1);
  manager.Free(a);
  EXPECT_TRUE(a.empty());
  EXPECT_TRUE(manager.Grow(12, b));
}

TEST(BlockManagerTest, BlocksAreNeverTakenTwice) {
  constexpr int kBlocks = 37;
  BlockManager manager(kBlocks, 2);
  std::mt19937 random(1);
  std::vector<std::vector<int32_t>> lists(12);
  for (int i = 0; i < 20000; ++i) {
    std::vector<int32_t>& list = lists[random() % lists.size()];
    if (random() % 3 == 0) {
      manager.Free(list);
    } else {
      manager.Grow(random() % 20, list);
    }
    std::set<int32_t> seen;
    size_t total = 0;
    for (const auto& l : lists) {
      seen.insert(l.begin(), l.end());
      total += l.size();
    }
    ASSERT_EQ(seen.size(), total);
    ASSERT_EQ(manager.num_free(), kBlocks - static_cast<int64_t>(total));
    if (!seen.empty()) {
      ASSERT_LT(*seen.rbegin(), kBlocks);
    }
  }
}

TEST(BlockManagerDeathTest, FreeingABlockTwiceIsABug) {
  BlockManager manager(3, 4);
  std::vector<int32_t> blocks;
  ASSERT_TRUE(manager.Grow(4, blocks));
  std::vector<int32_t> again = blocks;
  manager.Free(blocks);
  EXPECT_DEATH(manager.Free(again), "CHECK failed");
}

}  // namespace
}  // namespace shoal
