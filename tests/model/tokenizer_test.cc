// Small tokenizers made here: every step of the pipeline, and decoding. The expected ids of the files follow from
// Hugging Face tokenizers' rules; tokenizer_vectors_test.cc compares whole real ones.
#include "model/tokenizer.h"

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/detokenizer.h"
#include "model/unicode.h"
#include "tests/model/tokenizer_test_data.h"

namespace shoal {
namespace {

using Ids = std::vector<int32_t>;
using testing::HasSubstr;
constexpr EncodeOptions kNoSpecial = {.add_special_tokens = false};

// The 256 byte tokens (id = byte), then "he" 256, "ll" 257, "hell" 258, "Ġw" 259.
TokenizerSpec ByteLevelSpec() {
  TokenizerSpec spec;
  for (int b = 0; b < 256; ++b) {
    std::string token;
    AppendUtf8(ByteToCodePoint(static_cast<uint8_t>(b)), &token);
    spec.tokens.push_back(token);
  }
  for (const char* token : {"he", "ll", "hell", "Ġw"}) spec.tokens.push_back(token);
  spec.merges = {{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"Ġ", "w"}};
  PreTokenizerStep step;
  step.kind = PreTokenizerStep::Kind::kByteLevel;
  step.use_regex = true;
  spec.pre_tokenizer = {step};
  spec.decoder.byte_level = true;
  return spec;
}

// Llama 2: <unk> <s> </s>, 256 byte tokens, then characters and pieces.
TokenizerSpec ByteFallbackSpec() {
  TokenizerSpec spec;
  spec.tokens = {"<unk>", "<s>", "</s>"};
  static constexpr char kHex[] = "0123456789ABCDEF";
  for (int b = 0; b < 256; ++b) spec.tokens.push_back(std::string("<0x") + kHex[b / 16] + kHex[b % 16] + ">");
  for (const char* token : {"▁", "a", "b", "c", "é", "ab", "▁ab"}) spec.tokens.push_back(token);  // From 259 on.
  spec.merges = {{"a", "b"}, {"▁", "ab"}};
  spec.byte_fallback = true;
  spec.fuse_unk = true;
  spec.unk_token = "<unk>";
  NormalizerStep prepend;
  prepend.kind = NormalizerStep::Kind::kPrepend;
  prepend.content = "▁";
  NormalizerStep replace;
  replace.kind = NormalizerStep::Kind::kReplace;
  replace.pattern = " ";
  replace.content = "▁";
  spec.normalizer = {prepend, replace};
  spec.decoder.byte_fallback = true;
  spec.decoder.replacements = {{"▁", " "}};
  spec.decoder.strip_leading_spaces = 1;
  spec.added_tokens = {{.id = 1, .content = "<s>", .special = true}, {.id = 2, .content = "</s>", .special = true}};
  spec.prefix_ids = {1};
  spec.bos_id = 1;
  spec.eos_id = 2;
  return spec;
}

std::unique_ptr<Tokenizer> Make(TokenizerSpec spec) {
  auto tokenizer = Tokenizer::Create(std::move(spec));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

TEST(TokenizerTest, ByteLevelMergesByRankWithinWords) {
  const auto tokenizer = Make(ByteLevelSpec());
  EXPECT_EQ(*tokenizer->Encode("hello w"), (Ids{258, 'o', 259}));
  EXPECT_EQ(*tokenizer->Encode(""), Ids{});
  EXPECT_EQ(*tokenizer->Encode("h ell"), (Ids{'h', ' ', 'e', 257}));  // No merge across words.
  EXPECT_EQ(*tokenizer->Encode("é"), (Ids{0xC3, 0xA9}));
  EXPECT_EQ(*tokenizer->Decode(Ids{258, 'o', 259, 0xC3, 0xA9}, false), "hello wé");
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  EXPECT_EQ(tokenizer->TokenToId("Ġw"), 259);
  EXPECT_EQ(*tokenizer->IdToToken(259), "Ġw");
  EXPECT_EQ(tokenizer->TokenToId("nope"), std::nullopt);
}

TEST(TokenizerTest, LongWordsMergeAsShortOnesDo) {
  // The heap takes over at 65 symbols: words of every length around it must give what repeated whole words give.
  const auto tokenizer = Make(ByteLevelSpec());
  for (const size_t count : {15u, 16u, 17u, 40u, 5000u}) {
    std::string word;
    Ids expected;
    for (size_t i = 0; i < count; ++i) {
      word += "hellx";
      expected.push_back(258);
      expected.push_back('x');
    }
    EXPECT_EQ(*tokenizer->Encode(word), expected) << count;
  }
  EXPECT_EQ(tokenizer->Encode(std::string(1001, 'l'))->size(), 501u);
}

TEST(TokenizerTest, AddedTokensAreFoundLongestFirst) {
  TokenizerSpec spec = ByteLevelSpec();
  spec.added_tokens = {{.id = 260, .content = "<a>", .special = true}, {.id = 261, .content = "<a>b"}};
  const auto tokenizer = Make(spec);
  EXPECT_EQ(*tokenizer->Encode("<a>x<a>b<a", kNoSpecial), (Ids{260, 'x', 261, '<', 'a'}));
  EXPECT_EQ(*tokenizer->Encode("<a>", {.add_special_tokens = false, .parse_special = false}), (Ids{'<', 'a', '>'}));
  EXPECT_TRUE(tokenizer->IsSpecial(260));
  EXPECT_FALSE(tokenizer->IsSpecial(261));
  EXPECT_EQ(tokenizer->special_ids(), Ids{260});
  EXPECT_EQ(tokenizer->added_ids(), (Ids{260, 261}));
  EXPECT_EQ(*tokenizer->Decode(Ids{260, 'x', 261}, true), "x<a>b");
  EXPECT_EQ(*tokenizer->Decode(Ids{260, 'x', 261}, false), "<a>x<a>b");
}

TEST(TokenizerTest, AddedTokensHonourStripAndSingleWord) {
  TokenizerSpec spec = ByteLevelSpec();
  spec.added_tokens = {{.id = 260, .content = "<l>", .lstrip = true},
                       {.id = 261, .content = "<r>", .rstrip = true},
                       {.id = 262, .content = "one", .single_word = true}};
  const auto tokenizer = Make(spec);
  EXPECT_EQ(*tokenizer->Encode("x \n<l> y", kNoSpecial), (Ids{'x', 260, ' ', 'y'}));
  EXPECT_EQ(*tokenizer->Encode("x <r> \ty", kNoSpecial), (Ids{'x', ' ', 261, 'y'}));
  EXPECT_EQ(*tokenizer->Encode("one,one", kNoSpecial), (Ids{262, ',', 262}));
  EXPECT_EQ(*tokenizer->Encode("ones", kNoSpecial), (Ids{'o', 'n', 'e', 's'}));
  EXPECT_EQ(*tokenizer->Encode("éone", kNoSpecial), (Ids{0xC3, 0xA9, 'o', 'n', 'e'}));
}

TEST(TokenizerTest, NormalizedAddedTokensAreFoundAfterNormalization) {
  TokenizerSpec spec = ByteLevelSpec();
  spec.normalizer.emplace_back();  // NFC.
  spec.added_tokens = {{.id = 260, .content = "<é>", .normalized = true}, {.id = 261, .content = "<è>"}};
  const auto tokenizer = Make(spec);
  EXPECT_EQ(*tokenizer->Encode("<e\u0301>", kNoSpecial), Ids{260});
  EXPECT_EQ(tokenizer->Encode("<e\u0300>", kNoSpecial)->size(), 4u);  // Not in the raw text.
  EXPECT_EQ(*tokenizer->Encode("<è>", kNoSpecial), Ids{261});
}

TEST(TokenizerTest, IgnoreMergesTakesWholeWords) {
  TokenizerSpec spec = ByteLevelSpec();
  spec.tokens.push_back("xyz");  // No merge leads to it.
  EXPECT_EQ(*Make(spec)->Encode("xyz"), (Ids{'x', 'y', 'z'}));
  spec.ignore_merges = true;
  EXPECT_EQ(*Make(spec)->Encode("xyz"), Ids{260});
}

TEST(TokenizerTest, ByteFallbackCoversWhatTheVocabularyLacks) {
  const auto tokenizer = Make(ByteFallbackSpec());
  EXPECT_EQ(*tokenizer->Encode("ab cé"), (Ids{1, 265, 259, 262, 263}));
  EXPECT_EQ(*tokenizer->Encode("😀", kNoSpecial), (Ids{259, 3 + 0xF0, 3 + 0x9F, 3 + 0x98, 3 + 0x80}));
  EXPECT_EQ(*tokenizer->Encode("a</s>b", kNoSpecial), (Ids{259, 260, 2, 259, 261}));  // "▁" again after a token.
  EXPECT_EQ(*tokenizer->Encode("", kNoSpecial), Ids{});
}

TEST(TokenizerTest, ByteFallbackDecodesBytesAndDropsOneLeadingSpace) {
  const auto tokenizer = Make(ByteFallbackSpec());
  for (const std::string text : {"ab cé", " ab", "  a", "😀 ab", "日本語 é", "a\nb"}) {
    const Ids ids = *tokenizer->Encode(text);
    EXPECT_EQ(*tokenizer->Decode(ids, true), text);
    IncrementalDecoder decoder(tokenizer.get(), true);
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string piece = *decoder.Push(id);
      EXPECT_TRUE(IsValidUtf8(piece));
      streamed += piece;
    }
    EXPECT_EQ(streamed + decoder.Finish(), text);
  }
}

TEST(TokenizerTest, IncrementalDecoderKeepsUnfinishedCharactersBack) {
  const auto tokenizer = Make(ByteLevelSpec());
  IncrementalDecoder decoder(tokenizer.get(), false);
  EXPECT_EQ(*decoder.Push(0xF0), "");
  EXPECT_EQ(*decoder.Push(0x9F), "");
  EXPECT_EQ(*decoder.Push(0x98), "");
  EXPECT_EQ(*decoder.Push(0x80), "😀");
  EXPECT_EQ(*decoder.Push(0xC3), "");
  EXPECT_EQ(*decoder.Push('a'), "\uFFFDa");
  EXPECT_EQ(*decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Finish(), "\uFFFD");
  EXPECT_EQ(decoder.Finish(), "");
  EXPECT_FALSE(decoder.Push(260).ok());
  EXPECT_EQ(*decoder.Push('b'), "b");
}

TEST(TokenizerTest, IncrementalDecoderAgreesWithDecodeOnAnyIds) {
  const auto byte_level = Make(ByteLevelSpec());
  const auto fallback = Make(ByteFallbackSpec());
  uint32_t random = 12345;
  for (const Tokenizer* tokenizer : {byte_level.get(), fallback.get()}) {
    for (int round = 0; round < 500; ++round) {
      Ids ids;
      for (int i = 0; i < 12; ++i) {
        random = random * 1664525 + 1013904223;
        ids.push_back(static_cast<int32_t>((random >> 8) % static_cast<uint32_t>(tokenizer->vocab_size())));
      }
      IncrementalDecoder decoder(tokenizer, true);
      std::string streamed;
      std::string bytes;
      for (const int32_t id : ids) {
        streamed += *decoder.Push(id);
        if (!tokenizer->IsSpecial(id)) bytes += *tokenizer->TokenBytes(id);
      }
      streamed += decoder.Finish();
      if (tokenizer == fallback.get() && !bytes.empty() && bytes[0] == ' ') bytes.erase(0, 1);
      EXPECT_EQ(streamed, ReplaceInvalidUtf8(bytes));
      EXPECT_EQ(streamed, *tokenizer->Decode(ids, true));
    }
  }
}

// llama2.c: the pair whose concatenation has the highest score goes first.
TEST(TokenizerTest, ScoredMergesTakeTheHighestScoreFirst) {
  TokenizerSpec spec;
  spec.merge_kind = TokenizerSpec::MergeKind::kScored;
  spec.tokens = {"<unk>", "<s>", "a", "b", "c", "ab", "bc", "abc", "<s"};
  spec.scores = {0, 0, -10, -11, -12, -2, -1, -3, -9};
  spec.added_tokens = {{.id = 0, .content = "<unk>", .special = true}, {.id = 1, .content = "<s>", .special = true}};
  spec.unk_token = "<unk>";
  const auto tokenizer = Make(spec);
  EXPECT_EQ(*tokenizer->Encode("abc"), Ids{7});  // "bc" first, then "abc".
  EXPECT_EQ(*tokenizer->Encode("abab"), (Ids{5, 5}));
  EXPECT_EQ(*tokenizer->Encode("bca"), (Ids{6, 2}));
  EXPECT_EQ(*tokenizer->Encode("azb"), (Ids{2, 0, 3}));
  // Text cannot be merged into a control token.
  EXPECT_THAT(*tokenizer->Encode("<s>", {.parse_special = false}), testing::Not(testing::Contains(1)));
}

TEST(TokenizerTest, ErrorsNameTheFault) {
  const auto tokenizer = Make(ByteLevelSpec());
  EXPECT_THAT(tokenizer->Encode("ab\xC3").status().message(), HasSubstr("not valid UTF-8 at byte 2"));
  EXPECT_THAT(tokenizer->Decode(Ids{-1}, false).status().message(),
              HasSubstr("token id -1 is outside of the vocabulary, 0..259"));
  EXPECT_FALSE(tokenizer->IdToToken(260).ok());
  TokenizerSpec spec = ByteLevelSpec();
  spec.merges.clear();
  spec.tokens['q'] = "unreachable";
  EXPECT_THAT(Make(spec)->Encode("q").status().message(), HasSubstr("for which the vocabulary has no token"));
}

std::vector<std::string> Cut(const std::vector<PreTokenizerStep>& steps, const std::string& text) {
  const auto pre = PreTokenizer::Create(steps);
  EXPECT_TRUE(pre.ok()) << pre.status();
  std::vector<std::string> words;
  EXPECT_TRUE(pre->Run(text, true,
                       [&](std::string_view word) {
                         words.emplace_back(word);
                         return absl::OkStatus();
                       })
                  .ok());
  return words;
}

// The expression of Llama 3's tokenizer.json. Expected words: its alternatives, tried in order by hand.
TEST(TokenizerTest, Llama3ExpressionCutsAsItsAlternativesSay) {
  PreTokenizerStep step;
  step.pattern = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
                 R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"It's 12345678.90, WE'LL see!\n\n  x",
       {"It", "'s", " ", "123", "456", "78", ".", "90", ",", " WE", "'LL", " see", "!\n\n", " ", " x"}},
      {"1 22 333 4444", {"1", " ", "22", " ", "333", " ", "444", "4"}},
      {"١٢٣٤ Ⅷ½", {"١٢٣", "٤", " ", "Ⅷ½"}},
      {"a_b(c) \"d\"", {"a", "_b", "(c", ")", " \"", "d", "\""}},
      {"\t x  \r\n\r\n y   ", {"\t", " x", "  \r\n\r\n", " y", "   "}},
      {"don'Tcan'dx", {"don", "'T", "can", "'d", "x"}},
      {"Größe 中文，好", {"Größe", " 中文", "，好"}}};
  for (const auto& [text, words] : cases) EXPECT_EQ(Cut({step}, text), words) << text;
}

