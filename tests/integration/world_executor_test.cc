// The executor over several ranks: what comes late, and what is counted.
#include "engine/world_executor.h"

#include "gtest/gtest.h"
#include "tests/support/local_cluster.h"
#include "tests/support/model_runs.h"

namespace shoal {
namespace {

LocalClusterOptions ThreeStages() {
  LocalClusterOptions options;
  options.model_dir = SourcePath("tests/golden/tiny-qwen2");
  options.request = RequestWithStages({1, 1, 1}, WeightFormat::kF32, DType::kF32);
  return options;
}

StepPlan OneToken() {
  StepPlan plan;
  plan.step = 1;
  plan.ids = {1};
  plan.positions = {0};
  plan.kv_slots = {0};
  plan.query_start = {0, 1};
  plan.context_len = {1};
  plan.blocks = {0};
  plan.block_start = {0, 1};
  plan.sample_rows = {0};
  plan.candidates = 1;
  return plan;
}

TEST(WorldExecutorTest, ShutdownReadsResultsThatComeAfterTheirStepIsDone) {
  LocalClusterOptions options = ThreeStages();
  options.late_rank = 1;  // A middle stage: the step is done without its result.
  options.late_by = std::chrono::milliseconds(100);
  const absl::Status status = RunLocalCluster(options, [](const ClusterView& view) -> absl::Status {
    EXPECT_TRUE(view.executor.Submit(OneToken()).ok());
    EXPECT_TRUE(view.executor.Wait().ok());
    EXPECT_EQ(view.executor.stage_loads()[1].busy_seconds, 0);  // Not heard of yet.
    EXPECT_TRUE(view.executor.Shutdown().ok());
    EXPECT_GT(view.executor.stage_loads()[1].busy_seconds, 0);
    return absl::CancelledError("shut down already");
  });
  EXPECT_EQ(status.message(), "rank 0: shut down already");
}

TEST(WorldExecutorTest, AResultThatNeverComesEndsTheShutdown) {
  LocalClusterOptions options = ThreeStages();
  options.late_rank = 1;
  options.late_by = std::chrono::seconds(6);
  const absl::Status status = RunLocalCluster(options, [](const ClusterView& view) -> absl::Status {
    EXPECT_TRUE(view.executor.Submit(OneToken()).ok());
    EXPECT_TRUE(view.executor.Wait().ok());
    return absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("1 results of the last steps did not come"), std::string::npos) << status;
}

}  // namespace
}  // namespace shoal
