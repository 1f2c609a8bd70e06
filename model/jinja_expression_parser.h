// Parses the expressions of a template; jinja_parser.cc parses the statements around them.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/jinja_ast.h"
#include "model/jinja_token_stream.h"

namespace shoal::jinja {

class ExpressionParser : public TokenStream {
 public:
  using TokenStream::TokenStream;

  // A full expression; `with_condition`: "a if b else c" is part of it (not so in "for x in a if b").
  absl::StatusOr<ExpressionPtr> Parse(bool with_condition = true);
  // A primary with its attributes, items and calls, but no filters.
  absl::StatusOr<ExpressionPtr> ParsePrimary();
  // "name(arguments)" after a '|', applied to `subject`.
  absl::StatusOr<ExpressionPtr> ParseFilter(ExpressionPtr subject);

 private:
  using Rule = absl::StatusOr<ExpressionPtr> (ExpressionParser::*)();
  absl::StatusOr<ExpressionPtr> Or();
  absl::StatusOr<ExpressionPtr> And();
  absl::StatusOr<ExpressionPtr> Not();
  absl::StatusOr<ExpressionPtr> Comparison();
  absl::StatusOr<ExpressionPtr> Sum();
  absl::StatusOr<ExpressionPtr> Concat();
  absl::StatusOr<ExpressionPtr> Product();
  absl::StatusOr<ExpressionPtr> Power();
  absl::StatusOr<ExpressionPtr> Unary();
  absl::StatusOr<ExpressionPtr> UnaryOperand(bool with_filters);
  absl::StatusOr<ExpressionPtr> LeftChain(Rule operand, std::initializer_list<std::string_view> operators);
  absl::StatusOr<ExpressionPtr> Atom();
  absl::StatusOr<ExpressionPtr> NameOrConstant();
  absl::StatusOr<ExpressionPtr> ParenthesizedOrTuple();
  absl::StatusOr<ExpressionPtr> ListLiteral();
  absl::StatusOr<ExpressionPtr> DictLiteral();
  absl::StatusOr<ExpressionPtr> Postfix(ExpressionPtr subject);
  absl::StatusOr<ExpressionPtr> Subscript(ExpressionPtr subject);
  absl::StatusOr<ExpressionPtr> FiltersAndTests(ExpressionPtr subject);
  absl::StatusOr<ExpressionPtr> ParseTest(ExpressionPtr subject);
  absl::Status Arguments(Expression* call);
  absl::StatusOr<ExpressionPtr> Finish(ExpressionPtr expression) const;
};

}  // namespace shoal::jinja
