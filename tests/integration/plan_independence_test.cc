// Same logits, bit for bit, whatever the plan, the batch, the chunks or the blocks.
#include "gtest/gtest.h"
#include "tests/support/local_cluster.h"
#include "tests/support/model_runs.h"

namespace shoal {
namespace {

std::vector<Prompt> TestPrompts() { return DrawPrompts({1, 5, 37, 64, 130}, 4, 1000, 12345); }

LocalClusterOptions Options(const std::vector<int>& stages, WeightFormat format) {
  LocalClusterOptions options;
  options.model_dir = SourcePath("deploy/demo_model");
  options.request = RequestWithStages(stages, format, DType::kF16);
  return options;
}

Logits RunAll(const LocalClusterOptions& options, int chunk) {
  absl::StatusOr<Logits> logits = RunPromptsOn(options, TestPrompts(), chunk);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? *std::move(logits) : Logits{};
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
