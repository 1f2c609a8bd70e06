// Python's str operations that both filters and methods need.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/jinja_value.h"

namespace shoal::jinja {

// Without the characters of `chars` (null: white space) at the chosen ends.
std::string_view Strip(std::string_view text, const std::string* chars, bool left, bool right);

// str.replace; count < 0: all. Errors: kResourceExhausted if the result is too long.
absl::StatusOr<std::string> Replace(const std::string& text, const std::string& from, const std::string& to,
                                    int64_t count, Budget* budget);

// Jinja2's indent: `prefix` before every line; before the first and before blank ones only if asked.
// Errors: kResourceExhausted if the result is too long.
absl::StatusOr<std::string> Indent(const std::string& text, const std::string& prefix, bool first, bool blank,
                                   Budget* budget);

enum class LetterCase { kLower, kUpper, kTitle, kCapitalize };
// One code point becomes one code point ("ß" stays in upper case, unlike in Python).
std::string ChangeCase(std::string_view text, LetterCase letter_case);

// str.split and str.rsplit: by `separator` (null: runs of white space), at most `limit` cuts (< 0: no limit).
std::vector<std::string> Split(std::string_view text, const std::string* separator, int64_t limit, bool from_right);

}  // namespace shoal::jinja
