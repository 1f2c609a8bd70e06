// UTF-8 checks on untrusted bytes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace shoal {

// Byte offset of the first ill-formed sequence (overlong forms, surrogates and values past U+10FFFF included), or
// std::string_view::npos. Source: Unicode 15, table 3-7.
size_t FindInvalidUtf8(std::string_view text);

inline bool IsValidUtf8(std::string_view text) { return FindInvalidUtf8(text) == std::string_view::npos; }

// Length of the longest prefix that does not end inside a sequence which later bytes could still complete. The
// held-back tail is at most 3 bytes. Ill-formed bytes do not hold anything back.
size_t CompleteUtf8Prefix(std::string_view text);

// `text` with each maximal ill-formed part replaced by U+FFFD (Unicode 15, section 3.9, "best practice").
std::string ReplaceInvalidUtf8(std::string_view text);

// Code point at `text[*pos]`, advancing *pos. `text` must be valid UTF-8 there.
char32_t DecodeUtf8(std::string_view text, size_t* pos);

// Appends the UTF-8 form of `code_point`, which must be a Unicode scalar value.
void AppendUtf8(char32_t code_point, std::string* out);

}  // namespace shoal
