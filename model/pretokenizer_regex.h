// The regular expressions of tokenizer files, over PCRE2.
//
// The files are written for Oniguruma (Ruby syntax). What means something else in PCRE2 is rewritten (`\s`, `\w`,
// scripts, the option `m`) or refused with a message (class intersection, `{n,m}+`, `\h` and others); see
// TranslateRegex.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

// The PCRE2 form of an Oniguruma expression. Errors: kInvalidArgument naming the construct.
absl::StatusOr<std::string> TranslateRegex(std::string_view pattern);

// A compiled expression; shared by threads.
class Regex {
 public:
  // `is_literal`: `pattern` is plain text. Errors: kInvalidArgument with the offset in the expression.
  static absl::StatusOr<Regex> Compile(std::string_view pattern, bool is_literal);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Calls `on_part(part, is_match)` for the matches and for the text between them, in order, so that the parts joined
  // are `text`. Stops at the first error of `on_part`. `text` must be valid UTF-8. Errors: kResourceExhausted if the
  // expression backtracks beyond its limits, or its matches take more than 1 s and 20 us per byte, at most 5 s, in all.
  absl::Status ForEachPart(std::string_view text,
                           absl::FunctionRef<absl::Status(std::string_view part, bool is_match)> on_part) const;

 private:
  struct Impl;
  explicit Regex(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
