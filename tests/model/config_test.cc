#include "model/config.h"

#include <cmath>
#include <cstdlib>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/model_folder.h"
#include "tests/support/shared_data.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json Good() {
  return {{"architectures", {"Qwen2ForCausalLM"}},
          {"model_type", "qwen2"},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 6},
          {"num_key_value_heads", 2},
          {"head_dim", 32},
          {"vocab_size", 320},
          {"rope_theta", 1000000.0},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5},
          {"eos_token_id", 2}};
}

absl::StatusOr<ModelConfig> Parse(const Json& json, const std::string& generation = "") {
  return ParseModelConfig(json.dump(), generation, "dir");
}

TEST(ModelConfigTest, ReadsEveryField) {
  const auto config = Parse(Good(), R"({"eos_token_id": [2, 7], "bos_token_id": 1, "temperature": 0.6, "top_p": 0.95,
                                        "top_k": 20, "repetition_penalty": 1.1, "min_p": 0.05, "do_sample": true})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "Qwen2ForCausalLM");
  EXPECT_EQ(config->shape.layers, 3);
  EXPECT_EQ(config->shape.hidden, 64);
  EXPECT_EQ(config->shape.heads, 6);
  EXPECT_EQ(config->shape.kv_heads, 2);
  EXPECT_EQ(config->shape.head_dim, 32);
  EXPECT_EQ(config->shape.ffn, 96);
  EXPECT_EQ(config->shape.vocab, 320);
  EXPECT_TRUE(config->shape.qkv_bias);
  EXPECT_FALSE(config->shape.qk_norm);
  EXPECT_FLOAT_EQ(config->norm_eps, 1e-5f);
  EXPECT_EQ(config->rope.theta, 1e6);
  EXPECT_EQ(config->max_position_embeddings, 512);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2, 7));
  EXPECT_EQ(config->bos_token_id, 1);
  EXPECT_FLOAT_EQ(config->temperature, 0.6f);
  EXPECT_FLOAT_EQ(config->top_p, 0.95f);
  EXPECT_EQ(config->top_k, 20);
  EXPECT_FLOAT_EQ(config->repetition_penalty, 1.1f);
  EXPECT_FLOAT_EQ(config->min_p, 0.05f);
  EXPECT_THAT(config->ignored_generation_settings, ElementsAre());
}

TEST(ModelConfigTest, SettingsThatAreOnAndNotSupportedAreListed) {
  const auto ignored = [](const char* generation) { return Parse(Good(), generation)->ignored_generation_settings; };
  EXPECT_THAT(ignored(R"({"no_repeat_ngram_size": 3, "typical_p": 0.9, "suppress_tokens": [1], "num_beams": 4,
                          "bad_words_ids": [[5]], "forced_eos_token_id": 2, "sequence_bias": {"a": 1}})"),
              ::testing::UnorderedElementsAre("no_repeat_ngram_size", "typical_p", "suppress_tokens", "num_beams",
                                              "bad_words_ids", "forced_eos_token_id", "sequence_bias"));
  // Switched off, or without effect on the output.
  EXPECT_THAT(ignored(R"({"no_repeat_ngram_size": 0, "typical_p": 1.0, "suppress_tokens": [], "num_beams": 1,
                          "bad_words_ids": null, "max_new_tokens": 2048, "transformers_version": "4.57.0"})"),
              ElementsAre());
}

TEST(ModelConfigTest, GreedyGenerationConfigMeansTemperatureZero) {
  EXPECT_EQ(Parse(Good(), R"({"do_sample": false, "temperature": 0.7})")->temperature, 0);
  EXPECT_LT(Parse(Good())->temperature, 0);
}

