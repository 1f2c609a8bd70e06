#include "parallel/shard.h"

#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<int64_t> Sizes(const std::vector<Range>& ranges) {
  std::vector<int64_t> sizes;
  for (const Range& range : ranges) sizes.push_back(range.size());
  return sizes;
}

std::vector<int64_t> Equal(int64_t units, int parts) {
  const auto ranges = CutUnits(units, std::vector<double>(parts, 1.0), "units");
  EXPECT_TRUE(ranges.ok()) << ranges.status();
  return Sizes(*ranges);
}

// In order, without gaps or overlaps, none empty.
void ExpectPartition(const std::vector<Range>& ranges, int64_t end, int64_t unit) {
  int64_t at = 0;
  for (const Range& range : ranges) {
    EXPECT_EQ(range.begin, at);
    EXPECT_GT(range.size(), 0);
    EXPECT_EQ(range.begin % unit, 0);
    at = range.end;
  }
  EXPECT_EQ(at, end);
}

ModelShape Qwen7B() { return {28, 3584, 28, 4, 128, 18944, 152064, true, false}; }
ModelShape Demo() { return {6, 384, 12, 2, 32, 640, 1024, true, false}; }

TEST(CutUnitsTest, EqualSharesDifferByOneUnitAtMostLargerFirst) {
  EXPECT_THAT(Equal(5, 2), ElementsAre(3, 2));
  EXPECT_THAT(Equal(70, 4), ElementsAre(18, 18, 17, 17));
  EXPECT_THAT(Equal(12, 3), ElementsAre(4, 4, 4));
  EXPECT_THAT(Equal(12, 5), ElementsAre(3, 3, 2, 2, 2));
  EXPECT_THAT(Equal(5, 5), ElementsAre(1, 1, 1, 1, 1));
  EXPECT_THAT(Equal(1, 1), ElementsAre(1));
}

TEST(CutUnitsTest, SharesAreFollowedAsCloselyAsUnitsAllow) {
  EXPECT_THAT(Sizes(*CutUnits(18, std::vector<double>{8, 6, 4}, "units")), ElementsAre(8, 6, 4));
  EXPECT_THAT(Sizes(*CutUnits(9, std::vector<double>{8, 6, 4}, "units")), ElementsAre(4, 3, 2));
  EXPECT_THAT(Sizes(*CutUnits(4, std::vector<double>{1000, 1, 1}, "units")), ElementsAre(2, 1, 1));
  EXPECT_THAT(Sizes(*CutUnits(3, std::vector<double>{1000, 1, 1000}, "units")), ElementsAre(1, 1, 1));
}

TEST(CutUnitsTest, TooFewUnitsAreAnErrorThatSaysHowManyRanksWork) {
  const auto cut = CutUnits(5, std::vector<double>(7, 1.0), "groups of 128 FFN columns");
  EXPECT_EQ(cut.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      cut.status().message(),
      "cannot cut 5 groups of 128 FFN columns over 7 tensor-parallel ranks; use at most 5 or add pipeline stages");
}

TEST(CutUnitsTest, AnyCutIsAPartitionCloseToTheShares) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20'000; ++round) {
    const int parts = 1 + static_cast<int>(random() % 16);
    const int64_t units = parts + static_cast<int64_t>(random() % 200);
    std::vector<double> shares(parts);
    double sum = 0;
    for (double& share : shares) sum += share = 0.1 + static_cast<double>(random() % 1000) / 100;
    const auto ranges = CutUnits(units, shares, "units");
    ASSERT_TRUE(ranges.ok());
    ASSERT_EQ(static_cast<int>(ranges->size()), parts);
    ExpectPartition(*ranges, units, 1);
    bool any_tiny = false;
    for (double share : shares) any_tiny = any_tiny || static_cast<double>(units) * share / sum < 1;
    for (int i = 0; i < parts && !any_tiny; ++i) {
      EXPECT_NEAR(static_cast<double>((*ranges)[i].size()), static_cast<double>(units) * shares[i] / sum, 1.0 + 1e-6);
    }
  }
}

