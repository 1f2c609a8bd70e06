#include "tools/offline_bench.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/offline_command.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

std::string DemoModel() { return std::string(SHOAL_SOURCE_DIR) + "/deploy/demo_model"; }

OfflineBenchOptions SmallBench() {
  OfflineBenchOptions options;
  options.model.model_dir = DemoModel();
  options.model.threads = 1;
  options.model.max_step_tokens = 32;
  options.prompts = {40, 8};
  options.batches = {1, 3};
  options.depths = {50, 0};
  options.generate = 2;
  options.repeat = 2;
  options.rates = {.isa = "", .bytes = 8 << 20, .rounds = 1, .int8_seconds = 0.005};
  return options;
}

TEST(OfflineBenchTest, MeasuresEveryPromptAndEveryBatchAtEveryDepth) {
  const OfflineReport report = RunOfflineBench(SmallBench()).value();
  ASSERT_EQ(report.rows.size(), 2u + 4u);
  const SpeedRow& prompt = report.rows[0];
  EXPECT_EQ(prompt.prompt, 40);
  EXPECT_EQ(prompt.steps, 2);  // 32 tokens, then 8.
  EXPECT_EQ(prompt.tokens, 40);
  const int64_t expected[4][2] = {{1, 0}, {3, 0}, {1, 50}, {3, 50}};
  for (int i = 0; i < 4; ++i) {
    const SpeedRow& row = report.rows[2 + i];
    EXPECT_EQ(row.batch, expected[i][0]);
    EXPECT_EQ(row.depth, expected[i][1]);
    EXPECT_EQ(row.tokens, 2 * row.batch);
  }
  for (const SpeedRow& row : report.rows) {
    EXPECT_GT(row.seconds.min, 0);
    EXPECT_LE(row.seconds.min, row.seconds.median);
    EXPECT_LE(row.seconds.median, row.seconds.max);
    EXPECT_LE(row.tokens_per_second().min, row.tokens_per_second().max);
    EXPECT_GT(row.cost.bytes, 0);
    EXPECT_GT(row.cost.ops, 0);
  }
  EXPECT_GT(report.load_seconds, 0);
  EXPECT_GE(report.ready_seconds, report.load_seconds);
  EXPECT_GE(report.first_token_seconds, report.ready_seconds);
  EXPECT_EQ(report.memory.used[static_cast<size_t>(MemoryKind::kWeights)], report.plan.ranks[0].memory.weights);
  EXPECT_GT(report.peak_resident_bytes, report.plan.ranks[0].memory.weights);
}

TEST(OfflineBenchTest, ReportsHoldEveryRow) {
  const OfflineReport report = RunOfflineBench(SmallBench()).value();
  const std::string table = OfflineTable(report);
  for (const char* name : {"pp40 ", "pp8 ", "tg2 b1 ", "tg2 b3 ", "tg2 b1 @ 50 ", "tg2 b3 @ 50 "}) {
    EXPECT_THAT(table, HasSubstr(std::string("\n") + name));
  }
  const Json json = OfflineJson(report);
  EXPECT_EQ(json["prefill"].size(), 2u);
  EXPECT_EQ(json["decode"].size(), 4u);
  EXPECT_EQ(json["decode"][3]["depth"], 50);
  EXPECT_EQ(json["weights"], "int8");
  EXPECT_GT(json["machine"]["read_bytes_per_second"], 0);
  for (const Json& row : {json["prefill"][0], json["decode"][3]}) {
    EXPECT_NEAR(row["bandwidth_fraction"].get<double>() * report.rates.read_bytes_per_second, row["bytes_per_second"],
                1 + 1e-6 * row["bytes_per_second"].get<double>());
    EXPECT_NEAR(row["int8_fraction"].get<double>() * report.rates.int8_ops_per_second, row["ops_per_second"],
                1 + 1e-6 * row["ops_per_second"].get<double>());
  }
}

TEST(OfflineBenchTest, DenseWeightsHaveNoFractionOfTheInt8Rate) {
  OfflineBenchOptions options = SmallBench();
  options.model.weights = WeightFormat::kBF16;
  options.generate = 0;
  const Json json = OfflineJson(RunOfflineBench(options).value());
  EXPECT_EQ(json["weights"], "bf16");
  EXPECT_TRUE(json["prefill"][0]["int8_fraction"].is_null());
  EXPECT_GT(json["prefill"][0]["bandwidth_fraction"], 0);
}

TEST(OfflineBenchTest, LeavesOutWhatIsNotAskedFor) {
  OfflineBenchOptions options = SmallBench();
  options.prompts.clear();
  options.generate = 0;
  EXPECT_TRUE(RunOfflineBench(options).value().rows.empty());
}

TEST(OfflineBenchTest, ContextsBeyondTheModelAreRefused) {
  OfflineBenchOptions options = SmallBench();
  options.depths = {1 << 20};
  const absl::Status status = RunOfflineBench(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("1048578 tokens"));
}

TEST(OfflineModelTest, CopiedBlocksGiveTheSameTokens) {
  OfflineModelOptions options;
  options.model_dir = DemoModel();
  options.threads = 1;
  options.kv = DType::kI8;
  options.max_sequences = 2;
  options.max_context = 64;
  const auto model = OfflineModel::Load(options).value();
  const int block_tokens = model->plan().kv_block_tokens;
  StepPlan prompt;
  prompt.query_start = prompt.block_start = {0};
  for (int i = 0; i < 40; ++i) {
    prompt.ids.push_back(100 + i);
    prompt.positions.push_back(i);
    prompt.kv_slots.push_back(i);
  }
  prompt.query_start.push_back(40);
  prompt.context_len = {40};
  prompt.blocks = {0, 1};
  prompt.block_start.push_back(2);
  ASSERT_LT(block_tokens, 40);
  ASSERT_TRUE(model->Run(prompt).ok());
  const int32_t from[] = {0, 1}, to[] = {2, 3};
  ASSERT_TRUE(model->CopyKvBlocks(from, to).ok());
  StepPlan decode;
  decode.ids = {7, 7};
  decode.positions = {40, 40};
  decode.kv_slots = {40, 2 * block_tokens + 40};
  decode.query_start = {0, 1, 2};
  decode.context_len = {41, 41};
  decode.blocks = {0, 1, 2, 3};
  decode.block_start = {0, 2, 4};
  decode.sample_rows = {0, 1};
  const StepResult result = model->Run(decode).value();
  const size_t columns = static_cast<size_t>(result.columns);
  ASSERT_EQ(result.values.size(), 2 * columns);
  for (size_t i = 0; i < columns; ++i) EXPECT_EQ(result.values[i], result.values[columns + i]);
}

}  // namespace
}  // namespace shoal
