#include "model/jinja_parser.h"

#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/jinja_expression_parser.h"
#include "model/jinja_lexer.h"

namespace shoal::jinja {
namespace {

using Kind = Statement::Kind;
using StatementPtr = std::unique_ptr<Statement>;

class TemplateParser {
 public:
  explicit TemplateParser(std::vector<Token> tokens) : parser_(std::move(tokens)) {}

  absl::StatusOr<Body> Run() {
    ASSIGN_OR_RETURN(Body body, ParseBody({}));
    if (parser_.Peek().kind != Token::Kind::kEnd) return parser_.ErrorHere("expected no more tags");
    return body;
  }

 private:
  static StatementPtr Make(Kind kind, int line) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  absl::Status EndTag() {
    if (parser_.Peek().kind != Token::Kind::kBlockEnd) return parser_.ErrorHere("expected '%}'");
    parser_.Next();
    return absl::OkStatus();
  }

  // Statements up to a tag whose name is one of `ends`, which stays unread after its "{%"; with none, up to the end.
  absl::StatusOr<Body> ParseBody(const std::vector<std::string_view>& ends) {
    RETURN_IF_ERROR(parser_.Enter());
    const int line = parser_.Peek().line;
    Body body;
    while (true) {
      const Token token = parser_.Peek();
      if (token.kind == Token::Kind::kEnd) {
        if (!ends.empty())
          return TemplateError(line, StrCat("a block is not closed: '{% ", ends.back(), " %}' is missing"));
        break;
      }
      if (token.kind == Token::Kind::kText) {
        body.push_back(Make(Kind::kText, token.line));
        body.back()->text = parser_.Next().text;
      } else if (token.kind == Token::Kind::kPrintBegin) {
        parser_.Next();
        body.push_back(Make(Kind::kPrint, token.line));
        ASSIGN_OR_RETURN(body.back()->expression, ParseTuple());
        if (parser_.Peek().kind != Token::Kind::kPrintEnd) return parser_.ErrorHere("expected '}}'");
        parser_.Next();
      } else {
        parser_.Next();
        bool ended = false;
        for (const std::string_view end : ends) ended = ended || parser_.IsName(end);
        if (ended) break;
        ASSIGN_OR_RETURN(StatementPtr statement, ParseTag());
        if (statement != nullptr) body.push_back(std::move(statement));
      }
    }
    parser_.Leave();
    return body;
  }

  // "a, b" without parentheses is a tuple.
  absl::StatusOr<ExpressionPtr> ParseTuple(bool with_condition = true) {
    ASSIGN_OR_RETURN(ExpressionPtr first, parser_.Parse(with_condition));
    if (!parser_.IsOperator(",")) return first;
    auto tuple = std::make_unique<Expression>();
    tuple->kind = Expression::Kind::kList;
    tuple->line = first->line;
    tuple->depth = first->depth + 1;
    tuple->children.push_back(std::move(first));
    while (parser_.AcceptOperator(",")) {
      ASSIGN_OR_RETURN(ExpressionPtr item, parser_.Parse(with_condition));
      tuple->depth = std::max(tuple->depth, item->depth + 1);
      tuple->children.push_back(std::move(item));
    }
    return tuple;
  }

  absl::StatusOr<StatementPtr> ParseTag() {
    const int line = parser_.Peek().line;
    ASSIGN_OR_RETURN(const std::string name, parser_.ExpectName());
    if (name == "if") return ParseIf(line);
    if (name == "for") return ParseFor(line);
    if (name == "set") return ParseSet(line);
    if (name == "macro") return ParseMacro(line);
    if (name == "call") return ParseCall(line);
    if (name == "filter") return ParseFilterBlock(line);
    if (name == "with") return ParseWith(line);
    if (name == "generation") return ParseSimpleBlock(line, "endgeneration");
    if (name == "break" || name == "continue") {
      if (loops_ == 0) return TemplateError(line, StrCat("'", name, "' is outside of a loop"));
      RETURN_IF_ERROR(EndTag());
      return Make(name == "break" ? Kind::kBreak : Kind::kContinue, line);
    }
    return TemplateError(line, StrCat("tag '", name.substr(0, 64), "' is not supported or does not belong here"));
  }

  absl::StatusOr<StatementPtr> ParseIf(int line) {
    StatementPtr statement = Make(Kind::kIf, line);
    bool seen_else = false;
    while (true) {
      Statement::Branch branch;
      if (!seen_else) {
        ASSIGN_OR_RETURN(branch.condition, parser_.Parse());
      }
      RETURN_IF_ERROR(EndTag());
      ASSIGN_OR_RETURN(branch.body, seen_else ? ParseBody({"endif"}) : ParseBody({"elif", "else", "endif"}));
      statement->branches.push_back(std::move(branch));
      const std::string end = parser_.Next().text;
      if (end == "endif") break;
      seen_else = end == "else";
    }
    RETURN_IF_ERROR(EndTag());
    return statement;
  }

  absl::StatusOr<StatementPtr> ParseFor(int line) {
    StatementPtr statement = Make(Kind::kFor, line);
    const bool parenthesized = parser_.AcceptOperator("(");
    do {
      ASSIGN_OR_RETURN(std::string name, parser_.ExpectName());
      statement->names.push_back(std::move(name));
    } while (parser_.AcceptOperator(","));
    if (parenthesized) RETURN_IF_ERROR(parser_.ExpectOperator(")"));
    if (!parser_.AcceptName("in")) return parser_.ErrorHere("expected 'in'");
    ASSIGN_OR_RETURN(statement->expression, ParseTuple(/*with_condition=*/false));
    if (parser_.AcceptName("if")) {
      ASSIGN_OR_RETURN(statement->condition, parser_.Parse());
    }
    if (parser_.IsName("recursive")) return parser_.ErrorHere("recursive loops are not supported: expected '%}'");
    RETURN_IF_ERROR(EndTag());
    ++loops_;
    ASSIGN_OR_RETURN(statement->body, ParseBody({"else", "endfor"}));
    --loops_;
    if (parser_.Next().text == "else") {
      RETURN_IF_ERROR(EndTag());
      ASSIGN_OR_RETURN(statement->otherwise, ParseBody({"endfor"}));
      parser_.Next();
    }
    RETURN_IF_ERROR(EndTag());
    return statement;
  }

