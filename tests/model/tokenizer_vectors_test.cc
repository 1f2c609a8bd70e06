// The tokenizer against vectors of other implementations: Hugging Face transformers (golden files of the demo model),
// llama.cpp and an independent checker (shared test data).
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/json.h"
#include "base/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/detokenizer.h"
#include "model/tokenizer.h"
#include "model/tokenizer_json.h"
#include "tests/model/model_folder.h"
#include "tests/model/tokenizer_test_data.h"
#include "tests/support/gguf_writer.h"

namespace shoal {
namespace {

constexpr EncodeOptions kPlain = {.add_special_tokens = false, .parse_special = false};

// FIPS 180-4, for the hashes of long vectors.
std::string Sha256(std::string text) {
  static constexpr std::array<uint32_t, 64> k = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::array<uint32_t, 8> h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const uint64_t bits = text.size() * 8;
  text.push_back('\x80');
  while (text.size() % 64 != 56) text.push_back('\0');
  for (int i = 7; i >= 0; --i) text.push_back(static_cast<char>(bits >> (8 * i)));
  const auto rotate = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  for (size_t block = 0; block < text.size(); block += 64) {
    std::array<uint32_t, 64> w;
    for (size_t i = 0; i < 16; ++i) {
      w[i] = 0;
      for (size_t b = 0; b < 4; ++b) w[i] = w[i] << 8 | static_cast<unsigned char>(text[block + 4 * i + b]);
    }
    for (size_t i = 16; i < 64; ++i) {
      w[i] = w[i - 16] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
             (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    }
    auto s = h;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                          ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
      const uint32_t t2 =
          (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (size_t i = 0; i < 8; ++i) h[i] += s[i];
  }
  std::string hex;
  for (const uint32_t word : h) hex += absl::StrCat(absl::Hex(word, absl::kZeroPad8));
  return hex;
}

// One token at a time, as a stream: every piece must be valid UTF-8.
std::string DecodeIncrementally(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  IncrementalDecoder decoder(&tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const auto piece = decoder.Push(id);
    EXPECT_TRUE(piece.ok()) << piece.status();
    EXPECT_TRUE(IsValidUtf8(*piece));
    text += *piece;
  }
  return text + decoder.Finish();
}

class SharedTokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    data_ = SharedTestData();
    if (data_.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: real tokenizers not tested";
  }
  // Loaded once per program.
  const Tokenizer& Load(const std::string& name) {
    static std::map<std::string, std::unique_ptr<Tokenizer>> loaded;
    if (!loaded.contains(name)) {
      auto tokenizer = Tokenizer::Load(data_ + "/tokenizers/" + name);
      EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
      loaded[name] = *std::move(tokenizer);
    }
    return *loaded[name];
  }
  Json ReadJson(const std::string& name) {
    auto json = ReadJsonFile(data_ + "/" + name, 64 << 20);
    EXPECT_TRUE(json.ok()) << json.status();
    return *json;
  }
  void CheckLlamaCppVectors(const Tokenizer& tokenizer, const std::string& vectors) {
    const std::string base = data_ + "/llamacpp_vocab/ggml-vocab-" + vectors + ".gguf";
    const std::vector<std::string> inputs = absl::StrSplit(ReadTestFile(base + ".inp"), "\n__ggml_vocab_test__\n");
    const std::vector<std::string> outputs = absl::StrSplit(ReadTestFile(base + ".out"), '\n');
    ASSERT_EQ(inputs.size(), outputs.size());
    size_t passed = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      std::vector<int32_t> expected;
      for (const auto part : absl::StrSplit(outputs.at(i), ' ', absl::SkipEmpty())) {
        int id = 0;
        ASSERT_TRUE(absl::SimpleAtoi(part, &id));
        expected.push_back(id);
      }
      const auto ids = tokenizer.Encode(inputs[i], {.add_special_tokens = false});
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, expected) << "input " << i << ": '" << inputs[i] << "'";
      EXPECT_EQ(DecodeIncrementally(tokenizer, *ids, false), *tokenizer.Decode(*ids, false));
      passed += *ids == expected ? 1 : 0;
    }
    EXPECT_EQ(passed, 47);
  }
  std::string data_;
};

TEST_F(SharedTokenizerTest, Qwen2AgreesWithLlamaCpp) { CheckLlamaCppVectors(Load("qwen2"), "qwen2"); }

TEST_F(SharedTokenizerTest, DeepSeekR1AgreesWithLlamaCpp) {
  CheckLlamaCppVectors(Load("deepseek-r1-distill-qwen"), "deepseek-r1-qwen");
}

// The vocabularies, merges and pre-tokenizers of GGUF files.
TEST_F(SharedTokenizerTest, GgufVocabulariesAgreeWithLlamaCpp) {
  for (const char* name : {"gpt-2", "deepseek-coder"}) {
    const auto tokenizer = Tokenizer::Load(data_ + "/llamacpp_vocab/ggml-vocab-" + name + ".gguf");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    CheckLlamaCppVectors(**tokenizer, name);
  }
}

// A GGUF file with what a tokenizer.json has, as converters write it.
std::string GgufOf(const TokenizerSpec& spec, const std::string& pre) {
  GgufWriter gguf;
  gguf.Add("tokenizer.ggml.model", "gpt2");
  gguf.Add("tokenizer.ggml.pre", pre);
  std::vector<std::string> tokens = spec.tokens, merges;
  std::vector<int32_t> types(tokens.size(), 1);
  for (const AddedToken& added : spec.added_tokens) {
    const auto id = static_cast<size_t>(added.id);
    if (id >= tokens.size()) tokens.resize(id + 1), types.resize(id + 1, 5);
    tokens[id] = added.content;
    types[id] = added.special ? 3 : 4;
  }
  for (const auto& [left, right] : spec.merges) merges.push_back(left + " " + right);
  gguf.Add("tokenizer.ggml.tokens", tokens);
  gguf.AddNumbers("tokenizer.ggml.token_type", GgufValueType::kInt32, types);
  gguf.Add("tokenizer.ggml.merges", merges);
  gguf.Add("tokenizer.ggml.add_bos_token", false);
  return gguf.Bytes();
}

TEST_F(SharedTokenizerTest, Qwen2VocabulariesInGgufAgreeWithLlamaCppAndWithTokenizerJson) {
  for (const auto& [folder, pre] :
       {std::pair("qwen2", "qwen2"), std::pair("deepseek-r1-distill-qwen", "deepseek-r1-qwen")}) {
    const auto spec = ReadTokenizerFiles(data_ + "/tokenizers/" + folder);
    ASSERT_TRUE(spec.ok()) << spec.status();
    const TemporaryFolder temporary;
    WriteFile(temporary / "v.gguf", GgufOf(*spec, pre));
    const auto tokenizer = Tokenizer::Load(temporary / "v.gguf");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    CheckLlamaCppVectors(**tokenizer, pre);
    for (const char* text : {"e\u0301\u0327 <|im_start|>user", "<\uff5cUser\uff5c>Who's there? 12345"}) {
      for (const bool parse_special : {false, true}) {
        const EncodeOptions options = {.add_special_tokens = false, .parse_special = parse_special};
        EXPECT_EQ(*(*tokenizer)->Encode(text, options), *Load(folder).Encode(text, options)) << text;
      }
    }
    EXPECT_EQ((*tokenizer)->special_ids(), Load(folder).special_ids());
    EXPECT_EQ((*tokenizer)->added_ids(), Load(folder).added_ids());
  }
}

TEST_F(SharedTokenizerTest, DeepSeekR1AgreesOnHardStrings) {
  const Tokenizer& tokenizer = Load("deepseek-r1-distill-qwen");
  const Json golden = ReadJson("golden/bpe_vectors_deepseek-r1-distill-qwen.json");
  size_t passed = 0;
  for (const Json& vector : golden["blns"]) {
    const std::string text = vector["text"];
    const auto ids = tokenizer.Encode(text, kPlain);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, vector["ids"].get<std::vector<int32_t>>()) << text;
    passed += *ids == vector["ids"].get<std::vector<int32_t>>() ? 1 : 0;
  }
  EXPECT_EQ(passed, 515);
}

