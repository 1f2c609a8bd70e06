// Real trained weights as GGUF files: their golden text, and what each type does to their loss.
#include "base/read_file.h"
#include "model/config.h"
#include "model/prepare.h"
#include "tests/integration/real_model.h"
#include "tests/support/gguf_export.h"

namespace shoal {
namespace {

class GgufRunTest : public RealModelTest {
 protected:
  std::string RealFile() const { return data_ + "/weights/stories260K/stories260K.gguf"; }

  LocalClusterOptions OptionsFor(const std::string& model, const std::vector<int>& stages, WeightFormat format) {
    LocalClusterOptions options;
    options.model_dir = model;
    options.request = RequestWithStages(stages, format, DType::kF32);
    options.request.max_step_tokens = 512;
    options.request.max_sequences = 512;
    return options;
  }

  // Stories260K, converted from its other form, in one type.
  std::string Export(std::string_view type) {
    Convert("stories260K/stories260K.bin");
    const std::string path = dir_ + "/" + std::string(type) + ".gguf";
    std::ofstream(path, std::ios::binary) << ExportGguf(dir_, EncodeAs(type)).Bytes();
    return path;
  }

  double Loss(const std::string& model, WeightFormat format, const Tokenizer& tokenizer,
              const std::vector<int>& stages = {1}) {
    int64_t tokens = 0;
    const double loss = MeanLoss(OptionsFor(model, stages, format), tokenizer, 100, &tokens);
    EXPECT_EQ(tokens, 9618);
    return loss;
  }
};

TEST_F(GgufRunTest, TheRealFileWritesTheGoldenTextWithItsOwnTokenizerAndHasTheSameLoss) {
  const auto tokenizer = Tokenizer::Load(RealFile());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const LocalClusterOptions folder = Convert("stories260K/stories260K.bin");
  for (const std::vector<int>& stages : {std::vector<int>{1}, {2}, {1, 2}}) {
    ExpectGoldenText("stories260K.json", OptionsFor(RealFile(), stages, WeightFormat::kF32), **tokenizer);
  }
  const auto other_tokenizer = LoadTokenizer("stories260K/tok512.bin", 512);
  int64_t tokens = 0;
  const double expected = MeanLoss(folder, *other_tokenizer, 100, &tokens);
  EXPECT_EQ(Loss(RealFile(), WeightFormat::kF32, **tokenizer), expected);
  EXPECT_EQ(Loss(RealFile(), WeightFormat::kF32, **tokenizer, {2}), expected);
}

TEST_F(GgufRunTest, TheTokenizerOfTheRealFileIsThatOfItsOtherForm) {
  const auto a = Tokenizer::Load(RealFile());
  ASSERT_TRUE(a.ok()) << a.status();
  const auto b = LoadTokenizer("stories260K/tok512.bin", 512);
  std::ifstream file(data_ + "/text/tinystories_val.txt");
  std::string line;
  for (int lines = 0; lines < 2000 && std::getline(file, line); ++lines) {
    const auto ids = (*a)->Encode(line);
    ASSERT_TRUE(ids.ok()) << ids.status();
    ASSERT_EQ(*ids, *b->Encode(line)) << line;
    const std::vector<int32_t> words(ids->begin() + 1, ids->end());  // The other form has no control tokens to skip.
    ASSERT_EQ(*(*a)->Decode(words, true), *b->Decode(words, true));
  }
}

TEST_F(GgufRunTest, LosslessTypesKeepTheLossAndOthersCostWhatTheirBitsCost) {
  const auto tokenizer = LoadTokenizer("stories260K/tok512.bin", 512);
  int64_t tokens = 0;
  const double expected = MeanLoss(Convert("stories260K/stories260K.bin"), *tokenizer, 100, &tokens);
  struct Case {
    const char* type;
    double cost;  // In nats per token, at most.
  };
  for (const Case& test : {Case{"F32", 0}, Case{"F16", 1e-4}, Case{"BF16", 1e-3}, Case{"Q8_0", 1e-3},
                           Case{"Q5_1", 0.02}, Case{"Q5_0", 0.03}, Case{"Q4_1", 0.15}, Case{"Q4_0", 0.15}}) {
    const double loss = Loss(Export(test.type), WeightFormat::kF32, *tokenizer);
    std::printf("  stories260K in %s: mean loss %.6f (%+.6f)\n", test.type, loss, loss - expected);
    if (test.cost == 0) {
      EXPECT_EQ(loss, expected);
    } else {
      EXPECT_LT(loss - expected, test.cost) << test.type;
      EXPECT_NE(loss, expected) << test.type;
    }
  }
}

TEST_F(GgufRunTest, AFolderPreparedFromAFileWritesTheSameTextAsTheFile) {
  const std::string prepared = dir_ + "/prepared";
  FormatPlan formats = RequestWithStages({1}, WeightFormat::kF32, DType::kF32).formats;
  const auto report = PrepareModel(RealFile(), prepared, formats);
  ASSERT_TRUE(report.ok()) << report.status();
  const auto tokenizer = Tokenizer::Load(prepared);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGoldenText("stories260K.json", OptionsFor(prepared, {1}, WeightFormat::kF32), **tokenizer);
}

}  // namespace
}  // namespace shoal
