// The tokens of a template, read one after the other.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/jinja_lexer.h"

namespace shoal::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& Peek(size_t ahead = 0) const;
  Token Next();
  bool IsOperator(std::string_view text) const;
  bool IsName(std::string_view text) const;
  bool AcceptOperator(std::string_view text);
  bool AcceptName(std::string_view text);
  absl::Status ExpectOperator(std::string_view text);
  absl::StatusOr<std::string> ExpectName();
  absl::Status ErrorHere(std::string_view what) const;
  // Counts nesting while alive. Errors through `status`.
  absl::Status Enter();
  void Leave() { --nesting_; }

 private:
  std::vector<Token> tokens_;  // The last is kEnd, which is never passed.
  size_t pos_ = 0;
  int nesting_ = 0;
};

}  // namespace shoal::jinja