TEST_F(SharedTokenizerTest, DeepSeekR1AgreesOnLongTexts) {
  const Tokenizer& tokenizer = Load("deepseek-r1-distill-qwen");
  const Json golden = ReadJson("golden/bpe_vectors_deepseek-r1-distill-qwen.json");
  size_t passed = 0;
  for (const Json& file : golden["files"]) {
    const std::string path = data_ + "/" + file["file"].get<std::string>();
    if (!std::filesystem::exists(path)) continue;  // Two of the four texts are not part of the data.
    const std::string text = ReadTestFile(path);
    size_t end = 0;
    for (size_t units = 0; end < text.size() && units < file["first_chars_utf16"].get<size_t>();) {
      units += DecodeUtf8(text, &end) > 0xFFFF ? 2 : 1;
    }
    const auto ids = tokenizer.Encode(std::string_view(text).substr(0, end), kPlain);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(ids->size(), file["count"].get<size_t>());
    EXPECT_EQ(Sha256(absl::StrJoin(*ids, " ")), file["sha256_of_ids_joined_by_space"]) << path;
    ++passed;
  }
  EXPECT_GE(passed, 2);
}

TEST_F(SharedTokenizerTest, DeepSeekR1GreedyIdsDecodeToTheirText) {
  const Tokenizer& tokenizer = Load("deepseek-r1-distill-qwen");
  const Json golden = ReadJson("golden/r1_distill_qwen_1.5b_greedy_who_are_you.json");
  std::vector<int32_t> ids = golden["prompt_ids"];
  for (const int32_t id : golden["output_ids"]) ids.push_back(id);
  EXPECT_EQ(*tokenizer.Decode(ids, true), golden["decoded_skip_special"]);
  EXPECT_EQ(DecodeIncrementally(tokenizer, ids, true), golden["decoded_skip_special"]);
  // The template writes BOS as text and the tokenizer adds another: what transformers does with these files.
  const auto prompt = tokenizer.Encode("<｜begin▁of▁sentence｜><｜User｜>Who are you?<｜Assistant｜><think>\n");
  EXPECT_EQ(*prompt, golden["prompt_ids"].get<std::vector<int32_t>>());
}

