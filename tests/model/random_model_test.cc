#include "model/random_model.h"

#include <cmath>
#include <cstdlib>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/random_model_shapes.h"
#include "tests/model/model_folder.h"
#include "tests/support/shared_data.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

TEST(RandomModelTest, EveryShapeHasAValidConfigAndTokenizer) {
  EXPECT_EQ(RandomModelShapes().size(), 10u);
  for (std::string_view name : RandomModelShapes()) {
    SCOPED_TRACE(name);
    const auto files = MakeRandomModelFiles(name, "bfloat16");
    ASSERT_TRUE(files.has_value());
    const auto config = ParseModelConfig(files->config, files->generation, "d");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_FALSE(config->eos_token_ids.empty());
    EXPECT_EQ(config->shape.hidden % 32, 0);
    EXPECT_EQ(config->shape.ffn % 32, 0);
    const Json tokenizer = Json::parse(files->tokenizer);
    std::set<int> ids;
    for (const auto& [token, id] : tokenizer["model"]["vocab"].items()) ids.insert(id.get<int>());
    for (const Json& token : tokenizer["added_tokens"]) EXPECT_TRUE(ids.insert(token["id"].get<int>()).second);
    EXPECT_EQ(static_cast<int64_t>(ids.size()), config->shape.vocab);
    EXPECT_EQ(*ids.rbegin(), config->shape.vocab - 1);
  }
}

TEST(RandomModelTest, LargeShapesAreThoseOfTheRealFiles) {
  const std::string data = SharedTestData();
  if (data.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: real shapes not tested";
  const std::pair<const char*, const char*> pairs[] = {
      {"deepseek-r1-distill-qwen-1.5b", "/tokenizers/deepseek-r1-distill-qwen/config.json"},
      {"llama-3.2-1b", "/configs/Llama-3.2-1B-Instruct.config.json"},
      {"llama-3.1-8b", "/configs/Llama-3.1-8B-Instruct.config.json"},
      {"qwen2.5-0.5b", "/configs/Qwen2.5-0.5B-Instruct.config.json"}};
  for (const auto& [shape, path] : pairs) {
    const Json made = Json::parse(MakeRandomModelFiles(shape, "bfloat16")->config),
               real = Json::parse(ReadFile(data + path));
    for (const char* field : {"architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers",
                              "num_attention_heads", "num_key_value_heads", "vocab_size", "rope_theta", "rms_norm_eps",
                              "tie_word_embeddings", "max_position_embeddings", "torch_dtype"}) {
      EXPECT_EQ(made[field], real[field]) << shape << " " << field;
    }
    EXPECT_EQ(made.value("rope_scaling", Json()), real.value("rope_scaling", Json())) << shape;
  }
  const Json larger = Json::parse(ReadFile(data + "/configs/r1_distill_larger.json"));
  for (const auto& [shape, name] : {std::pair("deepseek-r1-distill-qwen-7b", "DeepSeek-R1-Distill-Qwen-7B"),
                                    std::pair("deepseek-r1-distill-qwen-14b", "DeepSeek-R1-Distill-Qwen-14B")}) {
    const Json made = Json::parse(MakeRandomModelFiles(shape, "bfloat16")->config);
    for (const auto& [field, value] : larger[name].items()) EXPECT_EQ(made[field], value) << shape << " " << field;
  }
}

TEST(RandomModelTest, WeightsAreNormalAndTheSameForTheSameSeed) {
  const TemporaryFolder folder;
  RandomModelOptions options;
  options.dtype = DType::kF32;
  options.seed = 7;
  int64_t last = 0, all = -1;
  options.progress = [&](int64_t done, int64_t total) {
    last = done, all = total;
    return absl::OkStatus();
  };
  ASSERT_TRUE(WriteRandomModel("tiny-qwen3", folder / "a", options).ok());
  ASSERT_TRUE(WriteRandomModel("tiny-qwen3", folder / "b", options).ok());
  EXPECT_EQ(last, all);
  options.seed = 8;
  ASSERT_TRUE(WriteRandomModel("tiny-qwen3", folder / "c", options).ok());
  const std::string a = ReadFile(folder / "a/model.safetensors");
  EXPECT_TRUE(a == ReadFile(folder / "b/model.safetensors"));
  EXPECT_FALSE(a == ReadFile(folder / "c/model.safetensors"));
  for (const TestTensor& tensor : ParseHonestSafetensors(a)) {
    const size_t n = tensor.bytes.size() / 4;
    if (n < 1000) continue;
    double sum = 0, squares = 0, fourth = 0;
    for (size_t i = 0; i < n; ++i) {
      float x;
      std::memcpy(&x, tensor.bytes.data() + 4 * i, 4);
      sum += x, squares += static_cast<double>(x) * x;
    }
    const double variance = squares / n;
    for (size_t i = 0; i < n; ++i) {
      float x;
      std::memcpy(&x, tensor.bytes.data() + 4 * i, 4);
      fourth += std::pow(x, 4) / (variance * variance);
    }
    EXPECT_LT(std::fabs(sum / n), 5 * std::sqrt(variance / n)) << tensor.name;
    EXPECT_NEAR(fourth / n, 3, 6 * std::sqrt(96.0 / n)) << tensor.name;  // Kurtosis of the normal distribution.
  }
}

TEST(RandomModelTest, ShardsFollowTheLimit) {
  const TemporaryFolder folder;
  RandomModelOptions options;
  options.shard_bytes_max = 300'000;
  ASSERT_TRUE(WriteRandomModel("tiny-llama", folder / "m", options).ok());
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "m")) {
    if (entry.path().extension() != ".safetensors") continue;
    ++files;
    EXPECT_LT(entry.file_size(), 310'000u);
  }
  EXPECT_GT(files, 2);
  EXPECT_TRUE(std::filesystem::exists(folder / "m/model.safetensors.index.json"));
}

TEST(RandomModelTest, BadRequestsAreRefused) {
  const TemporaryFolder folder;
  EXPECT_THAT(std::string(WriteRandomModel("gpt-5", folder / "m").message()),
              HasSubstr("there are tiny-qwen2, tiny-llama"));
  RandomModelOptions options;
  options.dtype = DType::kI8;
  EXPECT_EQ(WriteRandomModel("tiny-qwen2", folder / "m", options).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteRandomModel("tiny-qwen2", folder.path()).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_FALSE(std::filesystem::exists(folder / "m"));
}

}  // namespace
}  // namespace shoal
