// Models from GGUF files: configuration, tensors and prepared folders.
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf_config.h"
#include "model/prepare.h"
#include "model/random_model.h"
#include "model/tokenizer_gguf.h"
#include "model/weights.h"
#include "tests/model/model_folder.h"
#include "tests/model/one_stage_plan.h"
#include "tests/model/recording_device.h"
#include "tests/support/gguf_export.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

FormatPlan AllIn(WeightFormat format) {
  FormatPlan formats;
  formats.qkv = formats.attention_out = formats.gate_up = formats.down = formats.lm_head = format;
  formats.embedding = format == WeightFormat::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16;
  return formats;
}

// Every rank gets the same bits from both.
void ExpectSameWeights(const std::string& a_model, const std::string& b_model, const FormatPlan& formats, int ranks) {
  const auto a_config = LoadModelConfig(a_model), b_config = LoadModelConfig(b_model);
  ASSERT_TRUE(a_config.ok() && b_config.ok()) << a_config.status() << b_config.status();
  const Plan plan = OneStagePlan(*a_config, formats, ranks);
  for (const RankPlan& rank : plan.ranks) {
    RecordingDevice a_device, b_device;
    const auto a = LoadWeights(a_model, *a_config, plan, rank, a_device);
    const auto b = LoadWeights(b_model, *b_config, plan, rank, b_device);
    ASSERT_TRUE(a.ok()) << a.status();
    ASSERT_TRUE(b.ok()) << b.status();
    EXPECT_TRUE(SameTensor(a->embedding, b->embedding));
    EXPECT_TRUE(SameTensor(a->final_norm, b->final_norm));
    EXPECT_TRUE(SameWeight(a->lm_head, b->lm_head));
    ASSERT_EQ(a->layers.size(), b->layers.size());
    for (size_t i = 0; i < a->layers.size(); ++i) {
      const LayerWeights &x = a->layers[i], &y = b->layers[i];
      EXPECT_TRUE(SameWeight(x.qkv, y.qkv)) << i;
      EXPECT_TRUE(SameWeight(x.attention_out, y.attention_out)) << i;
      EXPECT_TRUE(SameWeight(x.gate_up, y.gate_up)) << i;
      EXPECT_TRUE(SameWeight(x.down, y.down)) << i;
      EXPECT_TRUE(SameTensor(x.attention_norm, y.attention_norm)) << i;
      EXPECT_TRUE(SameTensor(x.ffn_norm, y.ffn_norm)) << i;
      EXPECT_TRUE(SameTensor(x.q_norm, y.q_norm)) << i;
      EXPECT_TRUE(SameTensor(x.k_norm, y.k_norm)) << i;
    }
  }
}

class GgufModelTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ASSERT_TRUE(WriteRandomModel(GetParam(), dir()).ok()); }
  std::string dir() const { return folder_ / "m"; }
  std::string Export(const std::string& name, const GgufEncoder& encoder) {
    const std::string path = folder_ / (name + ".gguf");
    WriteFile(path, ExportGguf(dir(), encoder).Bytes());
    return path;
  }
  TemporaryFolder folder_;
};

TEST_P(GgufModelTest, ConfigurationIsThatOfTheFolder) {
  const auto folder = LoadModelConfig(dir()), file = LoadModelConfig(Export("a", EncodeAs("F32")));
  ASSERT_TRUE(folder.ok() && file.ok()) << folder.status() << file.status();
  EXPECT_EQ(file->architecture, folder->architecture);
  EXPECT_EQ(file->model_type, folder->model_type);
  EXPECT_EQ(file->shape.layers, folder->shape.layers);
  EXPECT_EQ(file->shape.hidden, folder->shape.hidden);
  EXPECT_EQ(file->shape.heads, folder->shape.heads);
  EXPECT_EQ(file->shape.kv_heads, folder->shape.kv_heads);
  EXPECT_EQ(file->shape.head_dim, folder->shape.head_dim);
  EXPECT_EQ(file->shape.ffn, folder->shape.ffn);
  EXPECT_EQ(file->shape.vocab, folder->shape.vocab);
  EXPECT_EQ(file->shape.qkv_bias, folder->shape.qkv_bias);
  EXPECT_EQ(file->shape.qk_norm, folder->shape.qk_norm);
  EXPECT_EQ(file->norm_eps, folder->norm_eps);
  EXPECT_EQ(file->tie_word_embeddings, folder->tie_word_embeddings);
  EXPECT_EQ(file->max_position_embeddings, folder->max_position_embeddings);
  EXPECT_EQ(file->bos_token_id, folder->bos_token_id);
  const auto expected = RopeInverseFrequencies(folder->rope, folder->shape.head_dim);
  const auto got = RopeInverseFrequencies(file->rope, file->shape.head_dim);
  ASSERT_EQ(got.size(), expected.size());
  // The factors of Llama 3 are rounded to floats in the file.
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i] / expected[i], 1, 2e-7) << i;
}