TEST_F(SharedTokenizerTest, ValidTextsComeBackFromDecode) {
  for (const char* name : {"deepseek-r1-distill-qwen", "qwen2"}) {
    const Tokenizer& tokenizer = Load(name);
    for (const char* file : {"unicode/kuhn_UTF-8-test.txt", "unicode/utf8tests.bin", "text/wikitext2.wiki.test.raw"}) {
      // The ill-formed parts are replaced first, as a server would refuse them.
      const std::string text = ReplaceInvalidUtf8(ReadTestFile(data_ + "/" + file));
      const auto ids = tokenizer.Encode(text, kPlain);
      ASSERT_TRUE(ids.ok()) << ids.status();
      const std::string decoded = *tokenizer.Decode(*ids, false);
      EXPECT_EQ(DecodeIncrementally(tokenizer, *ids, false), decoded);
      const auto again = tokenizer.Encode(decoded, kPlain);  // NFC may have changed the text, once.
      EXPECT_EQ(*tokenizer.Decode(*again, false), decoded);
    }
  }
}

TEST_F(SharedTokenizerTest, InvalidUtf8IsRefusedWithItsOffset) {
  const Tokenizer& tokenizer = Load("qwen2");
  const auto lines = absl::StrSplit(ReadTestFile(data_ + "/unicode/utf8tests.bin"), '\n');
  size_t refused = 0;
  for (const absl::string_view line : lines) {
    const std::string text(line);
    const auto ids = tokenizer.Encode(text, kPlain);
    EXPECT_EQ(ids.ok(), IsValidUtf8(text)) << text;
    if (!ids.ok()) {
      EXPECT_THAT(std::string(ids.status().message()),
                  testing::HasSubstr(absl::StrCat("not valid UTF-8 at byte ", FindInvalidUtf8(text))));
      ++refused;
    }
  }
  EXPECT_GT(refused, 20);
}

TEST_F(SharedTokenizerTest, UserTextCannotWriteControlTokensWhenAskedSo) {
  const Tokenizer& tokenizer = Load("deepseek-r1-distill-qwen");
  for (const int32_t id : tokenizer.added_ids()) {
    const std::string text(*tokenizer.IdToToken(id));
    EXPECT_THAT(*tokenizer.Encode(text, kPlain), testing::Not(testing::Contains(id))) << text;
    EXPECT_EQ(*tokenizer.Encode(text, {.add_special_tokens = false}), std::vector<int32_t>{id});
  }
}

TEST_F(SharedTokenizerTest, LongRunsOfOneCharacterTakeLinearTime) {
  const Tokenizer& tokenizer = Load("deepseek-r1-distill-qwen");
  for (const std::string unit : {"a", " ", "!", "7", "\n", "é", "e\u0301\u0327", "😀", " a", "\t "}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    const auto ids =
        tokenizer.Encode(text, kPlain);  // The test's own time limit is what a quadratic merge would break.
    ASSERT_TRUE(ids.ok()) << unit << ids.status();
    EXPECT_GT(ids->size(), 0);
  }
}

TEST(DemoTokenizerTest, AgreesWithTransformers) {
  const std::string source = SHOAL_SOURCE_DIR;
  const auto golden = ReadJsonFile(source + "/tests/golden/demo_tokenizer.json", 16 << 20);
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto tokenizer = Tokenizer::Load(source + "/deploy/demo_model");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const Json& vector : (*golden)["strings"]) {
    const std::string text = vector["text"];
    const auto ids = (*tokenizer)->Encode(text, {.add_special_tokens = false});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, vector["ids"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(*(*tokenizer)->Decode(*ids, false), vector["decoded"]);
    EXPECT_EQ(DecodeIncrementally(**tokenizer, *ids, false), vector["decoded"]);
  }
}

}  // namespace
}  // namespace shoal
