// Template text to tokens, with Jinja2's white space rules as Hugging Face sets them: trim_blocks and lstrip_blocks on,
// one newline at the end of the template dropped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal::jinja {

struct Token {
  enum class Kind {
    kText,
    kBlockBegin,
    kBlockEnd,
    kPrintBegin,
    kPrintEnd,
    kName,
    kString,
    kInt,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind = Kind::kEnd;
  std::string text;
  int line = 1;
};

// The last token is kEnd. Errors: kInvalidArgument "template line N: ...".
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

absl::Status TemplateError(int line, std::string_view what);

}  // namespace shoal::jinja
