#include "model/prepare.h"

#include <sys/stat.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/random_model.h"
#include "tests/model/model_folder.h"
#include "tests/model/one_stage_plan.h"
#include "tests/model/recording_device.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

FormatPlan Formats(WeightFormat most, WeightFormat down, WeightFormat head, WeightFormat embedding) {
  FormatPlan formats;
  formats.qkv = formats.attention_out = formats.gate_up = most;
  formats.down = down;
  formats.lm_head = head;
  formats.embedding = embedding;
  return formats;
}
const FormatPlan kMixed = Formats(WeightFormat::kInt4, WeightFormat::kInt8, WeightFormat::kInt8, WeightFormat::kBF16);

struct PreparedCase {
  const char* shape;
  DType type;
  FormatPlan formats;
};

class PreparedTest : public ::testing::TestWithParam<PreparedCase> {};

TEST_P(PreparedTest, LoadsTheVeryBitsThatQuantizingWhileLoadingGives) {
  const PreparedCase& test = GetParam();
  const TemporaryFolder folder;
  RandomModelOptions random;
  random.dtype = test.type;
  ASSERT_TRUE(WriteRandomModel(test.shape, folder / "m", random).ok());
  PrepareOptions options;
  options.shard_bytes_max = 200'000;
  int64_t last = 0, all = -1;
  options.progress = [&](int64_t done, int64_t total) {
    last = done, all = total;
    return absl::OkStatus();
  };
  const auto report = PrepareModel(folder / "m", folder / "p", test.formats, options);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(last, all);
  const auto found = PreparedFormats(folder / "p");
  ASSERT_TRUE(found.ok() && found->has_value()) << found.status();
  EXPECT_EQ((*found)->down, test.formats.down);
  EXPECT_EQ((*found)->embedding, test.formats.embedding);

  const auto config = LoadModelConfig(folder / "p");
  ASSERT_TRUE(config.ok()) << config.status();
  const Plan plan = OneStagePlan(*config, test.formats, 3);
  for (const RankPlan& rank : plan.ranks) {
    RecordingDevice direct_device, prepared_device;
    const auto direct = LoadWeights(folder / "m", *config, plan, rank, direct_device);
    const auto prepared = LoadWeights(folder / "p", *config, plan, rank, prepared_device);
    ASSERT_TRUE(direct.ok()) << direct.status();
    ASSERT_TRUE(prepared.ok()) << prepared.status();
    EXPECT_TRUE(SameTensor(direct->embedding, prepared->embedding));
    EXPECT_TRUE(SameTensor(direct->final_norm, prepared->final_norm));
    EXPECT_TRUE(SameWeight(direct->lm_head, prepared->lm_head));
    ASSERT_EQ(direct->layers.size(), prepared->layers.size());
    for (size_t i = 0; i < direct->layers.size(); ++i) {
      const LayerWeights &a = direct->layers[i], &b = prepared->layers[i];
      EXPECT_TRUE(SameWeight(a.qkv, b.qkv));
      EXPECT_TRUE(SameWeight(a.attention_out, b.attention_out));
      EXPECT_TRUE(SameWeight(a.gate_up, b.gate_up));
      EXPECT_TRUE(SameWeight(a.down, b.down));
      EXPECT_TRUE(SameTensor(a.attention_norm, b.attention_norm));
      EXPECT_TRUE(SameTensor(a.ffn_norm, b.ffn_norm));
      EXPECT_TRUE(SameTensor(a.q_norm, b.q_norm));
      EXPECT_TRUE(SameTensor(a.k_norm, b.k_norm));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, PreparedTest,
    ::testing::Values(
        PreparedCase{"tiny-qwen2", DType::kBF16, kMixed},
        PreparedCase{"tiny-qwen3", DType::kF32,
                     Formats(WeightFormat::kInt8, WeightFormat::kBF16, WeightFormat::kF32, WeightFormat::kF32)},
        PreparedCase{"tiny-llama", DType::kBF16, kMixed},
        PreparedCase{"tiny-llama", DType::kBF16,
                     Formats(WeightFormat::kInt4, WeightFormat::kInt4, WeightFormat::kBF16, WeightFormat::kBF16)},
        PreparedCase{"tiny-llama", DType::kF32,
                     Formats(WeightFormat::kInt4, WeightFormat::kInt4, WeightFormat::kF32, WeightFormat::kBF16)}));

// A prepared folder that tests spoil.
class PreparedFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(WriteRandomModel("tiny-qwen2", folder_ / "m").ok());
    const auto report = PrepareModel(folder_ / "m", dir(), kMixed);
    ASSERT_TRUE(report.ok()) << report.status();
    report_ = *report;
    config_ = *LoadModelConfig(dir());
  }
  std::string dir() const { return folder_ / "p"; }
  std::string Message(const FormatPlan& formats = kMixed) {
    const Plan plan = OneStagePlan(config_, formats, 1);
    RecordingDevice device;
    return std::string(LoadWeights(dir(), config_, plan, plan.ranks[0], device).status().message());
  }
  // Replaces text of equal length in the header.
  void Replace(const std::string& from, const std::string& to) {
    const std::string path = dir() + "/model.safetensors";
    std::string bytes = ReadFile(path);
    const size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    WriteFile(path, bytes.replace(at, from.size(), to));
  }
  // Overwrites one byte of a tensor.
  void Poke(const std::string& name, size_t at, char value) {
    const std::string path = dir() + "/model.safetensors";
    std::string bytes = ReadFile(path);
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    const uint64_t begin = Json::parse(bytes.substr(8, length))[name]["data_offsets"][0];
    bytes[8 + length + begin + at] = value;
    WriteFile(path, bytes);
  }
  TemporaryFolder folder_;
  ModelConfig config_;
  QuantizationReport report_;
};

