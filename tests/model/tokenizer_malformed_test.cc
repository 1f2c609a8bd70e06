// Broken tokenizer files: each is refused with file, field and reason.
#include <string>
#include <vector>

#include "base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"
#include "tests/model/tokenizer_test_data.h"

namespace shoal {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

Json ValidTokenizer() {
  return Json::parse(R"({
    "added_tokens": [{"id": 4, "content": "<s>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": ["a b"]}})");
}

absl::Status LoadStatus(const std::string& tokenizer, const std::string& config = "") {
  const TestFolder folder;
  folder.Write("tokenizer.json", tokenizer);
  if (!config.empty()) folder.Write("tokenizer_config.json", config);
  const absl::Status status = Tokenizer::Load(folder.path()).status();
  if (!status.ok()) {
    EXPECT_THAT(std::string(status.message()), StartsWith(folder.path()));
  }
  return status;
}

TEST(MalformedTokenizerTest, TheValidFileLoads) {
  const TestFolder folder;
  folder.Write("tokenizer.json", ValidTokenizer().dump());
  const auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("abc"), (std::vector<int32_t>{4, 2, 3}));
  Json arrays = ValidTokenizer();
  arrays["model"]["merges"] = Json::parse(R"([["a", "b"]])");  // The newer spelling.
  folder.Write("tokenizer.json", arrays.dump());
  EXPECT_EQ(*(*Tokenizer::Load(folder.path()))->Encode("abc"), (std::vector<int32_t>{4, 2, 3}));
}

TEST(MalformedTokenizerTest, TheFuzzersSeedsAreValid) {
  const std::string folder = std::string(SHOAL_SOURCE_DIR) + "/tests/fuzz/seeds/tokenizer_json_fuzz";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string text = ReadTestFile(entry.path());
    const TestFolder model;
    const size_t cut = text.find('\0');
    model.Write("tokenizer.json", text.substr(0, cut));
    if (cut != std::string::npos) model.Write("tokenizer_config.json", text.substr(cut + 1));
    const auto tokenizer = Tokenizer::Load(model.path());
    EXPECT_TRUE(tokenizer.ok()) << entry.path() << tokenizer.status();
  }
}

TEST(MalformedTokenizerTest, MissingFilesAreNotFound) {
  const TestFolder folder;
  EXPECT_EQ(Tokenizer::Load(folder.path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ChatTemplate::Load(folder.path()).status().code(), absl::StatusCode::kNotFound);
}

TEST(MalformedTokenizerTest, BrokenTextIsRefused) {
  const std::string valid = ValidTokenizer().dump();
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "is not valid JSON"},
      {"[]", "must be a JSON object"},
      {"3", "must be a JSON object"},
      {"{", "is not valid JSON near byte"},
      {valid.substr(0, valid.size() / 2), "is not valid JSON near byte"},
      {valid + "x", "is not valid JSON near byte"},
      {"{\"model\": {\"vocab\": {\"\xFF\": 1}}}", "is not valid JSON"},
      {R"({"a": 1, "a": 2})", "key 'a' appears twice"},
      {R"({"model": {"vocab": {}, "vocab": {}}})", "key 'model.vocab' appears twice"},
      {R"({"model": {"merges": [], "merges": []}})", "key 'model.merges' appears twice"},
      {std::string(70, '[') + std::string(70, ']'), "nesting is deeper than 64"},
      {R"({"model": {"vocab": {"a": {}}}})", "the id of 'a' must be an integer"},
      {R"({"model": {"vocab": {"a": 1.5}}})", "the id of 'a' must be an integer"},
      {R"({"model": {"vocab": {"a": -1}}})", "the id of 'a' must be in 0..1048575"},
      {R"({"model": {"vocab": {"a": 99999999999999999999}}})", "the id of 'a' must be"},
      {R"({"model": {"vocab": {"a": 4294967296}}})", "the id of 'a' must be in 0..1048575"},
      {R"({"model": {"vocab": {"a": 0, "b": 0}}})", "id 0 belongs to 'a' and to 'b'"},
      {R"({"model": {"merges": ["ab"]}})", "model.merges[0] must be two tokens"},
      {R"({"model": {"merges": ["a b c"]}})", "model.merges[0] must be two tokens"},
      {R"({"model": {"merges": [["a"]]}})", "model.merges[0] must be two tokens"},
      {R"({"model": {"merges": [["a", "b", "c"]]}})", "model.merges[0] must be two tokens"},
      {R"({"model": {"merges": [7]}})", "model.merges[0] must be two tokens"}};
  for (const auto& [text, message] : cases) {
    const absl::Status status = LoadStatus(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << text;
  }
}

