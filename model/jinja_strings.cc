#include "model/jinja_strings.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "base/utf8.h"
#include "model/unicode.h"

namespace shoal::jinja {
namespace {

bool IsPythonSpace(char32_t c) { return IsUnicodeWhitespace(c) || (c >= 0x1C && c <= 0x1F); }

bool Strips(std::string_view character, const std::string* chars) {
  if (chars != nullptr) return chars->find(character) != std::string::npos;
  size_t pos = 0;
  return IsPythonSpace(DecodeUtf8(character, &pos));
}

// Words between white space, from the left.
std::vector<std::string> SplitSpaces(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  text = Strip(text, nullptr, true, false);
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) >= limit) {
      parts.emplace_back(Strip(text, nullptr, false, true));
      break;
    }
    size_t end = 0;
    for (size_t next = 0; end < text.size(); end = next) {
      if (IsPythonSpace(DecodeUtf8(text, &next))) break;
    }
    parts.emplace_back(text.substr(0, end));
    text = Strip(text.substr(end), nullptr, true, false);
  }
  return parts;
}

// From the right: what is left over after `limit` words stays one piece.
std::vector<std::string> SplitSpacesRight(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  text = Strip(text, nullptr, false, true);
  while (!text.empty()) {
    size_t begin = text.size();
    while (begin > 0 && static_cast<int64_t>(parts.size()) < limit) {
      size_t previous = begin - 1;
      while (previous > 0 && (static_cast<unsigned char>(text[previous]) & 0xC0) == 0x80) --previous;
      size_t pos = previous;
      if (IsPythonSpace(DecodeUtf8(text, &pos))) break;
      begin = previous;
    }
    if (static_cast<int64_t>(parts.size()) >= limit) {
      parts.emplace_back(Strip(text, nullptr, true, false));
      break;
    }
    parts.emplace_back(text.substr(begin));
    text = Strip(text.substr(0, begin), nullptr, false, true);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace

std::string_view Strip(std::string_view text, const std::string* chars, bool left, bool right) {
  while (left && !text.empty()) {
    size_t pos = 0;
    DecodeUtf8(text, &pos);
    if (!Strips(text.substr(0, pos), chars)) break;
    text.remove_prefix(pos);
  }
  while (right && !text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!Strips(text.substr(begin), chars)) break;
    text = text.substr(0, begin);
  }
  return text;
}

absl::StatusOr<std::string> Replace(const std::string& text, const std::string& from, const std::string& to,
                                    int64_t count, Budget* budget) {
  std::string out;
  size_t done = 0;
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(text.size()) / 16));
  for (int64_t i = 0; count < 0 || i < count; ++i) {
    size_t at = done;
    if (from.empty()) {  // Python puts `to` before every character and at the end.
      if (i > 0) {
        if (done >= text.size()) break;
        DecodeUtf8(text, &at);
      }
    } else {
      at = text.find(from, done);
      if (at == std::string::npos) break;
    }
    out.append(text, done, at - done).append(to);
    done = at + from.size();
    RETURN_IF_ERROR(budget->Charge(1 + static_cast<int64_t>(to.size()) / 64));
    if ((i & 0xFF) == 0) RETURN_IF_ERROR(budget->ChargeBytes(out.size()));
  }
  out.append(text, done);
  RETURN_IF_ERROR(budget->ChargeBytes(out.size()));
  return out;
}

absl::StatusOr<std::string> Indent(const std::string& text, const std::string& prefix, bool first, bool blank,
                                   Budget* budget) {
  const std::string newline = "\n";
  std::string out;
  size_t line_number = 0;
  for (const std::string& line : Split(text, &newline, -1, false)) {
    const bool is_first = line_number++ == 0;
    if (!is_first) out += '\n';
    if (is_first ? first : blank || !line.empty()) out += prefix;
    out += line;
    RETURN_IF_ERROR(budget->Charge(1 + static_cast<int64_t>(prefix.size()) / 64));
    if ((line_number & 0xFF) == 0) RETURN_IF_ERROR(budget->ChargeBytes(out.size()));
  }
  RETURN_IF_ERROR(budget->ChargeBytes(out.size()));
  return out;
}

std::string ChangeCase(std::string_view text, LetterCase letter_case) {
  std::string out;
  bool word_start = true;
  for (size_t pos = 0; pos < text.size();) {
    const auto c = static_cast<int32_t>(DecodeUtf8(text, &pos));
    const bool is_letter =
        utf8proc_tolower(c) != c || utf8proc_toupper(c) != c || IsUnicodeWord(static_cast<char32_t>(c));
    const bool upper = letter_case == LetterCase::kUpper ||
                       (word_start && (letter_case == LetterCase::kTitle || letter_case == LetterCase::kCapitalize));
    AppendUtf8(static_cast<char32_t>(upper ? utf8proc_toupper(c) : utf8proc_tolower(c)), &out);
    word_start = letter_case == LetterCase::kTitle && !(is_letter && utf8proc_category(c) != UTF8PROC_CATEGORY_ND);
  }
  return out;
}

std::vector<std::string> Split(std::string_view text, const std::string* separator, int64_t limit, bool from_right) {
  if (limit < 0) {
    limit = INT64_MAX;
    from_right = false;  // The same cuts.
  }
  if (separator == nullptr)
    return from_right ? SplitSpacesRight(text, limit) : SplitSpaces(text, limit == INT64_MAX ? -1 : limit);
  std::vector<std::string> parts;
  while (static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
    if (at == std::string_view::npos) break;
    const size_t after = at + separator->size();
    parts.emplace_back(from_right ? text.substr(after) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(after);
  }
  parts.emplace_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace shoal::jinja