  absl::StatusOr<StatementPtr> ParseSet(int line) {
    StatementPtr statement = Make(Kind::kSet, line);
    do {
      ASSIGN_OR_RETURN(std::string name, parser_.ExpectName());
      statement->names.push_back(std::move(name));
    } while (parser_.AcceptOperator(","));
    if (statement->names.size() == 1 && parser_.AcceptOperator(".")) {
      ASSIGN_OR_RETURN(statement->attribute, parser_.ExpectName());
    }
    if (parser_.AcceptOperator("=")) {
      ASSIGN_OR_RETURN(statement->expression, ParseTuple());
      RETURN_IF_ERROR(EndTag());
      return statement;
    }
    if (statement->names.size() != 1) return parser_.ErrorHere("expected '='");
    ASSIGN_OR_RETURN(statement->condition, ParseFilters());
    RETURN_IF_ERROR(EndTag());
    ASSIGN_OR_RETURN(statement->body, ParseBody({"endset"}));
    parser_.Next();
    RETURN_IF_ERROR(EndTag());
    return statement;
  }

  // "| a | b": filters over the text of a block, or null. The innermost has no subject.
  absl::StatusOr<ExpressionPtr> ParseFilters() {
    ExpressionPtr filters;
    while (parser_.AcceptOperator("|")) {
      ASSIGN_OR_RETURN(filters, parser_.ParseFilter(std::move(filters)));
    }
    return filters;
  }

  absl::Status ParseParameters(Statement* statement) {
    RETURN_IF_ERROR(parser_.ExpectOperator("("));
    while (!parser_.IsOperator(")")) {
      ASSIGN_OR_RETURN(std::string name, parser_.ExpectName());
      ExpressionPtr otherwise;
      if (parser_.AcceptOperator("=")) {
        ASSIGN_OR_RETURN(otherwise, parser_.Parse());
      }
      statement->parameters.emplace_back(std::move(name), std::move(otherwise));
      if (!parser_.AcceptOperator(",")) break;
    }
    return parser_.ExpectOperator(")");
  }

  absl::StatusOr<StatementPtr> ParseMacro(int line) {
    StatementPtr statement = Make(Kind::kMacro, line);
    ASSIGN_OR_RETURN(statement->text, parser_.ExpectName());
    RETURN_IF_ERROR(ParseParameters(statement.get()));
    return CloseBlock(std::move(statement), "endmacro");
  }

  absl::StatusOr<StatementPtr> ParseCall(int line) {
    StatementPtr statement = Make(Kind::kCall, line);
    statement->text = "caller";
    if (parser_.IsOperator("(")) RETURN_IF_ERROR(ParseParameters(statement.get()));
    ASSIGN_OR_RETURN(statement->expression, parser_.ParsePrimary());
    if (statement->expression->kind != Expression::Kind::kCall) return parser_.ErrorHere("expected a call of a macro");
    return CloseBlock(std::move(statement), "endcall");
  }

  absl::StatusOr<StatementPtr> ParseFilterBlock(int line) {
    StatementPtr statement = Make(Kind::kFilter, line);
    ASSIGN_OR_RETURN(ExpressionPtr filter, parser_.ParseFilter(nullptr));
    while (parser_.AcceptOperator("|")) {
      ASSIGN_OR_RETURN(filter, parser_.ParseFilter(std::move(filter)));
    }
    statement->condition = std::move(filter);
    return CloseBlock(std::move(statement), "endfilter");
  }

  absl::StatusOr<StatementPtr> ParseWith(int line) {
    StatementPtr statement = Make(Kind::kScope, line);
    while (parser_.Peek().kind == Token::Kind::kName) {
      ASSIGN_OR_RETURN(std::string name, parser_.ExpectName());
      RETURN_IF_ERROR(parser_.ExpectOperator("="));
      ASSIGN_OR_RETURN(ExpressionPtr value, parser_.Parse());
      statement->parameters.emplace_back(std::move(name), std::move(value));
      if (!parser_.AcceptOperator(",")) break;
    }
    return CloseBlock(std::move(statement), "endwith");
  }

  absl::StatusOr<StatementPtr> ParseSimpleBlock(int line, std::string_view end) {
    return CloseBlock(Make(Kind::kPlainBody, line), end);
  }

  // "%}", the body and its end tag.
  absl::StatusOr<StatementPtr> CloseBlock(StatementPtr statement, std::string_view end) {
    RETURN_IF_ERROR(EndTag());
    const bool is_function = statement->kind == Kind::kMacro || statement->kind == Kind::kCall;
    const int loops = loops_;
    if (is_function) loops_ = 0;  // A loop around a macro is not its own.
    ASSIGN_OR_RETURN(statement->body, ParseBody({end}));
    loops_ = loops;
    parser_.Next();
    RETURN_IF_ERROR(EndTag());
    return statement;
  }

  ExpressionParser parser_;
  int loops_ = 0;
};

}  // namespace

absl::StatusOr<Body> ParseTemplate(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return TemplateParser(std::move(tokens)).Run();
}

}  // namespace shoal::jinja
