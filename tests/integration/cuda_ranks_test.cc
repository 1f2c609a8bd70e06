// A whole model on CUDA ranks: the same logits as on CPU ranks, bit for bit, and the same tokens through an engine.
//
// Linked with the emulation the kernels run on the CPU, so models and prompts are small.
#include <numeric>

#include "gtest/gtest.h"
#include "tests/support/local_cluster.h"
#include "tests/support/model_runs.h"

namespace shoal {
namespace {

using Logits = std::vector<std::vector<std::vector<float>>>;  // [prompt][position][vocab]

// The last is longer than a partition of attention; the chunks of 64 take every kernel for many tokens.
std::vector<Prompt> TestPrompts() {
  std::vector<Prompt> prompts;
  uint32_t state = 777;
  for (const int length : {1, 9, 150}) {
    Prompt prompt;
    for (int i = 0; i < length; ++i) {
      state = state * 1664525 + 1013904223;
      prompt.ids.push_back(static_cast<int32_t>(state >> 8) % 1000);
    }
    for (int i = std::max(0, length - 2); i < length; ++i) prompt.positions.push_back(i);
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

LocalClusterOptions Options(const std::vector<int>& stages, WeightFormat format, bool cuda) {
  LocalClusterOptions options;
  options.model_dir = SourcePath("deploy/demo_model");
  options.request = RequestWithStages(stages, format, DType::kF16);
  options.request.kv_tokens_default = 1024;
  options.request.max_sequences = 8;
  options.cuda = cuda;
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

class CudaRanksTest : public testing::TestWithParam<WeightFormat> {};

TEST_P(CudaRanksTest, GiveTheBitsOfCpuRanks) {
  const Logits expected = RunAll(Options({1}, GetParam(), false), 64);
  ASSERT_EQ(expected.size(), TestPrompts().size());
  EXPECT_EQ(RunAll(Options({1}, GetParam(), true), 64), expected);
}

TEST_P(CudaRanksTest, GiveTheBitsOfCpuRanksOnSeveralRanks) {
  const Logits expected = RunAll(Options({1}, GetParam(), false), 64);
  for (const std::vector<int>& stages : {std::vector<int>{3}, {1, 1}, {2, 1}}) {
    EXPECT_EQ(RunAll(Options(stages, GetParam(), true), 40), expected) << stages.size() << " stages";
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CudaRanksTest, testing::Values(WeightFormat::kInt8, WeightFormat::kInt4),
                         [](const auto& info) { return std::string(WeightFormatName(info.param)); });

// Decoding replays graphs, in batches that are no bucket.
TEST(CudaEngineTest, TokensAreThoseOfCpuRanksWithAndWithoutGraphs) {
  std::vector<Request> requests;
  for (int i = 0; i < 5; ++i) {
    Request request;
    for (int j = 0; j < 3 + 4 * i; ++j) request.prompt.push_back(100 + 37 * i + j);
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.max_tokens = 6;
    requests.push_back(request);
  }
  const auto run = [&](const LocalClusterOptions& options) {
    std::vector<std::vector<int32_t>> outputs;
    const absl::Status status = RunLocalEngine(options, EngineOptions{}, [&](EngineClient& engine, const ModelConfig&) {
      auto result = GenerateAll(engine, requests, 5);
      EXPECT_TRUE(result.ok()) << result.status();
      if (result.ok()) outputs = *std::move(result);
    });
    EXPECT_TRUE(status.ok()) << status;
    return outputs;
  };
  const auto expected = run(Options({1}, WeightFormat::kInt8, false));
  ASSERT_EQ(expected.size(), requests.size());
  for (const bool graphs : {true, false}) {
    LocalClusterOptions options = Options({1}, WeightFormat::kInt8, true);
    options.cuda_options.graphs = graphs;
    EXPECT_EQ(run(options), expected) << (graphs ? "with graphs" : "");
  }
}

}  // namespace
}  // namespace shoal