TEST_P(GgufModelTest, LosslessTypesGiveTheWeightsOfTheFolder) {
  for (const char* type : {"F32", "BF16"}) {  // The folder has BF16.
    const std::string file = Export(type, EncodeAs(type));
    for (const WeightFormat format :
         {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
      ExpectSameWeights(dir(), file, AllIn(format), 1);
    }
    ExpectSameWeights(dir(), file, AllIn(WeightFormat::kInt8), 3);
    ExpectSameWeights(dir(), file, AllIn(WeightFormat::kF32), 3);
  }
}

TEST_P(GgufModelTest, BlockTypesGiveTheFloatsTheyStandForInEveryFormatAndPlan) {
  for (const char* type : {"F16", "Q8_0", "Q4_0", "Q5_1"}) {
    const std::string file = Export(type, EncodeAs(type));
    const std::string decoded = Export("decoded", DecodedFrom(EncodeAs(type)));
    EXPECT_LT(std::filesystem::file_size(file), std::filesystem::file_size(decoded) + 1);
    ExpectSameWeights(decoded, file, AllIn(WeightFormat::kF32), 1);
    ExpectSameWeights(decoded, file, AllIn(WeightFormat::kF32), 4);
    ExpectSameWeights(decoded, file, AllIn(WeightFormat::kInt4), 3);
  }
}

TEST_P(GgufModelTest, APreparedFolderHasTheBitsOfTheFile) {
  const std::string file = Export("a", EncodeAs("Q4_1"));
  const FormatPlan formats = AllIn(WeightFormat::kInt8);
  const auto none = PreparedFormats(file);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_FALSE(none->has_value());
  const auto report = PrepareModel(file, folder_ / "p", formats);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->tensors.empty());
  const auto prepared = PreparedFormats(folder_ / "p");
  ASSERT_TRUE(prepared.ok() && prepared->has_value()) << prepared.status();
  ExpectSameWeights(file, folder_ / "p", formats, 1);
  ExpectSameWeights(file, folder_ / "p", formats, 2);
  const auto a = LoadModelConfig(file), b = LoadModelConfig(folder_ / "p");
  EXPECT_EQ(a->rope, b->rope);
  EXPECT_EQ(a->norm_eps, b->norm_eps);
  EXPECT_EQ(a->eos_token_ids, b->eos_token_ids);
}

INSTANTIATE_TEST_SUITE_P(Models, GgufModelTest, testing::Values("tiny-llama", "tiny-qwen2", "tiny-qwen3"),
                         [](const auto& info) { return std::string(info.param).substr(5); });

// Random values of a model whose rows hold blocks of 256.
ModelConfig WideConfig() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.model_type = "llama";
  config.shape.layers = 1;
  config.shape.hidden = 256;
  config.shape.heads = 8;
  config.shape.kv_heads = 4;
  config.shape.head_dim = 32;
  config.shape.ffn = 1280;
  config.shape.vocab = 96;
  config.max_position_embeddings = 256;
  config.eos_token_ids = {2};
  return config;
}

GgufWriter ExportWide(const ModelConfig& config, const GgufEncoder& encoder) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const auto values = [&](const ModelTensor& tensor) {
    std::vector<float> out(static_cast<size_t>(tensor.rows * tensor.cols));
    for (float& value : out) value = normal(random);
    return out;
  };
  return ExportGguf(config, values, encoder);
}

// Blocks of the type with random bits and small scales.
GgufEncoder RandomBlocks(std::string_view name) {
  return [type = GgufTypeNamed(name)](std::span<const float> values, int64_t) {
    std::mt19937 random(static_cast<uint32_t>(values.size()));
    GgufEncoded out{type, std::string(static_cast<size_t>(type.Bytes(static_cast<int64_t>(values.size()))), '\0')};
    for (char& c : out.bytes) c = static_cast<char>(random());
    const auto block = static_cast<size_t>(type.bits / 8);
    for (size_t i = 0; i < out.bytes.size(); i += block) {
      for (const size_t scale : {size_t{0}, size_t{2}}) out.bytes[i + scale + 1] = '\x14';  // Exponent 5 - 15.
      if (type.name == "Q6_K") out.bytes[i + block - 1] = '\x14';
    }
    return out;
  };
}

