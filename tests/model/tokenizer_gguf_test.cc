#include "model/tokenizer_gguf.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"
#include "tests/model/model_folder.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/shared_data.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// SentencePiece-like: <unk>, <s>, </s>, the bytes, then these.
const std::vector<std::string> kPieces = {"\u2581", "a", "b", "\u2581a", "ab", "\u2581ab", "<x>"};

struct ScoredFile {
  std::string model = "llama";
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<float> scores;
  std::vector<int32_t> types = {2, 3, 3};

  ScoredFile() {
    for (int byte = 0; byte < 256; ++byte) {
      tokens.push_back(absl::StrCat("<0x", absl::AsciiStrToUpper(absl::StrCat(absl::Hex(byte, absl::kZeroPad2))), ">"));
      types.push_back(6);
    }
    for (const std::string& piece : kPieces) {
      tokens.push_back(piece);
      types.push_back(1);
    }
    types.back() = 4;
    for (size_t id = 0; id < tokens.size(); ++id) scores.push_back(-static_cast<float>(id));
    scores[263] = -1;  // "ab" goes before "\u2581a".
  }

  GgufWriter Writer() const {
    GgufWriter gguf;
    gguf.Add("tokenizer.ggml.model", model);
    gguf.Add("tokenizer.ggml.tokens", tokens);
    gguf.AddNumbers("tokenizer.ggml.scores", GgufValueType::kFloat32, scores);
    gguf.AddNumbers("tokenizer.ggml.token_type", GgufValueType::kInt32, types);
    gguf.Add("tokenizer.ggml.bos_token_id", 1u);
    gguf.Add("tokenizer.ggml.eos_token_id", 2u);
    gguf.Add("tokenizer.ggml.padding_token_id", UINT32_MAX);
    return gguf;
  }
};

// The alphabet of bytes, one merge, BOS.
GgufWriter ByteLevelFile(const std::string& pre) {
  GgufWriter gguf;
  gguf.Add("tokenizer.ggml.model", "gpt2");
  gguf.Add("tokenizer.ggml.pre", pre);
  std::vector<std::string> tokens;
  for (int c = 33; c < 324; ++c) {
    if ((c < 127 || c > 160) && c != 173) AppendUtf8(static_cast<char32_t>(c), &tokens.emplace_back());
  }
  tokens.insert(tokens.end(), {"ab", "<s>", "<|user|>"});
  std::vector<int32_t> types(tokens.size(), 1);
  types[tokens.size() - 2] = 3;
  types[tokens.size() - 1] = 4;
  gguf.Add("tokenizer.ggml.tokens", tokens);
  gguf.AddNumbers("tokenizer.ggml.token_type", GgufValueType::kInt32, types);
  gguf.Add("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
  gguf.Add("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(tokens.size() - 2));
  return gguf;
}

class TokenizerGgufTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const GgufWriter& gguf) {
    WriteFile(path(), gguf.Bytes());
    return Tokenizer::Load(path());
  }
  std::string Message(const GgufWriter& gguf) {
    const std::string message(Load(gguf).status().message());
    EXPECT_EQ(message.find(path() + ": "), 0u) << message;
    return message;
  }
  std::string path() const { return folder_ / "t.gguf"; }
  TemporaryFolder folder_;
};

TEST_F(TokenizerGgufTest, ScoredVocabulariesMergeByScoreWithASpaceInFrontAndFallBackToBytes) {
  const auto tokenizer = Load(ScoredFile().Writer());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Tokenizer& t = **tokenizer;
  EXPECT_THAT(*t.Encode("ab"), ElementsAre(1, 264));
  EXPECT_THAT(*t.Encode("a b"), ElementsAre(1, 262, 259, 261));
  EXPECT_THAT(*t.Encode("ac"), ElementsAre(1, 262, 3 + 'c'));
  EXPECT_THAT(*t.Encode("<s><x>", {.add_special_tokens = false}), ElementsAre(1, 265));
  EXPECT_THAT(*t.Encode("<s>", {.add_special_tokens = false, .parse_special = false}),
              ElementsAre(259, 3 + '<', 3 + 's', 3 + '>'));
  EXPECT_EQ(*t.Decode(std::vector<int32_t>{1, 264, 259, 3 + 0xc3, 3 + 0xa9}, true), "ab \u00e9");
  EXPECT_EQ(t.bos_id(), 1);
  EXPECT_EQ(t.eos_id(), 2);
  EXPECT_FALSE(t.pad_id().has_value());
  EXPECT_THAT(t.special_ids(), ElementsAre(0, 1, 2));
  EXPECT_THAT(t.added_ids(), ElementsAre(0, 1, 2, 265));
}

