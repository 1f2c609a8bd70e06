#include "model/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"

namespace shoal {
namespace {

// Ranges whose characters are starters, are unchanged by NFC and never combine with a character before them, so any
// text made of them alone is in NFC. A subset is enough: it only has to cover most text.
struct Range {
  char32_t first;
  char32_t last;
};
constexpr std::array<Range, 9> kPlainNfc = {{{0x0000, 0x02FF},
                                             {0x0400, 0x0482},
                                             {0x048A, 0x052F},
                                             {0x2010, 0x2027},
                                             {0x2030, 0x205E},
                                             {0x3000, 0x3029},
                                             {0x3041, 0x3096},
                                             {0x4E00, 0x9FFF},
                                             {0xAC00, 0xD7A3}}};

bool IsPlainNfc(char32_t c) {
  return std::any_of(kPlainNfc.begin(), kPlainNfc.end(), [c](Range r) { return c >= r.first && c <= r.last; });
}

struct ByteAlphabet {
  std::array<char32_t, 256> code_points;
  std::array<int16_t, 324> bytes;  // By code point; -1: none.
};

const ByteAlphabet& Alphabet() {
  static const ByteAlphabet alphabet = [] {
    ByteAlphabet a;
    a.bytes.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      a.code_points[b] = printable ? static_cast<char32_t>(b) : next++;
      a.bytes[a.code_points[b]] = static_cast<int16_t>(b);
    }
    return a;
  }();
  return alphabet;
}

int CombiningClass(int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Canonical ordering (UAX 15, D109). utf8proc's own is quadratic in the length of a run of marks, which a client
// chooses.
void OrderMarks(std::vector<int32_t>* code_points) {
  auto& c = *code_points;
  for (size_t i = 0; i < c.size();) {
    if (CombiningClass(c[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < c.size() && CombiningClass(c[end]) != 0) ++end;
    const auto less = [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); };
    std::stable_sort(c.begin() + static_cast<ptrdiff_t>(i), c.begin() + static_cast<ptrdiff_t>(end), less);
    i = end;
  }
}

}  // namespace

bool QuickCheckNfc(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    if (static_cast<unsigned char>(text[pos]) < 0xCC) {  // Bytes of U+0000..U+02FF and their continuations.
      ++pos;
      continue;
    }
    if (!IsPlainNfc(DecodeUtf8(text, &pos))) return false;
  }
  return true;
}

std::string Normalize(std::string_view text, NormalForm form) {
  if (form == NormalForm::kNfc && QuickCheckNfc(text)) return std::string(text);
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const int options = UTF8PROC_STABLE | (compatible ? UTF8PROC_COMPAT : 0) | UTF8PROC_DECOMPOSE;
  std::vector<int32_t> code_points;
  code_points.reserve(text.size() + 32);
  for (size_t pos = 0; pos < text.size();) {
    std::array<int32_t, 64> parts;  // The longest decomposition has 18 code points (U+FDFA).
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<int32_t>(DecodeUtf8(text, &pos)), parts.data(), parts.size(),
                                               static_cast<utf8proc_option_t>(options), &boundary);
    SHOAL_CHECK(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()));
    code_points.insert(code_points.end(), parts.begin(), parts.begin() + count);
  }
  OrderMarks(&code_points);
  if (compose) {
    const auto count = utf8proc_normalize_utf32(code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()),
                                                static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    SHOAL_CHECK(count >= 0);
    code_points.resize(static_cast<size_t>(count));
  }
  std::string out;
  out.reserve(text.size());
  for (const int32_t c : code_points) AppendUtf8(static_cast<char32_t>(c), &out);
  return out;
}

bool IsUnicodeWhitespace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsUnicodeWord(char32_t c) {
  switch (utf8proc_category(static_cast<int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

char32_t ByteToCodePoint(uint8_t byte) { return Alphabet().code_points[byte]; }

int CodePointToByte(char32_t code_point) {
  const auto& bytes = Alphabet().bytes;
  return code_point < bytes.size() ? bytes[code_point] : -1;
}

}  // namespace shoal