TEST(GgufBlocksOfRanksTest, SlicesThatCutBlocksAreThoseOfTheDecodedMatrix) {
  const TemporaryFolder folder;
  for (const char* type : {"Q4_K", "Q5_K", "Q6_K"}) {
    WriteFile(folder / "a.gguf", ExportWide(WideConfig(), RandomBlocks(type)).Bytes());
    WriteFile(folder / "b.gguf", ExportWide(WideConfig(), DecodedFrom(RandomBlocks(type))).Bytes());
    for (const int ranks : {1, 2, 3, 5}) {
      for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kInt8}) {
        ExpectSameWeights(folder / "b.gguf", folder / "a.gguf", AllIn(format), ranks);
      }
    }
  }
}

// What a file says when something in it is not as it must be.
class GgufRefusalTest : public testing::Test {
 protected:
  std::string ConfigMessage(const std::function<void(GgufWriter&)>& change) {
    GgufWriter gguf = ExportWide(WideConfig(), EncodeAs("F32"));
    change(gguf);
    WriteFile(path(), gguf.Bytes());
    const absl::Status status = LoadModelConfig(path()).status();
    if (status.ok()) return "";
    EXPECT_EQ(std::string(status.message()).find(path() + ": "), 0u) << status;
    return std::string(status.message());
  }
  std::string path() const { return folder_ / "x.gguf"; }
  TemporaryFolder folder_;
};

TEST_F(GgufRefusalTest, FeaturesThatChangeResultsAreRefusedByName) {
  const auto with = [&](const char* key, auto value) {
    return ConfigMessage([&](GgufWriter& gguf) { gguf.Add(key, value); });
  };
  EXPECT_THAT(with("llama.expert_count", 8u), HasSubstr("'llama.expert_count' is 8, which is not supported"));
  EXPECT_THAT(with("llama.rope.scaling.type", "yarn"), HasSubstr("'llama.rope.scaling.type' is 'yarn'"));
  EXPECT_THAT(with("llama.attention.sliding_window", 128u), HasSubstr("sliding-window attention is not supported"));
  EXPECT_THAT(with("llama.rope.dimension_count", 16u), HasSubstr("is 16, but heads have 32 values"));
  EXPECT_THAT(with("llama.final_logit_softcapping", 30.0f), HasSubstr("final_logit_softcapping"));
  EXPECT_THAT(with("llama.logit_scale", 0.5f), HasSubstr("'llama.logit_scale' is 0.5"));
  EXPECT_THAT(with("llama.vocab_size", 97u), HasSubstr("'llama.vocab_size' is 97, but token_embd.weight has 96 rows"));
  EXPECT_THAT(with("split.count", 3u), HasSubstr("is file 1 of 3 of a model; name the first, whose name ends in "
                                                 "-00001-of-00003.gguf"));
  EXPECT_EQ(with("split.count", 1u), "");
  EXPECT_EQ(with("llama.expert_count", 0u), "");
  EXPECT_EQ(with("llama.rope.scaling.type", "none"), "");
  EXPECT_EQ(with("llama.attention.sliding_window", 256u), "");
}

TEST_F(GgufRefusalTest, OtherArchitecturesAreRefusedByName) {
  GgufWriter gguf;
  gguf.Add("general.architecture", "gemma2");
  WriteFile(path(), gguf.Bytes());
  EXPECT_EQ(LoadModelConfig(path()).status().message(),
            path() + ": architecture 'gemma2'; supported are llama, qwen2 and qwen3");
  EXPECT_EQ(Checkpoint::Open(path()).status().code(), absl::StatusCode::kUnimplemented);
  WriteFile(path(), GgufWriter().Bytes());
  EXPECT_THAT(std::string(LoadModelConfig(path()).status().message()), HasSubstr("'general.architecture' is missing"));
}

TEST_F(GgufRefusalTest, SizesOutOfBoundsAreNamedByTheFilesOwnKey) {
  ModelConfig config = WideConfig();
  config.max_position_embeddings = 0;
  WriteFile(path(), ExportWide(config, EncodeAs("F32")).Bytes());
  EXPECT_EQ(LoadModelConfig(path()).status().message(),
            path() +
                ": field 'max_position_embeddings' is 0; supported are 1 to 67108864 (llama.context_length of the "
                "file)");
}

