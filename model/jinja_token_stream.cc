#include "model/jinja_token_stream.h"

#include <algorithm>

#include "base/str_cat.h"
#include "model/jinja_parser.h"

namespace shoal::jinja {

const Token& TokenStream::Peek(size_t ahead) const { return tokens_[std::min(pos_ + ahead, tokens_.size() - 1)]; }

Token TokenStream::Next() {
  Token token = Peek();
  if (pos_ + 1 < tokens_.size()) ++pos_;
  return token;
}

bool TokenStream::IsOperator(std::string_view text) const {
  return Peek().kind == Token::Kind::kOperator && Peek().text == text;
}
bool TokenStream::IsName(std::string_view text) const {
  return Peek().kind == Token::Kind::kName && Peek().text == text;
}
bool TokenStream::AcceptOperator(std::string_view text) {
  const bool found = IsOperator(text);
  if (found) Next();
  return found;
}
bool TokenStream::AcceptName(std::string_view text) {
  const bool found = IsName(text);
  if (found) Next();
  return found;
}

absl::Status TokenStream::ErrorHere(std::string_view what) const {
  const Token& token = Peek();
  std::string_view shown = token.text;
  if (token.kind == Token::Kind::kBlockEnd) shown = "%}";
  if (token.kind == Token::Kind::kPrintEnd) shown = "}}";
  if (token.kind == Token::Kind::kEnd) shown = "the end of the template";
  return TemplateError(token.line, StrCat(what, ", not '", shown.substr(0, 64), "'"));
}

absl::Status TokenStream::ExpectOperator(std::string_view text) {
  return AcceptOperator(text) ? absl::OkStatus() : ErrorHere(StrCat("expected '", text, "'"));
}

absl::StatusOr<std::string> TokenStream::ExpectName() {
  if (Peek().kind != Token::Kind::kName) return ErrorHere("expected a name");
  return Next().text;
}

absl::Status TokenStream::Enter() {
  if (++nesting_ > kNestingMax) {
    return TemplateError(Peek().line, StrCat("blocks and expressions are nested deeper than ", kNestingMax));
  }
  return absl::OkStatus();
}

}  // namespace shoal::jinja
