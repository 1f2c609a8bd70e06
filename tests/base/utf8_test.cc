#include "base/utf8.h"

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/shared_data.h"

namespace shoal {
namespace {

// The file's bytes; false if it is not there.
bool ReadFile(const std::string& path, std::string* out) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  *out = text.str();
  return file.good() && !out->empty();
}

// A decoder written from the definition, with nothing shared with the code under test: every scalar value's own bytes.
std::map<std::string, char32_t> AllScalarValues() {
  std::map<std::string, char32_t> all;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string s;
    if (c < 0x80) {
      s = {static_cast<char>(c)};
    } else if (c < 0x800) {
      s = {static_cast<char>(0xC0 + c / 64), static_cast<char>(0x80 + c % 64)};
    } else if (c < 0x10000) {
      s = {static_cast<char>(0xE0 + c / 4096), static_cast<char>(0x80 + c / 64 % 64), static_cast<char>(0x80 + c % 64)};
    } else {
      s = {static_cast<char>(0xF0 + c / 262144), static_cast<char>(0x80 + c / 4096 % 64),
           static_cast<char>(0x80 + c / 64 % 64), static_cast<char>(0x80 + c % 64)};
    }
    all[s] = c;
  }
  return all;
}

TEST(Utf8Test, EveryScalarValueIsEncodedDecodedAndValid) {
  for (const auto& [bytes, c] : AllScalarValues()) {
    std::string encoded;
    AppendUtf8(c, &encoded);
    ASSERT_EQ(encoded, bytes);
    size_t pos = 0;
    ASSERT_EQ(DecodeUtf8(bytes, &pos), c);
    ASSERT_EQ(pos, bytes.size());
    ASSERT_TRUE(IsValidUtf8(bytes));
  }
}

TEST(Utf8Test, NoOtherSequenceOfUpToThreeBytesIsValid) {
  const std::map<std::string, char32_t> all = AllScalarValues();
  for (int a = 0x80; a < 256; ++a) {
    const std::string one = {static_cast<char>(a)};
    EXPECT_EQ(FindInvalidUtf8(one), 0u);
    for (int b = 0; b < 256; ++b) {
      const std::string two = {static_cast<char>(a), static_cast<char>(b)};
      ASSERT_EQ(IsValidUtf8(two), all.count(two) == 1) << a << " " << b;
      if (b < 0x80) continue;
      for (int c = 0x7E; c < 0xC2; ++c) {
        const std::string three = two + static_cast<char>(c);
        const bool two_and_ascii = all.count(two) == 1 && c < 0x80;
        ASSERT_EQ(IsValidUtf8(three), all.count(three) == 1 || two_and_ascii) << a << " " << b << " " << c;
      }
    }
  }
}

TEST(Utf8Test, FindInvalidUtf8GivesTheOffset) {
  EXPECT_EQ(FindInvalidUtf8("abc"), std::string_view::npos);
  EXPECT_EQ(FindInvalidUtf8(""), std::string_view::npos);
  EXPECT_EQ(FindInvalidUtf8("ab\xC3\xA9\xFFz"), 4u);
  EXPECT_EQ(FindInvalidUtf8("ab\xE2\x82"), 2u);
  EXPECT_EQ(FindInvalidUtf8(std::string_view("a\0b", 3)), std::string_view::npos);
}

TEST(Utf8Test, CompletePrefixHoldsBackOnlyWhatMayStillBecomeACharacter) {
  const std::string smile = "\xF0\x9F\x98\x80";
  for (size_t n = 1; n < 4; ++n) EXPECT_EQ(CompleteUtf8Prefix("ab" + smile.substr(0, n)), 2u) << n;
  EXPECT_EQ(CompleteUtf8Prefix("ab" + smile), 6u);
  EXPECT_EQ(CompleteUtf8Prefix("ab\xE2\x82"), 2u);
  EXPECT_EQ(CompleteUtf8Prefix("ab\xE0\x80"), 4u);  // Overlong: no byte can complete it.
  EXPECT_EQ(CompleteUtf8Prefix("ab\xED\xA0"), 4u);  // A surrogate.
  EXPECT_EQ(CompleteUtf8Prefix("ab\xFF"), 3u);
  EXPECT_EQ(CompleteUtf8Prefix("\x80\x80\x80\x80"), 4u);  // Continuations of nothing.
  EXPECT_EQ(CompleteUtf8Prefix(""), 0u);
}