TEST_F(GgufRefusalTest, TensorsThatAreMissingOrHaveAnotherShapeAreNamedAsInTheFile) {
  const ModelConfig config = WideConfig();
  const auto load = [&](const ModelConfig& wanted) {
    const Plan plan = OneStagePlan(wanted, AllIn(WeightFormat::kF32), 1);
    RecordingDevice device;
    return std::string(LoadWeights(path(), wanted, plan, plan.ranks[0], device).status().message());
  };
  WriteFile(path(), ExportWide(config, EncodeAs("F32")).Bytes());
  EXPECT_EQ(load(config), "");
  ModelConfig other = config;
  other.shape.layers = 2;
  EXPECT_EQ(load(other), path() + ": tensor 'blk.1.attn_norm.weight' is missing from the weights");
  other = config;
  other.shape.ffn = 256;
  EXPECT_EQ(load(other),
            path() + ": tensor 'blk.0.ffn_gate.weight' has shape [1280, 256]; the metadata asks for [256, 256]");
  GgufWriter gguf = ExportWide(config, EncodeAs("F32"));
  gguf.AddTensor("blk.0.attn_output.bias", 0, {256}, std::string(1024, '\0'));
  WriteFile(path(), gguf.Bytes());
  EXPECT_THAT(load(config), HasSubstr("is a bias that LlamaForCausalLM does not have"));
  WriteFile(path(), ExportWide(config, [](std::span<const float> values, int64_t) {
                      return GgufEncoded{GgufTypeNamed("F32"), std::string(values.size() * 4, '\xff')};
                    }).Bytes());
  EXPECT_THAT(load(config), HasSubstr("holds NaN or infinity"));
}

TEST_F(GgufRefusalTest, ANormInBlocksIsRefused) {
  GgufWriter gguf;
  AddGgufConfig(WideConfig(), gguf);
  gguf.AddTensor("token_embd.weight", 0, {96, 256}, std::string(96 * 256 * 4, '\0'));
  gguf.AddTensor("blk.0.attn_norm.weight", 8, {256}, std::string(34 * 8, '\0'));
  WriteFile(path(), gguf.Bytes());
  const auto config = LoadModelConfig(path());
  ASSERT_TRUE(config.ok()) << config.status();
  const Plan plan = OneStagePlan(*config, AllIn(WeightFormat::kF32), 1);
  RecordingDevice device;
  EXPECT_THAT(std::string(LoadWeights(path(), *config, plan, plan.ranks[0], device).status().message()),
              HasSubstr("'blk.0.attn_norm.weight' has type Q8_0; norms and biases must be F32, BF16 or F16"));
}

TEST(GgufConfigTest, EndOfTextTokensAndSamplingDefaultsAreFound) {
  GgufWriter gguf;
  AddGgufConfig(WideConfig(), gguf);  // EOS is 2.
  gguf.Add("tokenizer.ggml.eot_token_id", 3u);
  gguf.Add("tokenizer.ggml.padding_token_id", UINT32_MAX);
  gguf.Add("tokenizer.ggml.tokens",
           std::vector<std::string>{"a", "<|im_end|>", "b", "c", "<|endoftext|>", "<|eot_id|>"});
  gguf.AddNumbers("tokenizer.ggml.token_type", GgufValueType::kInt32, std::vector<int32_t>{1, 3, 1, 1, 3, 1});
  gguf.Add("general.sampling.temp", 0.5f);
  gguf.Add("general.sampling.top_k", GgufValueType::kInt32, RawBytes<int32_t>(20));
  const TemporaryFolder folder;
  WriteFile(folder / "a.gguf", gguf.Bytes());
  const auto config = LoadModelConfig(folder / "a.gguf");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->shape.vocab, 6);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2, 3, 1, 4));
  EXPECT_EQ(config->temperature, 0.5f);
  EXPECT_EQ(config->top_k, 20);
  EXPECT_EQ(config->top_p, -1);
}