TEST(CutHeadsTest, KvHeadsAreCopiedWhereAGroupOfQueryHeadsIsCut) {
  const auto heads = CutHeads(Demo(), std::vector<double>(3, 1.0));  // 4 + 4 + 4 of 12; 6 query heads read one KV head.
  ASSERT_TRUE(heads.ok());
  EXPECT_EQ(KvHeadsOf(Demo(), (*heads)[0]), (Range{0, 1}));
  EXPECT_EQ(KvHeadsOf(Demo(), (*heads)[1]), (Range{0, 2}));
  EXPECT_EQ(KvHeadsOf(Demo(), (*heads)[2]), (Range{1, 2}));
}

TEST(CutHeadsTest, EveryQueryHeadFindsItsKvHeadOnItsRank) {
  for (const ModelShape& shape : {Qwen7B(), Demo(), ModelShape{2, 64, 8, 8, 8, 172, 512, false, false}}) {
    for (int parts = 1; parts <= shape.heads; ++parts) {
      const auto heads = CutHeads(shape, std::vector<double>(parts, 1.0));
      ASSERT_TRUE(heads.ok());
      ExpectPartition(*heads, shape.heads, 1);
      for (const Range& range : *heads) {
        RankPlan rank;
        rank.heads = range;
        rank.kv_heads = KvHeadsOf(shape, range);
        const HeadMap map = HeadsOf(shape, rank);
        EXPECT_EQ(map.KvOf(0), 0);
        EXPECT_EQ(map.KvOf(map.heads - 1), map.kv_heads - 1);
        EXPECT_EQ(map.heads_per_kv, shape.heads / shape.kv_heads);
      }
    }
    EXPECT_FALSE(CutHeads(shape, std::vector<double>(shape.heads + 1, 1.0)).ok());
  }
}

TEST(CutFfnTest, WidthsAreCutAtGroups) {
  EXPECT_EQ(FfnGroup(Demo()), 128);
  EXPECT_THAT(Sizes(*CutFfn(Demo(), std::vector<double>(2, 1.0))), ElementsAre(384, 256));
  EXPECT_EQ(FfnGroup(Qwen7B()), 256);
  for (int parts = 1; parts <= 74; ++parts) {
    const auto ranges = CutFfn(Qwen7B(), std::vector<double>(parts, 1.0));
    ASSERT_TRUE(ranges.ok());
    ExpectPartition(*ranges, 18944, 256);
  }
  EXPECT_THAT(std::string(CutFfn(Qwen7B(), std::vector<double>(75, 1.0)).status().message()),
              HasSubstr("cannot cut 74 groups of 256 FFN columns over 75"));
}

TEST(CutVocabTest, RowsAreCutAtBlocksAndTheLastPartEndsWithTheVocabulary) {
  for (const int64_t vocab : {1024, 1000, 17, 151936, 152064, 32003}) {
    ModelShape shape = Demo();
    shape.vocab = vocab;
    const int64_t blocks = (vocab + 15) / 16;
    for (int parts = 1; parts <= std::min<int64_t>(blocks, 9); ++parts) {
      const auto ranges = CutVocab(shape, std::vector<double>(parts, 1.0));
      ASSERT_TRUE(ranges.ok());
      ExpectPartition(*ranges, vocab, 16);
    }
  }
}

TEST(GroupsTest, TheWholeModelDecidesThem) {
  EXPECT_EQ(HiddenGroup(Demo()), 128);
  EXPECT_EQ(AttentionGroup(Demo()), 32);
  EXPECT_EQ(HiddenGroup(Qwen7B()), 256);
  EXPECT_EQ(AttentionGroup(Qwen7B()), 128);
}

}  // namespace
}  // namespace shoal