TEST(Utf8Test, ReplaceInvalidPutsOneReplacementPerMaximalPart) {
  const std::string r = "\xEF\xBF\xBD";
  // Unicode 15, table 3-8 and the examples around it.
  EXPECT_EQ(ReplaceInvalidUtf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(ReplaceInvalidUtf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(ReplaceInvalidUtf8("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(ReplaceInvalidUtf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(ReplaceInvalidUtf8("h\xC3\xA9llo"), "h\xC3\xA9llo");
}

// "num:valid:text" and "num:invalid:text with replacements" per line; the inputs are the same lines of utf8tests.bin.
TEST(Utf8Test, PublicDecoderCasesGiveTheirReferenceResults) {
  const std::string data = SharedTestData();
  if (data.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: published cases not tested";
  std::string input, reference;
  ASSERT_TRUE(ReadFile(data + "/unicode/utf8tests.bin", &input));
  ASSERT_TRUE(ReadFile(data + "/unicode/utf8tests.replace.ref.txt", &reference));
  EXPECT_EQ(ReplaceInvalidUtf8(input), reference);
  std::stringstream lines(input);
  int valid = 0, invalid = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.find(":valid") != std::string::npos) {
      EXPECT_TRUE(IsValidUtf8(line)) << line;
      ++valid;
    } else if (line.find(":invalid") != std::string::npos) {
      EXPECT_FALSE(IsValidUtf8(line)) << line;
      ++invalid;
    }
  }
  EXPECT_GT(valid, 10);
  EXPECT_GT(invalid, 20);
}

// This copy of the stress text had its malformed parts replaced by its publisher; cutting it anywhere makes new ones.
TEST(Utf8Test, StressTextCutAnywhereIsRepairedByDroppingOrReplacingTheCutCharacter) {
  const std::string data = SharedTestData();
  if (data.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: the stress text is not cut";
  std::string text;
  ASSERT_TRUE(ReadFile(data + "/unicode/kuhn_UTF-8-test.txt", &text));
  ASSERT_TRUE(IsValidUtf8(text));
  for (size_t n = 3000; n < 9000; ++n) {
    const std::string_view cut = std::string_view(text).substr(0, n);
    const size_t complete = CompleteUtf8Prefix(cut);
    ASSERT_LE(n - complete, 3u);
    ASSERT_EQ(FindInvalidUtf8(cut), complete == n ? std::string_view::npos : complete) << n;
    if (complete == n) continue;
    ASSERT_EQ(ReplaceInvalidUtf8(cut.substr(complete)), "\xEF\xBF\xBD") << n;
  }
}

TEST(Utf8Test, AnyTextFedInPiecesIsReassembledFromCompletePrefixes) {
  std::string text;
  for (int i = 0; i < 200; ++i) AppendUtf8(static_cast<char32_t>(i * i * 27 % 0xD000 + 1), &text);
  for (size_t step : {1, 2, 3, 5, 7}) {
    std::string held, out;
    for (size_t at = 0; at < text.size(); at += step) {
      held += text.substr(at, step);
      const size_t complete = CompleteUtf8Prefix(held);
      EXPECT_LE(held.size() - complete, 3u);
      EXPECT_TRUE(IsValidUtf8(held.substr(0, complete)));
      out += held.substr(0, complete);
      held.erase(0, complete);
    }
    EXPECT_EQ(out + held, text);
  }
}

}  // namespace
}  // namespace shoal