// The tensors of a file dealt to several, as llama.cpp's gguf-split does it.
class GgufSplitTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteFile(folder_ / "whole.gguf", ExportWide(WideConfig(), EncodeAs("Q8_0")).Bytes());
    Write(3, 3);
  }
  void Write(uint32_t files, uint32_t files_of_last, int missing_tensors = 0) {
    const std::string whole = ReadFile(folder_ / "whole.gguf");
    const auto header = ParseGguf(std::as_bytes(std::span(whole)), "whole");
    ASSERT_TRUE(header.ok()) << header.status();
    const size_t tensors = header->tensors.size();
    for (uint32_t i = 0; i < files; ++i) {
      GgufWriter gguf;
      if (i == 0) AddGgufConfig(WideConfig(), gguf);
      gguf.Add("split.no", GgufValueType::kUint16, RawBytes(static_cast<uint16_t>(i)));
      const auto count = static_cast<uint16_t>(i + 1 == files ? files_of_last : files);
      gguf.Add("split.count", GgufValueType::kUint16, RawBytes(count));
      gguf.Add("split.tensors.count", GgufValueType::kInt32, RawBytes(static_cast<int32_t>(tensors)));
      for (size_t t = i * tensors / files; t < (i + 1) * tensors / files; ++t) {
        if (i + 1 == files && missing_tensors-- > 0) continue;
        const StoredTensor& tensor = header->tensors[t];
        gguf.AddTensor(tensor.name, GgufTypeId(tensor.type), tensor.shape,
                       whole.substr(header->data_offset + tensor.begin, tensor.bytes()));
      }
      WriteFile(Part(i + 1, files), gguf.Bytes());
    }
  }
  std::string Part(uint32_t number, uint32_t files) const {
    return folder_ /
           absl::StrCat("m-", absl::Dec(number, absl::kZeroPad5), "-of-", absl::Dec(files, absl::kZeroPad5), ".gguf");
  }
  static std::string Message(const std::string& path) {
    EXPECT_EQ(LoadModelConfig(path).status(), Checkpoint::Open(path).status());
    return std::string(Checkpoint::Open(path).status().message());
  }
  TemporaryFolder folder_;
};

TEST_F(GgufSplitTest, SeveralFilesAreOneModel) {
  for (const int ranks : {1, 3}) {
    ExpectSameWeights(folder_ / "whole.gguf", Part(1, 3), AllIn(WeightFormat::kInt8), ranks);
  }
}

TEST_F(GgufSplitTest, FilesThatDoNotFitTogetherAreRefused) {
  EXPECT_THAT(Message(Part(2, 3)), HasSubstr("is file 2 of 3 of a model; name the first"));
  Write(3, 4);
  EXPECT_EQ(Message(Part(1, 3)), Part(3, 3) + ": says that it is file 3 of 4; download the files again");
  Write(3, 3, 1);
  EXPECT_THAT(Message(Part(1, 3)), HasSubstr("'split.tensors.count' is 12, but its 3 files have 11 tensors"));
  std::filesystem::copy_file(Part(1, 3), Part(3, 3), std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(Message(Part(1, 3)), HasSubstr(StrCat("is also in ", Part(1, 3))));
  std::filesystem::remove(Part(2, 3));
  EXPECT_EQ(Checkpoint::Open(Part(1, 3)).status().code(), absl::StatusCode::kNotFound);
}

TEST(GgufPathTest, OnlyFilesNamedSoAreTakenForGguf) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "folder.gguf");
  EXPECT_FALSE(IsGgufPath(folder / "folder.gguf"));
  EXPECT_FALSE(IsGgufPath(folder / "a.bin"));
  EXPECT_TRUE(IsGgufPath(folder / "absent.gguf"));
  EXPECT_EQ(LoadModelConfig(folder / "absent.gguf").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Checkpoint::Open(folder / "absent.gguf").status().code(), absl::StatusCode::kNotFound);
}

TEST(GgufTensorNamesTest, AreTranslatedBothWays) {
  EXPECT_EQ(HuggingFaceTensorName("blk.12.attn_q.weight"), "model.layers.12.self_attn.q_proj.weight");
  EXPECT_EQ(HuggingFaceTensorName("blk.0.attn_k.bias"), "model.layers.0.self_attn.k_proj.bias");
  EXPECT_EQ(HuggingFaceTensorName("output.weight"), "lm_head.weight");
  for (const char* name : {"blk.x.attn_q.weight", "blk..attn_q.weight", "blk.1.attn_q", "blk.1.weight", "blk.1",
                           "blk.1.ffn_gate_inp.weight", "rope_freqs.weight", ""}) {
    EXPECT_EQ(HuggingFaceTensorName(name), "") << name;
  }
  ModelShape shape = WideConfig().shape;
  shape.qkv_bias = shape.qk_norm = true;
  for (const ModelTensor& tensor : ModelTensors(shape)) {
    EXPECT_NE(GgufTensorName(tensor.name), tensor.name);
    EXPECT_EQ(HuggingFaceTensorName(GgufTensorName(tensor.name)), tensor.name);
  }
  EXPECT_EQ(GgufTensorName("visual.patch"), "visual.patch");
}

}  // namespace
}  // namespace shoal
