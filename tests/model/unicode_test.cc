#include "model/unicode.h"

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/utf8.h"
#include "gtest/gtest.h"
#include "tests/model/tokenizer_test_data.h"

namespace shoal {
namespace {

// "0044 0307": code points in hexadecimal.
std::string FromHex(absl::string_view hex) {
  std::string text;
  for (const auto part : absl::StrSplit(hex, ' ', absl::SkipEmpty())) {
    uint32_t code = 0;
    EXPECT_TRUE(absl::SimpleHexAtoi(part, &code));
    AppendUtf8(code, &text);
  }
  return text;
}

std::string Text(char32_t code) {
  std::string text;
  AppendUtf8(code, &text);
  return text;
}

bool IsScalar(char32_t c) { return c < 0xD800 || (c > 0xDFFF && c <= 0x10FFFF); }

TEST(UnicodeTest, NormalizationTestHolds) {
  const std::string data = SharedTestData();
  if (data.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: the normalization test is not run";
  size_t lines = 0;
  std::vector<bool> listed(0x110000);  // As the source of a line of part 1.
  bool part1 = false;
  for (absl::string_view line : absl::StrSplit(ReadTestFile(data + "/unicode/NormalizationTest.txt"), '\n')) {
    if (!line.empty() && line[0] == '@') part1 = line.substr(0, 6) == "@Part1";
    if (line.empty() || line[0] == '#' || line[0] == '@') continue;
    const std::vector<absl::string_view> columns = absl::StrSplit(line, ';');
    ASSERT_GE(columns.size(), 5u);
    std::vector<std::string> c;
    for (size_t i = 0; i < 5; ++i) c.push_back(FromHex(columns[i]));
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(Normalize(c[i], NormalForm::kNfc), i < 3 ? c[1] : c[3]) << line;
      EXPECT_EQ(Normalize(c[i], NormalForm::kNfd), i < 3 ? c[2] : c[4]) << line;
      EXPECT_EQ(Normalize(c[i], NormalForm::kNfkc), c[3]) << line;
      EXPECT_EQ(Normalize(c[i], NormalForm::kNfkd), c[4]) << line;
    }
    if (size_t pos = 0; part1) listed[DecodeUtf8(c[0], &pos)] = true;
    ++lines;
  }
  EXPECT_GT(lines, 18000u);
  for (char32_t code = 0; code <= 0x10FFFF; ++code) {  // Characters that are not listed in part 1 stay as they are.
    if (!IsScalar(code) || listed[code]) continue;
    ASSERT_EQ(Normalize(Text(code), NormalForm::kNfc), Text(code)) << std::hex << static_cast<uint32_t>(code);
  }
}

TEST(UnicodeTest, QuickCheckAcceptsOnlyWhatNfcLeavesAlone) {
  // Every character it accepts, after every kind of character it accepts, is in NFC by the slow way too: U+0301 at the
  // end makes the slow way run.
  for (char32_t code = 0; code <= 0x10FFFF; ++code) {
    if (!IsScalar(code) || !QuickCheckNfc(Text(code))) continue;
    for (const char* before : {"a", "é", "ж", "가", "か", "中"}) {
      const std::string text = before + Text(code) + "x\u0301\u0301";
      ASSERT_EQ(Normalize(text, NormalForm::kNfc), text) << std::hex << static_cast<uint32_t>(code);
    }
  }
  EXPECT_TRUE(QuickCheckNfc("plain ASCII, Ünicode, кириллица, 日本語, 한국어"));
  EXPECT_FALSE(QuickCheckNfc("e\u0301"));
}

TEST(UnicodeTest, LongRunsOfMarksAreOrderedInLinearTime) {
  std::string text = "a";
  for (int i = 0; i < 200'000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";  // Classes 230 and 220.
  const std::string ordered = Normalize(text, NormalForm::kNfd);
  EXPECT_EQ(ordered.substr(0, 5), "a\u0323\u0323");
  EXPECT_EQ(ordered.substr(ordered.size() - 2), "\u0301");
  EXPECT_EQ(ordered.size(), text.size());
}

TEST(UnicodeTest, ByteAlphabetIsABijection) {
  std::vector<bool> seen(400);
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t code = ByteToCodePoint(static_cast<uint8_t>(byte));
    ASSERT_LT(code, 400u);
    EXPECT_FALSE(seen[code]);
    seen[code] = true;
    EXPECT_EQ(CodePointToByte(code), byte);
  }
  EXPECT_EQ(ByteToCodePoint(' '), U'Ġ');
  EXPECT_EQ(ByteToCodePoint('\n'), U'Ċ');
  EXPECT_EQ(CodePointToByte(U'中'), -1);
  EXPECT_EQ(CodePointToByte(U' '), -1);
}

TEST(UnicodeTest, WhitespaceIsTheUnicodeProperty) {
  for (const char32_t c : {0x09, 0x0D, 0x20, 0x85, 0xA0, 0x1680, 0x2003, 0x2028, 0x3000})
    EXPECT_TRUE(IsUnicodeWhitespace(c));
  for (const char32_t c : {0x1C, 0x180E, 0x200B, 0xFEFF, 0x61}) EXPECT_FALSE(IsUnicodeWhitespace(c));
}

}  // namespace
}  // namespace shoal