TEST_F(TokenizerGgufTest, KeysSayWhatIsPutAroundATextAndBeforeIt) {
  GgufWriter gguf = ScoredFile().Writer();
  gguf.Add("tokenizer.ggml.add_bos_token", false);
  gguf.Add("tokenizer.ggml.add_eos_token", true);
  gguf.Add("tokenizer.ggml.add_space_prefix", false);
  const auto tokenizer = Load(gguf);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("ab"), ElementsAre(263, 2));
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{264}, true), " ab");
}

TEST_F(TokenizerGgufTest, ByteLevelVocabulariesMergeByRank) {
  for (const bool llama : {false, true}) {
    const auto tokenizer = Load(ByteLevelFile(llama ? "llama-bpe" : "gpt-2"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const int32_t ab = *(*tokenizer)->TokenToId("ab"), bos = *(*tokenizer)->TokenToId("<s>");
    // Llama 3 begins texts with BOS unless the file says otherwise, GPT-2 does not.
    EXPECT_EQ(*(*tokenizer)->Encode("ab"), llama ? (std::vector<int32_t>{bos, ab}) : std::vector<int32_t>{ab});
    const std::string text = "cab 1234 \u00e9\n<|user|>";
    const auto ids = (*tokenizer)->Encode(text, {.add_special_tokens = false});
    EXPECT_EQ(*(*tokenizer)->Decode(*ids, false), text);
    EXPECT_EQ(ids->back(), ab + 2);
    EXPECT_THAT((*tokenizer)->special_ids(), ElementsAre(bos));
  }
}

// Three digits are a word for Llama 3, one for Qwen 2; only the latter composes characters.
TEST_F(TokenizerGgufTest, PreTokenizersDifferAsTheModelsDo) {
  const auto encode = [&](const char* pre, const char* text) {
    GgufWriter gguf = ByteLevelFile(pre);
    gguf.Add("tokenizer.ggml.add_bos_token", false);
    return (*Load(gguf))->Encode(text).value();
  };
  EXPECT_EQ(encode("qwen2", "e\u0301"), encode("qwen2", "\u00e9"));
  EXPECT_NE(encode("llama-bpe", "e\u0301"), encode("llama-bpe", "\u00e9"));
}

TEST_F(TokenizerGgufTest, KindsThatAreNotSupportedAreRefusedByName) {
  EXPECT_THAT(
      Message(ByteLevelFile("tekken")),
      HasSubstr("key 'tokenizer.ggml.pre' is 'tekken'; supported are gpt-2, qwen2, deepseek-r1-qwen, llama-bpe"));
  ScoredFile other;
  other.model = "bert";
  EXPECT_THAT(Message(other.Writer()), HasSubstr("key 'tokenizer.ggml.model' is 'bert'; supported are gpt2 and llama"));
  EXPECT_THAT(Message(GgufWriter()), HasSubstr("key 'tokenizer.ggml.model' is missing"));
  GgufWriter no_pre;
  no_pre.Add("tokenizer.ggml.model", "gpt2");
  no_pre.Add("tokenizer.ggml.tokens", std::vector<std::string>{"a"});
  EXPECT_THAT(Message(no_pre), HasSubstr("'tokenizer.ggml.pre', which says how to cut words, is missing"));
  GgufWriter spaces = ScoredFile().Writer();
  spaces.Add("tokenizer.ggml.remove_extra_whitespaces", true);
  EXPECT_THAT(Message(spaces), HasSubstr("remove_extra_whitespaces"));
}

TEST_F(TokenizerGgufTest, PartsThatDoNotFitTogetherAreRefused) {
  ScoredFile file;
  file.types.pop_back();
  EXPECT_THAT(Message(file.Writer()), HasSubstr("has 265 token types for 266 tokens"));
  file = ScoredFile();
  file.scores.pop_back();
  EXPECT_THAT(Message(file.Writer()), HasSubstr("there are 265 scores for 266 tokens"));
  file = ScoredFile();
  file.scores[5] = NAN;
  EXPECT_THAT(Message(file.Writer()), HasSubstr("the score of token 5 is not finite"));
  file = ScoredFile();
  file.tokens[10] = "not a byte";
  EXPECT_THAT(Message(file.Writer()), HasSubstr("the vocabulary lacks '<0x07>'"));
  file = ScoredFile();
  file.tokens.back() = "a";
  EXPECT_THAT(Message(file.Writer()), HasSubstr("token 'a' has two ids"));
  GgufWriter merge;
  merge.Add("tokenizer.ggml.model", "gpt2");
  merge.Add("tokenizer.ggml.pre", "gpt-2");
  merge.Add("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"});
  merge.Add("tokenizer.ggml.merges", std::vector<std::string>{"ab"});
  EXPECT_THAT(Message(merge), HasSubstr("has 'ab', which is not two tokens"));
  GgufWriter bos = ScoredFile().Writer();
  bos.Add("tokenizer.ggml.add_bos_token", 1u);
  EXPECT_THAT(Message(bos), HasSubstr("'tokenizer.ggml.add_bos_token' must be true or false"));
  GgufWriter no_bos;
  no_bos.Add("tokenizer.ggml.model", "llama");
  no_bos.Add("tokenizer.ggml.tokens", std::vector<std::string>{"a"});
  no_bos.AddNumbers("tokenizer.ggml.scores", GgufValueType::kFloat32, std::vector<float>{0});
  EXPECT_THAT(Message(no_bos), HasSubstr("texts begin with BOS, but tokenizer.ggml.bos_token_id names no token"));
}

TEST_F(TokenizerGgufTest, TheChatTemplateIsThatOfTheFile) {
  GgufWriter gguf = ScoredFile().Writer();
  WriteFile(path(), gguf.Bytes());
  EXPECT_EQ(ChatTemplate::Load(path()).status().code(), absl::StatusCode::kNotFound);
  gguf.Add("tokenizer.chat_template", "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}");
  gguf.Add("tokenizer.chat_templates", std::vector<std::string>{"tool_use"});
  gguf.Add("tokenizer.chat_template.tool_use", "tools");
  WriteFile(path(), gguf.Bytes());
  const auto chat = ChatTemplate::Load(path());
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(*(*chat)->Render({{"user", "hi", {}}}), "<s>hi</s>");
  ChatTemplateOptions tools;
  tools.tools = nlohmann::ordered_json::array({{{"type", "function"}}});
  EXPECT_EQ(*(*chat)->Render({{"user", "hi", {}}}, tools), "tools");
  gguf = ScoredFile().Writer();
  gguf.Add("tokenizer.chat_template", "{% if %}");
  WriteFile(path(), gguf.Bytes());
  EXPECT_THAT(std::string(ChatTemplate::Load(path()).status().message()),
              HasSubstr("t.gguf: tokenizer.chat_template: template line 1"));
}

TEST_F(TokenizerGgufTest, AFolderMayHaveItsTokenizerInAGgufFile) {
  WriteFile(folder_ / "tokenizer.gguf", ScoredFile().Writer().Bytes());
  const auto tokenizer = Tokenizer::Load(folder_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 266);
  WriteFile(folder_ / "tokenizer.json", "{}");  // This one comes first.
  EXPECT_EQ(GgufTokenizerPath(folder_.path()), "");
}

TEST_F(TokenizerGgufTest, TheRealSentencePieceVocabularyEncodesAndDecodes) {
  const std::string data = SharedTestData();
  if (data.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: the real vocabulary is not tested";
  const auto tokenizer = Tokenizer::Load(data + "/weights/stories260K/stories260K.gguf");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string text = "Once upon a time, there was a little girl named Lily. \u00e9\u4e2d";
  const auto ids = (*tokenizer)->Encode(text);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ((*ids)[0], 1);
  EXPECT_EQ(*(*tokenizer)->Decode(*ids, true), text);
}

}  // namespace
}  // namespace shoal
