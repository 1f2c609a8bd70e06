// Same logits, bit for bit, whatever the plan, the batch, the chunks or the blocks.
#include "gtest/gtest.h"
#include "tests/support/local_cluster.h"
#include "tests/support/model_runs.h"

namespace shoal {
namespace {

using Logits = std::vector<std::vector<std::vector<float>>>;  // [prompt][position][vocab]

std::vector<Prompt> TestPrompts() {
  std::vector<Prompt> prompts;
  uint32_t state = 12345;
  for (const int length : {1, 5, 37, 64, 130}) {
    Prompt prompt;
    for (int i = 0; i < length; ++i) {
      state = state * 1664525 + 1013904223;
      prompt.ids.push_back(static_cast<int32_t>(state >> 8) % 1000);
    }
    for (int i = length > 4 ? length - 4 : 0; i < length; ++i) prompt.positions.push_back(i);
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

LocalClusterOptions Options(const std::vector<int>& stages, WeightFormat format) {
  LocalClusterOptions options;
  options.model_dir = SourcePath("deploy/demo_model");
  options.request = RequestWithStages(stages, format, DType::kF16);
  return options;
}

Logits RunAll(const LocalClusterOptions& options, int chunk) {
  Logits logits;
  const absl::Status status = RunLocalCluster(options, [&](const ClusterView& view) -> absl::Status {
    auto result = RunPrompts(view, TestPrompts(), chunk);
    if (result.ok()) logits = *std::move(result);
    return result.status();
  });
  EXPECT_TRUE(status.ok()) << status;
  return logits;
}

class PlanIndependenceTest : public testing::TestWithParam<WeightFormat> {};

TEST_P(PlanIndependenceTest, EveryNumberOfRanksAndStagesGivesTheSameBits) {
  const Logits expected = RunAll(Options({1}, GetParam()), 64);
  ASSERT_EQ(expected.size(), TestPrompts().size());
  for (const std::vector<int>& stages :
       {std::vector<int>{2}, {3}, {4}, {5}, {1, 1}, {1, 1, 1}, {2, 2}, {3, 2}, {1, 4}}) {
    EXPECT_EQ(RunAll(Options(stages, GetParam()), 64), expected) << stages.size() << " stages, first of " << stages[0];
  }
}

TEST_P(PlanIndependenceTest, UnevenSharesGiveTheSameBits) {
  LocalClusterOptions options = Options({3}, GetParam());
  options.request.stages[0].shares = {3, 1, 2};
  EXPECT_EQ(RunAll(options, 64), RunAll(Options({1}, GetParam()), 64));
}

TEST_P(PlanIndependenceTest, ChunksDecodingAndBatchGiveTheSameBits) {
  const Logits expected = RunAll(Options({1}, GetParam()), 64);
  for (const int chunk : {1, 7, 16, 100}) EXPECT_EQ(RunAll(Options({1}, GetParam()), chunk), expected) << chunk;
  // Alone, and in other blocks.
  const absl::Status status = RunLocalCluster(Options({1}, GetParam()), [&](const ClusterView& view) -> absl::Status {
    const std::vector<Prompt> prompts = TestPrompts();
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto rows = RunPrompt(view, prompts[i], 9, /*first_block=*/3 + static_cast<int>(i));
      if (!rows.ok()) return rows.status();
      EXPECT_EQ(*rows, expected[i]) << "prompt " << i;
    }
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST_P(PlanIndependenceTest, ThreadsGiveTheSameBits) {
  LocalClusterOptions options = Options({1}, GetParam());
  options.threads = 3;
  EXPECT_EQ(RunAll(options, 64), RunAll(Options({1}, GetParam()), 64));
}

INSTANTIATE_TEST_SUITE_P(Formats, PlanIndependenceTest,
                         testing::Values(WeightFormat::kInt8, WeightFormat::kInt4, WeightFormat::kF32,
                                         WeightFormat::kBF16),
                         [](const auto& info) { return std::string(WeightFormatName(info.param)); });

}  // namespace
}  // namespace shoal
