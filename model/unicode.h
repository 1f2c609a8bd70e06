// Unicode normalization and the few character classes that tokenizers ask for, over utf8proc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shoal {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` in the given normal form, in time linear in its length (runs of combining marks: n log n).
// `text` must be valid UTF-8. Source: Unicode Standard Annex 15.
std::string Normalize(std::string_view text, NormalForm form);

// True when `text` is surely in NFC already; false means "not known". Cheap.
bool QuickCheckNfc(std::string_view text);

// The White_Space property.
bool IsUnicodeWhitespace(char32_t code_point);

// A letter, mark, number or connecting punctuation: `\w` of Oniguruma.
bool IsUnicodeWord(char32_t code_point);

// The GPT-2 byte alphabet: printable bytes stand for themselves, the others for U+0100 onwards, in order.
char32_t ByteToCodePoint(uint8_t byte);

// The byte that `code_point` stands for, or -1.
int CodePointToByte(char32_t code_point);

}  // namespace shoal