TEST(MalformedTokenizerTest, WrongFieldsAreRefused) {
  struct Case {
    std::string pointer;
    std::string value;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"/model", "null", "field 'model' is missing or no object"},
      {"/model/type", "\"Unigram\"", "type 'Unigram' is not supported; only BPE is"},
      {"/model/vocab", "[]", "field 'vocab' must be an object"},
      {"/model/vocab", "{}", "the vocabulary is empty"},
      {"/model/merges", "{}", "field 'merges' must be an array"},
      {"/model/merges", "[\"a z\"]", "model.merges[0]: token 'z' is not in the vocabulary"},
      {"/model/merges", "[\"b a\"]", "model.merges[0]: token 'ba' is not in the vocabulary"},
      {"/model/dropout", "0.1", "field 'dropout' is set"},
      {"/model/continuing_subword_prefix", "\"##\"", "'continuing_subword_prefix' is '##'; not supported"},
      {"/model/byte_fallback", "1", "'byte_fallback' must be true or false"},
      {"/model/unk_token", "\"<unk>\"", "model.unk_token '<unk>' is not in the vocabulary"},
      {"/added_tokens", "{}", "'added_tokens' must be an array"},
      {"/added_tokens/0/id", "-1", "added_tokens[0]: id -1 must be in 0..1048575"},
      {"/added_tokens/0/id", "2", "added token '<s>' has id 2, which is token 'ab' already"},
      {"/added_tokens/0/id", "\"4\"", "field 'id' must be an integer"},
      {"/added_tokens/0/content", "\"\"", "field 'content' is empty"},
      {"/added_tokens/0/content", "\"a\"", "token 'a' has two ids, 0 and 4"},
      {"/added_tokens/0/special", "\"yes\"", "field 'special' must be true or false"},
      {"/normalizer", R"({"type": "BertNormalizer"})", "normalizer: type 'BertNormalizer' is not supported"},
      {"/normalizer", R"({"type": "Replace", "pattern": {"Regex": "("}, "content": ""})",
       "normalizer: expression is not valid"},
      {"/normalizer", R"({"type": "Replace", "content": ""})", "field 'pattern' must be"},
      {"/normalizer", R"({"type": "Sequence"})", "field 'normalizers' must be an array"},
      {"/pre_tokenizer/type", "\"Magic\"", "pre_tokenizer: type 'Magic' is not supported"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "["}, "behavior": "Isolated"})",
       "pre_tokenizer step 0: expression is not valid"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd"})",
       "field 'behavior' is 'Odd'"},
      {"/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]})",
       "ByteLevel must be the last step"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "some"})",
       "'prepend_scheme' must be always, first or never"},
      {"/post_processor/type", "\"Odd\"", "post_processor: type 'Odd' is not supported"},
      {"/post_processor/single", "[]", "field 'single' lacks the text"},
      {"/post_processor/single/0", "7", "a piece that is neither SpecialToken nor Sequence"},
      {"/post_processor/special_tokens", "{}", "special token '<s>' is not in 'special_tokens'"},
      {"/post_processor/special_tokens/<s>/ids", "[99]", "token id 99 is outside of the vocabulary"},
      {"/post_processor/special_tokens/<s>/ids", "[-1]", "has an id that is not in 0.."},
      {"/decoder/type", "\"WordPiece\"", "decoder: type 'WordPiece' is not supported"},
      {"/decoder", R"({"type": "Strip", "content": " ", "start": 1, "stop": 0})", "only a Strip of leading spaces"},
      {"/decoder", R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]})",
       "type 'ByteFallback' cannot come after Fuse"}};
  for (const Case& c : cases) {
    Json file = ValidTokenizer();
    file[Json::json_pointer(c.pointer)] = Json::parse(c.value);
    const absl::Status status = LoadStatus(file.dump());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.pointer;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message)) << c.pointer << " = " << c.value;
  }
}

TEST(MalformedTokenizerTest, WrongConfigsAreRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "tokenizer_config.json: must be a JSON object"},
      {"{", "tokenizer_config.json: is not valid JSON"},
      {R"({"added_tokens_decoder": []})", "'added_tokens_decoder' must be an object"},
      {R"({"added_tokens_decoder": {"x": {"content": "<x>"}}})", "the key must be an id"},
      {R"({"added_tokens_decoder": {"5": {}}})", "field 'content' is missing"},
      {R"({"added_tokens_decoder": {"5": {"content": "<s>"}}})", "'<s>' has id 4 in tokenizer.json"},
      {R"({"bos_token": 3})", "field 'bos_token' must be a string or an object"},
      {R"({"tokenizer_class": "LlamaTokenizerFast"})", "add_bos_token is set but 'bos_token' is not a token"},
      {R"({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "add_eos_token": true})", "add_eos_token is set"},
      {R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": "no"})", "'add_bos_token' must be true or false"}};
  for (const auto& [config, message] : cases) {
    const absl::Status status = LoadStatus(ValidTokenizer().dump(), config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << config;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << config;
  }
}

TEST(MalformedTokenizerTest, ConfigAddsTokensAndBos) {
  const TestFolder folder;
  Json file = ValidTokenizer();
  file["post_processor"] = nullptr;
  folder.Write("tokenizer.json", file.dump());
  folder.Write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizerFast", "bos_token": {"content": "<s>"},
    "eos_token": "</s>", "add_eos_token": true, "added_tokens_decoder": {"7": {"content": "</s>", "special": true}}})");
  const auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("c"), (std::vector<int32_t>{4, 3, 7}));
  EXPECT_EQ((*tokenizer)->bos_id(), 4);
  EXPECT_EQ((*tokenizer)->eos_id(), 7);
  EXPECT_EQ((*tokenizer)->vocab_size(), 8);
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{5, 3}, false), "c");  // An id without a token has no text.
}

}  // namespace
}  // namespace shoal