TEST(ModelConfigTest, RealFilesAreAccepted) {
  const std::string data = SharedTestData();
  if (data.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: real configs not tested";
  const std::string folder = data + "/configs";
  const auto read = [&](const std::string& name) { return ParseModelConfig(ReadFile(folder + "/" + name), "", "d"); };
  const auto llama = read("Llama-3.2-1B-Instruct.config.json");
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_EQ(llama->rope.kind, RopeConfig::Kind::kLlama3);
  EXPECT_EQ(llama->rope.factor, 32);
  EXPECT_TRUE(llama->tie_word_embeddings);
  EXPECT_THAT(llama->eos_token_ids, ElementsAre(128001, 128008, 128009));
  const auto qwen3 = read("qwen3-0.6b-base-think-sft.config.json");
  ASSERT_TRUE(qwen3.ok()) << qwen3.status();
  EXPECT_TRUE(qwen3->shape.qk_norm);
  EXPECT_EQ(qwen3->shape.head_dim, 128);
  for (const char* name : {"Llama-3.1-70B-Instruct.config.json", "Llama-3.1-8B-Instruct.config.json",
                           "Qwen2.5-0.5B-Instruct.config.json", "Qwen2.5-32B-Instruct.config.json"}) {
    EXPECT_TRUE(read(name).ok()) << name << read(name).status();
  }
  const auto r1 = LoadModelConfig(data + "/tokenizers/deepseek-r1-distill-qwen");
  ASSERT_TRUE(r1.ok()) << r1.status();
  EXPECT_EQ(r1->shape.hidden, 1536);
  EXPECT_EQ(r1->bos_token_id, 151646);
  EXPECT_FLOAT_EQ(r1->temperature, 0.6f);
  const Json larger = Json::parse(ReadFile(folder + "/r1_distill_larger.json"));
  for (const auto& [name, real] : larger.items()) {
    Json fields = real;
    const bool is_llama = name.find("Llama") != std::string::npos;
    fields["architectures"] = {is_llama ? "LlamaForCausalLM" : "Qwen2ForCausalLM"};
    fields["model_type"] = is_llama ? "llama" : "qwen2";
    EXPECT_TRUE(Parse(fields).ok()) << name << Parse(fields).status();
  }
}

TEST(ModelConfigTest, ReadsRopeInEverySpelling) {
  Json json = Good();
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_EQ(Parse(json)->rope.kind, RopeConfig::Kind::kLinear);
  json["rope_scaling"] = {{"rope_type", "linear"}, {"type", "linear"}, {"factor", 2}};
  EXPECT_EQ(Parse(json)->rope.factor, 2);
  json["rope_scaling"] = {{"rope_type", "default"}};
  EXPECT_EQ(Parse(json)->rope.kind, RopeConfig::Kind::kDefault);
  json["rope_scaling"] = nullptr;
  json.erase("rope_theta");
  EXPECT_EQ(Parse(json)->rope.theta, 10000);
  json["rope_parameters"] = {{"rope_theta", 500000.0},  {"rope_type", "llama3"},
                             {"factor", 8.0},           {"low_freq_factor", 1.0},
                             {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  EXPECT_EQ(Parse(json)->rope.theta, 500000);
  EXPECT_EQ(Parse(json)->rope.kind, RopeConfig::Kind::kLlama3);
}

TEST(ModelConfigTest, RopeGivenTwiceMustAgree) {
  Json json = Good();
  const Json linear = {{"rope_type", "linear"}, {"factor", 2.0}};
  json["rope_parameters"] = {{"rope_theta", 1000000.0}, {"rope_type", "default"}};
  EXPECT_TRUE(Parse(json).ok()) << Parse(json).status();
  json["rope_scaling"] = linear;
  EXPECT_THAT(std::string(Parse(json).status().message()),
              HasSubstr("field 'rope_scaling' does not say the same as rope_parameters"));
  json["rope_parameters"] = linear;
  EXPECT_EQ(Parse(json)->rope.factor, 2);
  json["rope_parameters"]["factor"] = 4.0;
  EXPECT_EQ(Parse(json).status().code(), absl::StatusCode::kInvalidArgument);
  json["rope_parameters"] = nullptr;
  EXPECT_EQ(Parse(json)->rope.factor, 2);
  json["rope_parameters"] = linear;
  json["rope_parameters"]["rope_theta"] = 500000.0;
  EXPECT_THAT(std::string(Parse(json).status().message()), HasSubstr("is given twice, as 1e+06 and 500000"));
}

TEST(ModelConfigTest, RopeFrequenciesFollowTheFormulas) {
  RopeConfig rope;
  rope.theta = 10000;
  const auto plain = RopeInverseFrequencies(rope, 8);
  ASSERT_EQ(plain.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(plain[i], static_cast<float>(std::pow(10000.0, -i / 4.0)));
  rope.kind = RopeConfig::Kind::kLinear;
  rope.factor = 4;
  EXPECT_FLOAT_EQ(RopeInverseFrequencies(rope, 8)[1], plain[1] / 4);
  // Values of transformers' `_compute_llama3_parameters` for Llama-3.2-1B: pairs 0 and 31 of 32, and one in the blend.
  rope = {RopeConfig::Kind::kLlama3, 500000.0, 32.0, 1.0, 4.0, 8192};
  const auto llama = RopeInverseFrequencies(rope, 64);
  EXPECT_FLOAT_EQ(llama[0], 1.0f);
  EXPECT_NEAR(llama[31], std::pow(500000.0, -62.0 / 64) / 32, 1e-12);
  const double base = std::pow(500000.0, -32.0 / 64), turns = 8192 * base / (2 * M_PI), smooth = (turns - 1) / 3;
  ASSERT_GT(smooth, 0);
  ASSERT_LT(smooth, 1);
  EXPECT_NEAR(llama[16], (1 - smooth) * base / 32 + smooth * base, 1e-9);
}

// A change to a good config.json and what the refusal must say.
struct Spoiled {
  const char* field;
  const char* value;  // JSON; "" removes the field.
  const char* message;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

class SpoiledConfigTest : public ::testing::TestWithParam<Spoiled> {};

TEST_P(SpoiledConfigTest, IsRefusedWithItsReason) {
  const Spoiled& spoiled = GetParam();
  Json json = Good();
  json.erase(spoiled.field);
  if (*spoiled.value != 0) json[spoiled.field] = Json::parse(spoiled.value);
  const auto config = Parse(json);
  EXPECT_EQ(config.status().code(), spoiled.code) << spoiled.field << " " << spoiled.value;
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(spoiled.message));
  EXPECT_THAT(std::string(config.status().message()), ::testing::StartsWith("dir/config.json: "));
}

constexpr auto kNotSupported = absl::StatusCode::kUnimplemented;
constexpr Spoiled kSpoiled[] = {
    {"architectures", "[\"GPT2LMHeadModel\"]", "supported are Qwen2ForCausalLM", kNotSupported},
    {"architectures", "[\"LlamaForCausalLM\"]", "field 'model_type' is 'qwen2', but"},
    {"architectures", "[]", "must be a list of one name"},
    {"architectures", "[3]", "must be a list of one name"},
    {"architectures", "\"Qwen2ForCausalLM\"", "must be a list of one name"},
    {"architectures", "[\"Qwen2ForCausalLM\", \"x\"]", "must be a list of one name"},
    {"model_type", "", "'model_type' is missing"},
    {"model_type", "7", "'model_type' must be a string"},
    {"hidden_size", "", "'hidden_size' is missing"},
    {"hidden_size", "0", "is 0; supported are 1 to"},
    {"hidden_size", "-64", "is -64"},
    {"hidden_size", "1000000", "is 1000000"},
    {"hidden_size", "9223372036854775807", "supported are"},
    {"hidden_size", "18446744073709551615", "is too large"},
    {"hidden_size", "64.0", "must be an integer"},
    {"hidden_size", "\"64\"", "must be an integer"},
    {"hidden_size", "[64]", "must be an integer"},
    {"hidden_size", "true", "must be an integer"},
    {"intermediate_size", "", "'intermediate_size' is missing"},
    {"intermediate_size", "4294967296", "is 4294967296"},
    {"num_hidden_layers", "0", "is 0"},
    {"num_hidden_layers", "2147483648", "is 2147483648"},
    {"num_hidden_layers", "", "'num_hidden_layers' is missing"},
    {"num_attention_heads", "5", "not a multiple of num_key_value_heads 2"},
    {"num_attention_heads", "0", "is 0"},
    {"num_attention_heads", "", "is missing"},
    {"num_key_value_heads", "7", "is 7; supported are 1 to 6"},
    {"num_key_value_heads", "0", "is 0"},
    {"num_key_value_heads", "", "'num_key_value_heads' is missing"},
    {"head_dim", "31", "must be even"},
    {"head_dim", "0", "is 0"},
    {"head_dim", "4096", "is 4096"},
    {"head_dim", "", "not a multiple of num_attention_heads 6"},
    {"vocab_size", "", "'vocab_size' is missing"},
    {"vocab_size", "99999999999", "is 99999999999"},
    {"vocab_size", "-1", "is -1"},
    {"max_position_embeddings", "", "'max_position_embeddings' is missing"},
    {"max_position_embeddings", "0", "is 0"},
    {"rms_norm_eps", "-1", "is -1"},
    {"rms_norm_eps", "1", "is 1; supported are 0 to 0.1"},
    {"rms_norm_eps", "\"small\"", "must be a number"},
    {"rope_theta", "0", "is 0"},
    {"rope_theta", "-5", "is -5"},
    {"rope_theta", "\"10000\"", "must be a number"},
    {"rope_scaling", "3", "'rope_scaling' must be an object"},
    {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 4}", "is 'yarn'; supported are", kNotSupported},
    {"rope_scaling", "{\"type\": \"linear\", \"rope_type\": \"llama3\"}", "but type is 'linear'"},
    {"rope_scaling", "{\"type\": \"linear\"}", "'factor' is missing"},
    {"rope_scaling", "{\"type\": 5}", "'type' must be a string"},
    {"rope_scaling", "{\"type\": \"linear\", \"factor\": 0}", "is 0"},
    {"rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8}", "'low_freq_factor' is missing"},
    {"rope_scaling",
     "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4, "
     "\"original_max_position_embeddings\": 8192}",
     "not above low_freq_factor"},
    {"rope_parameters", "[]", "'rope_parameters' must be an object"},
    {"rope_parameters", "{\"full_attention\": {\"rope_theta\": 1.0}}", "differs by layer", kNotSupported},
    {"partial_rotary_factor", "0.5", "is not 1", kNotSupported},
    {"hidden_act", "\"gelu\"", "is 'gelu'; supported is silu", kNotSupported},
    {"hidden_act", "3", "must be a string"},
    {"mlp_bias", "true", "is true", kNotSupported},
    {"use_mrope", "true", "is true", kNotSupported},
    {"quantization_config", "{}", "original, unquantized model", kNotSupported},
    {"layer_types", "[\"full_attention\"]", "list of 3 names"},
    {"layer_types", "[\"full_attention\", \"full_attention\", \"sliding_attention\"]", "other kinds", kNotSupported},
    {"layer_types", "[1, 2, 3]", "must be a list of names"},
    {"tie_word_embeddings", "1", "must be true or false"},
    {"eos_token_id", "320", "not in the vocabulary of 320"},
    {"eos_token_id", "-1", "not in the vocabulary"},
    {"eos_token_id", "\"2\"", "must be an id or a list of ids"},
    {"eos_token_id", "[2, 18446744073709551615]", "not in the vocabulary"},
    {"eos_token_id", "[[2]]", "must be an id or a list of ids"},
    {"bos_token_id", "1.5", "must be an id"},
};

INSTANTIATE_TEST_SUITE_P(Fields, SpoiledConfigTest, ::testing::ValuesIn(kSpoiled));

TEST(ModelConfigTest, FeaturesThatChangeResultsAreRefused) {
  Json json = Good();
  json["use_sliding_window"] = true;
  json["sliding_window"] = 128;
  json["max_window_layers"] = 2;
  EXPECT_EQ(Parse(json).status().code(), absl::StatusCode::kUnimplemented);
  json["max_window_layers"] = 3;  // All layers are full: no effect.
  EXPECT_TRUE(Parse(json).ok());
  json["max_window_layers"] = 2;
  json["sliding_window"] = 512;  // The whole context: no effect.
  EXPECT_TRUE(Parse(json).ok());
  json["sliding_window"] = nullptr;
  EXPECT_TRUE(Parse(json).ok());
  json.erase("sliding_window");  // transformers' default: 4096.
  EXPECT_TRUE(Parse(json).ok());
  json["max_position_embeddings"] = 8192;
  EXPECT_THAT(std::string(Parse(json).status().message()), HasSubstr("is true, with a window of 4096"));
  json["use_sliding_window"] = false;
  EXPECT_TRUE(Parse(json).ok());
  json = Good();
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = "llama";
  json["attention_bias"] = true;
  EXPECT_THAT(std::string(Parse(json).status().message()), HasSubstr("biases on o_proj"));
}

TEST(ModelConfigTest, TheFuzzersSeedsAreValid) {
  const std::string folder = std::string(SHOAL_SOURCE_DIR) + "/tests/fuzz/seeds/model_config_fuzz";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string text = ReadFile(entry.path());
    const size_t cut = text.find('\0');
    const auto config =
        ParseModelConfig(text.substr(0, cut), cut == std::string::npos ? "" : text.substr(cut + 1), "d");
    EXPECT_TRUE(config.ok()) << entry.path() << config.status();
  }
}

TEST(ModelConfigTest, SizesThatMultiplyToNonsenseAreRefused) {
  Json json = Good();
  json["hidden_size"] = 131072;
  json["intermediate_size"] = 1048576;
  json["num_hidden_layers"] = 1024;
  json["vocab_size"] = 4194304;
  EXPECT_THAT(std::string(Parse(json).status().message()), HasSubstr("weights, more than the limit"));
}

TEST(ModelConfigTest, TextsThatAreNoConfigAreRefused) {
  for (const char* text : {"", "{", "[]", "null", "\xff\xfe", "{\"a\":1,\"a\":1}", "{\"hidden_size\": 1e999}"}) {
    EXPECT_EQ(ParseModelConfig(text, "", "dir").status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  const std::string good = Good().dump();
  for (const char* text :
       {"[]", "{", "{\"temperature\": -1}", "{\"top_p\": 2}", "{\"top_k\": 0.5}", "{\"eos_token_id\": 999}",
        "{\"repetition_penalty\": 0}", "{\"do_sample\": 1}", "{\"top_k\": -2}"}) {
    const auto config = ParseModelConfig(good, text, "dir");
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(config.status().message()), ::testing::StartsWith("dir/generation_config.json: "));
  }
}

TEST(ModelConfigTest, FoldersAndFilesThatAreAbsentAreNamed) {
  const TemporaryFolder folder;
  EXPECT_THAT(std::string(LoadModelConfig(folder / "none").status().message()),
              HasSubstr("none: no such model folder"));
  EXPECT_EQ(LoadModelConfig(folder.path()).status().code(), absl::StatusCode::kNotFound);
  WriteFile(folder / "config.json", Good().dump());
  EXPECT_TRUE(LoadModelConfig(folder.path()).ok());
  EXPECT_THAT(std::string(LoadModelConfig(folder / "config.json").status().message()),
              HasSubstr("is neither a folder nor named *.gguf"));
  WriteFile(folder / "config.json", std::string(2 << 20, ' '));
  EXPECT_THAT(std::string(LoadModelConfig(folder.path()).status().message()), HasSubstr("more than the limit"));
}

}  // namespace
}  // namespace shoal
