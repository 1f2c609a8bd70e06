// Real trained weights of the shared test data: converting, golden text and loss.
#pragma once

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "base/json.h"
#include "gtest/gtest.h"
#include "model/tokenizer.h"
#include "tests/support/llama2c.h"
#include "tests/support/local_cluster.h"
#include "tests/support/model_runs.h"
#include "tests/support/shared_data.h"

namespace shoal {

class RealModelTest : public testing::Test {
 protected:
  void SetUp() override {
    data_ = SharedTestData();
    if (data_.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: real models not tested";
    dir_ = testing::TempDir() + "shoal_real_XXXXXX";
    ASSERT_NE(mkdtemp(dir_.data()), nullptr);
  }
  void TearDown() override {
    if (!dir_.empty()) std::filesystem::remove_all(dir_);
  }

  LocalClusterOptions Convert(const std::string& checkpoint) {
    const absl::Status status = ConvertLlama2c(data_ + "/weights/" + checkpoint, dir_);
    EXPECT_TRUE(status.ok()) << status;
    LocalClusterOptions options;
    options.model_dir = dir_;
    options.request = RequestWithStages({1}, WeightFormat::kF32, DType::kF32);
    options.request.max_step_tokens = 512;
    options.request.max_sequences = 512;
    return options;
  }

  std::unique_ptr<Tokenizer> LoadTokenizer(const std::string& file, int vocab) {
    auto spec = ReadLlama2cTokenizer(data_ + "/weights/" + file, vocab);
    EXPECT_TRUE(spec.ok()) << spec.status();
    auto tokenizer = Tokenizer::Create(*std::move(spec));
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *std::move(tokenizer);
  }

  void ExpectGoldenText(const std::string& golden_file, const LocalClusterOptions& options,
                        const Tokenizer& tokenizer) {
    const auto golden = ReadJsonFile(data_ + "/golden/" + golden_file, 1 << 20);
    ASSERT_TRUE(golden.ok()) << golden.status();
    Request request;
    request.prompt = (*golden)["prompt_ids"].get<std::vector<int32_t>>();
    const auto expected = (*golden)["greedy_ids"].get<std::vector<int32_t>>();
    request.max_tokens = static_cast<int>(expected.size());
    request.sampling.temperature = 0;
    const absl::Status status = RunLocalEngine(options, {}, [&](EngineClient& engine, const ModelConfig&) {
      const auto outputs = GenerateAll(engine, {request}, 1);
      ASSERT_TRUE(outputs.ok()) << outputs.status();
      EXPECT_EQ((*outputs)[0], expected);
      EXPECT_EQ(tokenizer.Decode((*outputs)[0], true).value(), (*golden)["text"].get<std::string>());
    });
    EXPECT_TRUE(status.ok()) << status;
  }

  // Mean negative log likelihood in nats per token over the first paragraphs longer than 80 characters, without the
  // white space around them, each from BOS.
  double MeanLoss(const LocalClusterOptions& options, const Tokenizer& tokenizer, int paragraphs, int64_t* tokens) {
    std::ifstream file(data_ + "/text/tinystories_val.txt");
    std::string line;
    double sum = 0;
    *tokens = 0;
    const absl::Status status = RunLocalCluster(options, [&](const ClusterView& view) -> absl::Status {
      for (int taken = 0; taken < paragraphs && std::getline(file, line);) {
        if (line.size() <= 80) continue;
        ++taken;
        const std::vector<int32_t> ids = tokenizer.Encode(std::string(absl::StripAsciiWhitespace(line))).value();
        Prompt prompt{{ids.begin(), ids.end() - 1}, {}};
        prompt.ids.resize(std::min<size_t>(prompt.ids.size(), view.config.max_position_embeddings));
        for (size_t i = 0; i < prompt.ids.size(); ++i) prompt.positions.push_back(static_cast<int32_t>(i));
        const auto rows = RunPrompt(view, prompt, 256);
        if (!rows.ok()) return rows.status();
        for (size_t i = 0; i < rows->size(); ++i) {
          double total = 0;
          for (const float logit : (*rows)[i]) total += std::exp(static_cast<double>(logit));
          sum += std::log(total) - (*rows)[i][ids[i + 1]];
          ++*tokens;
        }
      }
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    return sum / static_cast<double>(*tokens);
  }

  std::string data_;
  std::string dir_;
};

}  // namespace shoal
