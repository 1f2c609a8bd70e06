// The whole model against Hugging Face transformers in float32 (tests/golden/make_golden.py).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "absl/strings/escaping.h"
#include "base/json.h"
#include "gtest/gtest.h"
#include "tests/support/local_cluster.h"
#include "tests/support/model_runs.h"

namespace shoal {
namespace {

struct GoldenCase {
  std::string name;  // tests/golden/<name>.json
  std::string model_dir;
  std::vector<int> stages;
};

std::ostream& operator<<(std::ostream& out, const GoldenCase& c) {
  out << c.name;
  for (const int ranks : c.stages) out << "_" << ranks;
  return out;
}

class GoldenTest : public testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override {
    auto json = ReadJsonFile(SourcePath("tests/golden/" + GetParam().name + ".json"), 32 << 20);
    ASSERT_TRUE(json.ok()) << json.status();
    golden_ = *std::move(json);
    options_.model_dir = SourcePath(GetParam().model_dir);
    options_.request = RequestWithStages(GetParam().stages, WeightFormat::kF32, DType::kF32);
    options_.request.max_sequences = 64;
  }

  Json golden_;
  LocalClusterOptions options_;
};

TEST_P(GoldenTest, LogitsAreThoseOfTransformersWithinAThousandthOfTheirRange) {
  ASSERT_GE(golden_["logits"].size(), 8u);
  double worst = 0;
  const auto compare = [&](const ClusterView& view) -> absl::Status {
    for (const Json& entry : golden_["logits"]) {
      Prompt prompt{entry["prompt_ids"].get<std::vector<int32_t>>(), entry["positions"].get<std::vector<int32_t>>()};
      auto rows = RunPrompt(view, prompt, /*chunk=*/128);
      if (!rows.ok()) return rows.status();
      std::string bytes;
      EXPECT_TRUE(absl::Base64Unescape(entry["float32_base64"].get<std::string>(), &bytes));
      std::vector<float> expected(bytes.size() / sizeof(float));
      std::memcpy(expected.data(), bytes.data(), bytes.size());
      const size_t vocab = view.config.shape.vocab;
      EXPECT_GT(rows->size(), 0u);
      EXPECT_EQ(rows->size(), prompt.positions.size());
      EXPECT_EQ(expected.size(), rows->size() * vocab);
      if (testing::Test::HasFailure()) return absl::DataLossError("the golden file and the rows differ in size");
      for (size_t r = 0; r < rows->size(); ++r) {
        const auto [low, high] = std::minmax_element(expected.begin() + r * vocab, expected.begin() + (r + 1) * vocab);
        for (size_t i = 0; i < vocab; ++i) {
          const double error = std::abs(double((*rows)[r][i]) - expected[r * vocab + i]) / (double(*high) - *low);
          worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
        }
      }
    }
    return absl::OkStatus();
  };
  const absl::Status status = RunLocalCluster(options_, compare);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_LE(worst, 1e-3);
  RecordProperty("worst_of_range", std::to_string(worst));
  std::printf("  %s: largest logit difference %.2e of the range\n", GetParam().name.c_str(), worst);
}

TEST_P(GoldenTest, GreedyContinuationsAreThoseOfTransformers) {
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> expected;
  for (const Json& entry : golden_["continuations"]) {
    Request request;
    request.prompt = entry["prompt_ids"].get<std::vector<int32_t>>();
    expected.push_back(entry["ids"].get<std::vector<int32_t>>());
    request.max_tokens = static_cast<int>(expected.back().size());
    request.sampling.temperature = 0;
    requests.push_back(std::move(request));
  }
  EXPECT_EQ(requests.size(), 50u);
  for (const std::vector<int32_t>& ids : expected) ASSERT_EQ(ids.size(), 64u);
  const absl::Status status = RunLocalEngine(options_, {}, [&](EngineClient& engine, const ModelConfig&) {
    const auto outputs = GenerateAll(engine, requests, 16);
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ((*outputs)[i], expected[i]) << "prompt " << i;
  });
  EXPECT_TRUE(status.ok()) << status;
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         testing::Values(GoldenCase{"demo", "deploy/demo_model", {1}},
                                         GoldenCase{"demo", "deploy/demo_model", {3, 2}},
                                         GoldenCase{"tiny-qwen2", "tests/golden/tiny-qwen2", {1}},
                                         GoldenCase{"tiny-qwen2", "tests/golden/tiny-qwen2", {2, 3}},
                                         GoldenCase{"tiny-qwen2-tied", "tests/golden/tiny-qwen2-tied", {1}},
                                         GoldenCase{"tiny-llama", "tests/golden/tiny-llama", {1}},
                                         GoldenCase{"tiny-llama", "tests/golden/tiny-llama", {3}},
                                         GoldenCase{"tiny-qwen3", "tests/golden/tiny-qwen3", {1}},
                                         GoldenCase{"tiny-qwen3", "tests/golden/tiny-qwen3", {1, 1}}),
                         [](const auto& info) {
                           std::ostringstream name;
                           name << info.param;
                           std::string text = name.str();
                           std::replace(text.begin(), text.end(), '-', '_');
                           return text;
                         });

}  // namespace
}  // namespace shoal