TEST(TokenizerTest, PreTokenizerStepsCutAsHuggingFaceDoes) {
  const auto cut = Cut;
  const auto split = [](const std::string& pattern, SplitBehavior behavior, bool invert = false) {
    PreTokenizerStep step;
    step.pattern = pattern;
    step.behavior = behavior;
    step.invert = invert;
    return step;
  };
  using Words = std::vector<std::string>;
  // The example of Hugging Face's documentation of SplitDelimiterBehavior.
  const std::string text = "the-final--countdown";
  EXPECT_EQ(cut({split("-", SplitBehavior::kRemoved)}, text), (Words{"the", "final", "countdown"}));
  EXPECT_EQ(cut({split("-", SplitBehavior::kIsolated)}, text), (Words{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(cut({split("-", SplitBehavior::kMergedWithPrevious)}, text), (Words{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(cut({split("-", SplitBehavior::kMergedWithNext)}, text), (Words{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(cut({split("-", SplitBehavior::kContiguous)}, text), (Words{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(cut({split("[a-z]+", SplitBehavior::kRemoved, true)}, text), (Words{"the", "final", "countdown"}));
  // DeepSeek coder: several splits, then single digits.
  EXPECT_EQ(cut({split("[\r\n]", SplitBehavior::kIsolated), split(R"(\s?\p{L}+)", SplitBehavior::kIsolated),
                 split(R"(\p{N})", SplitBehavior::kIsolated)},
                "a b12\nc"),
            (Words{"a", " b", "1", "2", "\n", "c"}));
  // \s is White_Space: U+180E, which PCRE2 would add, is none; \p{Han} is a script, not its extensions (U+3001).
  EXPECT_EQ(cut({split(R"(\s)", SplitBehavior::kIsolated)}, "a\u180Eb\u3000c"), (Words{"a\u180Eb", "\u3000", "c"}));
  EXPECT_EQ(cut({split(R"([\p{Han}]+)", SplitBehavior::kIsolated)}, "中、"), (Words{"中", "、"}));
  EXPECT_EQ(cut({split(R"((?i:'s))", SplitBehavior::kIsolated)}, "a'Sb's"), (Words{"a", "'S", "b", "'s"}));
  PreTokenizerStep metaspace;
  metaspace.kind = PreTokenizerStep::Kind::kMetaspace;
  metaspace.replacement = "▁";
  EXPECT_EQ(cut({metaspace}, "a  b"), (Words{"▁a", "▁", "▁b"}));
}

TEST(TokenizerTest, HostileExpressionsEndInAnError) {
  PreTokenizerStep step;
  step.pattern = "(a|aa)+$b|(a+a+)+c";
  const auto pre = PreTokenizer::Create({step});
  ASSERT_TRUE(pre.ok());
  const auto status = pre->Run(std::string(100'000, 'a'), true, [](std::string_view) { return absl::OkStatus(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(status.message(), HasSubstr("takes too long"));
}

TEST(TokenizerTest, AnExpressionThatIsSlowAtEveryPositionMeetsTheClock) {
  PreTokenizerStep step;
  step.pattern = "a(?=(a|aa){18}c)|a";  // Each position costs some 2^18 steps, far from the limit of a match.
  const auto pre = PreTokenizer::Create({step});
  ASSERT_TRUE(pre.ok());
  const auto start = std::chrono::steady_clock::now();
  const auto status = pre->Run(std::string(1'000'000, 'a'), true, [](std::string_view) { return absl::OkStatus(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  // Five seconds, the match that was running when they were over, and a slow machine.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(TokenizerTest, OptionsOfExpressionsMeanWhatOnigurumaMeans) {
  const auto translated = [](const char* pattern) { return TranslateRegex(pattern).value(); };
  EXPECT_EQ(translated("(?i:'s|'T)"), "(?i:'s|'T)");
  EXPECT_EQ(translated("(?mi-x:.)(?m-i:.)"), "(?si-x:.)(?s-i:.)");
  EXPECT_EQ(translated("(?m)a.|b"), "(?s)a.|b");
  EXPECT_EQ(translated("(?:a)(?=b)(?!c)(?<=d)(?<!e)(?>f)(?<name>g)"), "(?:a)(?=b)(?!c)(?<=d)(?<!e)(?>f)(?<name>g)");
  EXPECT_EQ(translated("[(?m:]"), "[(?m:]");
}

TEST(TokenizerTest, UnsupportedExpressionsAreRefused) {
  const std::map<std::string, std::string> cases = {{"[a&&b]", "intersection"},
                                                    {"[a[b]]", "a class within a class"},
                                                    {"a{1,3}+", "'{n,m}+'"},
                                                    {"\\h", "'\\h'"},
                                                    {"(*VERB)a", "a verb"},
                                                    {"[\\W]", "'\\W' within a class"},
                                                    {"(", "is not valid"},
                                                    {"\\p{Klingon}", "is not valid"},
                                                    {"\\", "a lone"},
                                                    {"\\K", "'\\K'"},
                                                    {"(?s:.)", "'(?s'"},
                                                    {"(?P<n>a)", "'(?P'"},
                                                    {"(?xx:a)", "'(?xx'"},
                                                    {"(?R)", "'(?R'"},
                                                    {"(?|a)", "'(?|'"},
                                                    {"(?-U:a)", "'(?-U'"},
                                                    {"a(?i)b|c", "options without a group"},
                                                    {"(?", "'(?"}};
  for (const auto& [pattern, message] : cases) {
    EXPECT_THAT(std::string(Regex::Compile(pattern, false).status().message()), HasSubstr(message)) << pattern;
  }
}

}  // namespace
}  // namespace shoal
