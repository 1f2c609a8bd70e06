#include "server/text_stream.h"

#include <random>

#include "gtest/gtest.h"
#include "tests/server/byte_tokenizer.h"

namespace shoal {
namespace {

using testing::kEndId;
using testing::MakeByteTokenizer;

struct Outcome {
  std::string text;
  std::string match;
};

Outcome RunMatcher(const std::string& text, const std::vector<size_t>& cuts, const std::vector<std::string>& stops,
                   bool include) {
  StopMatcher matcher(stops, include);
  Outcome outcome;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    outcome.text += matcher.Push(text.substr(begin, cut - begin), true);
    begin = cut;
  }
  outcome.text += matcher.Push(text.substr(begin), true);
  outcome.text += matcher.Finish();
  if (matcher.matched()) outcome.match = matcher.match();
  return outcome;
}

// Byte by byte and from scratch: the first place where any stop string ends.
Outcome Oracle(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    for (const std::string& stop : stops) {
      if (end < stop.size() || text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      return {text.substr(0, include ? end : end - stop.size()), stop};
    }
  }
  return {text, ""};
}

TEST(StopMatcherTest, FindsTheSameStopHoweverTheTextIsCut) {
  std::mt19937 random(7);
  int matches = 0;
  for (int round = 0; round < 20000; ++round) {
    // Few letters, so that partial matches and overlaps are the rule.
    std::string text;
    for (size_t n = random() % 24; n > 0; --n) text += static_cast<char>('a' + random() % 2);
    std::vector<std::string> stops;
    for (size_t n = random() % 4; n > 0; --n) {
      std::string stop;
      for (size_t m = 1 + random() % 5; m > 0; --m) stop += static_cast<char>('a' + random() % 2);
      stops.push_back(stop);
    }
    std::vector<size_t> cuts;
    for (size_t at = 0; at < text.size(); at += random() % 4) {
      cuts.push_back(at);
      if (cuts.size() > 40) break;
    }
    const bool include = random() % 2 == 0;
    const Outcome expected = Oracle(text, stops, include);
    const Outcome found = RunMatcher(text, cuts, stops, include);
    ASSERT_EQ(found.text, expected.text) << text;
    ASSERT_EQ(found.match, expected.match) << text;
    matches += !found.match.empty();
  }
  EXPECT_GT(matches, 5000);
}

TEST(StopMatcherTest, HoldsBackOnlyWhatCouldStartAStopString) {
  StopMatcher matcher({"END", "\n\n"}, false);
  EXPECT_EQ(matcher.Push("hello E", true), "hello ");
  EXPECT_EQ(matcher.Push("N", true), "");
  EXPECT_EQ(matcher.Push("E", true), "EN");
  EXPECT_EQ(matcher.Push("\n", true), "E");
  EXPECT_EQ(matcher.Push("x", true), "\nx");
  EXPECT_EQ(matcher.Push("EN", true), "");
  EXPECT_EQ(matcher.Finish(), "EN");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcherTest, SendsNothingAfterAMatch) {
  StopMatcher matcher({"stop"}, true);
  EXPECT_EQ(matcher.Push("a stop and more", true), "a stop");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Push("more", true), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, DoesNotReachBackIntoTextThatMayNotStop) {
  StopMatcher matcher({"ab"}, false);
  EXPECT_EQ(matcher.Push("xa", false), "xa");
  EXPECT_EQ(matcher.Push("b", true), "b");
  EXPECT_EQ(matcher.Push("ab", true), "");
  EXPECT_TRUE(matcher.matched());
}

TEST(TextStreamTest, NeverSplitsACharacter) {
  const auto tokenizer = MakeByteTokenizer();
  TextStream stream(tokenizer.get(), {});
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";
  std::string out;
  for (const char c : text) {
    const std::string piece = stream.Push(static_cast<uint8_t>(c));
    EXPECT_TRUE(IsValidUtf8(piece));
    out += piece;
  }
  out += stream.Finish();
  EXPECT_EQ(out, text);
  EXPECT_EQ(stream.tokens(), static_cast<int64_t>(text.size()));
}

TEST(TextStreamTest, AnUnfinishedCharacterBecomesAReplacementAtTheEnd) {
  const auto tokenizer = MakeByteTokenizer();
  TextStream stream(tokenizer.get(), {});
  EXPECT_EQ(stream.Push('a'), "a");
  EXPECT_EQ(stream.Push(0xE2), "");
  EXPECT_EQ(stream.Push(0x82), "");
  EXPECT_EQ(stream.Finish(), "\xEF\xBF\xBD");
}

TEST(TextStreamTest, FindsAStopStringInsideCharactersOverSeveralTokens) {
  const auto tokenizer = MakeByteTokenizer();
  TextStream stream(tokenizer.get(), {.stops = {"\xE2\x82\xAC!"}});
  std::string out;
  for (const char c : std::string("5 \xE2\x82\xAC?\xE2\x82\xAC!")) out += stream.Push(static_cast<uint8_t>(c));
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(out + stream.Finish(), "5 \xE2\x82\xAC?");
  EXPECT_EQ(stream.tokens(), 10);
}

TEST(TextStreamTest, LooksForNoStopStringBeforeMinTokens) {
  const auto tokenizer = MakeByteTokenizer();
  TextStream stream(tokenizer.get(), {.stops = {"a"}, .min_tokens = 2});
  EXPECT_EQ(stream.Push('a'), "a");
  EXPECT_EQ(stream.Push('a'), "a");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.Push('a'), "");
  EXPECT_TRUE(stream.stopped());
}

TEST(TextStreamTest, ShowsControlTokensOnlyWhenAsked) {
  const auto tokenizer = MakeByteTokenizer();
  TextStream hidden(tokenizer.get(), {});
  EXPECT_EQ(hidden.Push(kEndId), "");
  TextStreamOptions options;
  options.skip_special_tokens = false;
  TextStream shown(tokenizer.get(), options);
  EXPECT_EQ(shown.Push(kEndId), "<|im_end|>");
  // Padding of the vocabulary: the model may have more rows than the tokenizer has tokens.
  EXPECT_EQ(shown.Push(5000), "");
}

}  // namespace
}  // namespace shoal