TEST_F(PreparedFolderTest, ReportListsEveryQuantizedTensor) {
  EXPECT_EQ(report_.tensors.size(), 4u * 7 + 1);
  for (const QuantizedTensor& tensor : report_.tensors) {
    const bool int4 = tensor.format == WeightFormat::kInt4;
    EXPECT_LT(tensor.error.relative(), int4 ? 0.0065 : 1e-4) << tensor.name;
    EXPECT_GT(tensor.error.relative(), int4 ? 0.003 : 1e-5) << tensor.name;
  }
  EXPECT_EQ(report_.tensors.back().name, "lm_head.weight");
}

TEST_F(PreparedFolderTest, FolderIsCompleteAndNothingIsLeftBeside) {
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_EQ(ReadFile(dir() + "/" + name), ReadFile(folder_ / ("m/" + std::string(name)))) << name;
  }
  int entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_.path())) ++entries;
  EXPECT_EQ(entries, 2);
}

TEST_F(PreparedFolderTest, OtherFormatsThanPreparedAreRefused) {
  EXPECT_EQ(Message(), "");
  FormatPlan other = kMixed;
  other.down = WeightFormat::kInt4;
  EXPECT_THAT(Message(other), HasSubstr("was prepared with down in int8, but int4 is asked for"));
  other = kMixed;
  other.embedding = WeightFormat::kF32;
  EXPECT_THAT(Message(other), HasSubstr("embedding in bf16, but f32 is asked for"));
}

TEST_F(PreparedFolderTest, AnotherVersionOrShapeIsRefused) {
  Replace("\"shoal.prepared\":\"1\"", "\"shoal.prepared\":\"2\"");
  EXPECT_THAT(Message(), HasSubstr("prepared in version '2'"));
  Replace("\"shoal.prepared\":\"2\"", "\"shoal.prepared\":\"1\"");
  Replace("layers=4,", "layers=5,");
  EXPECT_THAT(Message(), HasSubstr("prepared for another config.json"));
  EXPECT_THAT(std::string(PreparedFormats(dir()).status().message()), HasSubstr("another config.json"));
  Replace("layers=5,", "layers=4,");
  Replace("down=int8", "down=int7");
  EXPECT_THAT(Message(), HasSubstr("'int7' is not a weight format"));
  Replace("down=int7", "dawn=int8");
  EXPECT_THAT(Message(), HasSubstr("lacks 'down'"));
}

TEST_F(PreparedFolderTest, IntegersOutOfRangeAreRefused) {
  const std::string q = "model.layers.1.self_attn.q_proj.weight", down = "model.layers.1.mlp.down_proj.weight";
  Poke(down + ".q8", 77, static_cast<char>(-128));
  EXPECT_THAT(Message(), HasSubstr("'" + down + ".q8' holds -128"));
  Poke(down + ".q8", 77, 0);
  for (char n : {char{0}, char{17}, static_cast<char>(255)}) {
    Poke(q + ".n", 3, n);
    EXPECT_THAT(Message(), HasSubstr("'" + q + ".n' and its offsets leave the range"));
  }
  Poke(q + ".n", 3, 16);
  for (char m : {char{127}, static_cast<char>(-128), static_cast<char>(-112)}) {
    Poke(q + ".m", 3, m);
    EXPECT_THAT(Message(), HasSubstr("leave the range of an int8 weight"));
  }
  Poke(q + ".m", 3, static_cast<char>(-120));
  EXPECT_EQ(Message(), "");
  Poke(q + ".scale", 3, 0x7f);
  Poke(q + ".scale", 2, static_cast<char>(0xff));
  EXPECT_THAT(Message(), HasSubstr(".scale' holds NaN or infinity"));
}

TEST_F(PreparedFolderTest, MissingPartsAndWrongTypesAreNamed) {
  Replace("q_proj.weight.scale\"", "q_proj.weight.skale\"");
  EXPECT_THAT(Message(), HasSubstr("q_proj.weight.scale' is missing"));
  Replace("q_proj.weight.skale\"", "q_proj.weight.scale\"");
  std::string bytes = ReadFile(dir() + "/model.safetensors");
  const size_t at = bytes.find("\"I8\"", bytes.find("down_proj.weight.q8"));
  WriteFile(dir() + "/model.safetensors", bytes.replace(at, 4, "\"U8\""));
  EXPECT_THAT(Message(), HasSubstr("down_proj.weight.q8' has type U8; it must be I8"));
}

TEST_F(PreparedFolderTest, PreparingTwiceOrOverSomethingIsRefused) {
  EXPECT_THAT(std::string(PrepareModel(dir(), folder_ / "q", kMixed).status().message()),
              HasSubstr("is already prepared"));
  const auto over = PrepareModel(folder_ / "m", dir() + "/", kMixed);
  EXPECT_EQ(over.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(PrepareModel(folder_ / "m", folder_ / "no/such", kMixed).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PreparedFolderTest, AFailureLeavesNothingBehind) {
  const std::string path = folder_ / "m/model.safetensors";
  std::string bytes = ReadFile(path);
  const uint16_t nan = 0x7fc0;
  std::memcpy(bytes.data() + bytes.size() - 2, &nan, 2);
  WriteFile(path, bytes);
  EXPECT_THAT(std::string(PrepareModel(folder_ / "m", folder_ / "q", kMixed).status().message()),
              HasSubstr("holds NaN"));
  int entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_.path())) ++entries;
  EXPECT_EQ(entries, 2);
}

TEST_F(PreparedFolderTest, AnOrdinaryFolderHasNoPreparedFormats) {
  const auto found = PreparedFormats(folder_ / "m");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_FALSE(found->has_value());
}

}  // namespace
}  // namespace shoal
