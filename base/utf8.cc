#include "base/utf8.h"

#include "base/check.h"

namespace shoal {
namespace {

enum class Step { kComplete, kInvalid, kIncomplete };

struct Sequence {
  Step step;
  size_t length;  // Bytes of the sequence; for kInvalid and kIncomplete, of its well-formed beginning (at least 1).
};

// Reads the sequence that starts at text[0]; `text` is not empty.
Sequence ReadSequence(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {Step::kComplete, 1};
  size_t length = 0;
  unsigned char low = 0x80;  // Bounds of the second byte.
  unsigned char high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return {Step::kInvalid, 1};
  }
  for (size_t i = 1; i < length; ++i) {
    if (i >= text.size()) return {Step::kIncomplete, i};
    if (byte(i) < low || byte(i) > high) return {Step::kInvalid, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Step::kComplete, length};
}

}  // namespace

size_t FindInvalidUtf8(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    const Sequence next = ReadSequence(text.substr(pos));
    if (next.step != Step::kComplete) return pos;
    pos += next.length;
  }
  return std::string_view::npos;
}

size_t CompleteUtf8Prefix(std::string_view text) {
  // Only the last 3 bytes can belong to an unfinished sequence.
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const size_t start = text.size() - back;
    const unsigned char first = static_cast<unsigned char>(text[start]);
    if (first < 0x80) break;
    if (first < 0xC0) continue;  // A continuation byte: look further back for its lead.
    return ReadSequence(text.substr(start)).step == Step::kIncomplete ? start : text.size();
  }
  return text.size();
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Sequence next = ReadSequence(text.substr(pos));
    if (next.step == Step::kComplete) {
      out.append(text.substr(pos, next.length));
    } else {
      out.append("\xEF\xBF\xBD");
    }
    pos += next.length;
  }
  return out;
}

char32_t DecodeUtf8(std::string_view text, size_t* pos) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[*pos + i]); };
  const unsigned char first = byte(0);
  const int length = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  SHOAL_CHECK_LE(*pos + length, text.size());
  char32_t code = length == 1 ? first : first & (0x7F >> length);
  for (int i = 1; i < length; ++i) code = code << 6 | (byte(i) & 0x3F);
  *pos += length;
  return code;
}

void AppendUtf8(char32_t c, std::string* out) {
  SHOAL_CHECK(c <= 0x10FFFF);
  const auto put = [&](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

}  // namespace shoal
