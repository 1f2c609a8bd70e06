#include "model/jinja_expression_parser.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/jinja_interpreter.h"
#include "model/jinja_parser.h"

namespace shoal::jinja {
namespace {

using Kind = Expression::Kind;

ExpressionPtr Make(Kind kind, int line, std::string text = "") {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = line;
  expression->text = std::move(text);
  return expression;
}

ExpressionPtr MakeLiteral(int line, Value value) {
  ExpressionPtr literal = Make(Kind::kLiteral, line);
  literal->value = std::move(value);
  return literal;
}

}  // namespace

// Sets the depth of a new node from its parts.
absl::StatusOr<ExpressionPtr> ExpressionParser::Finish(ExpressionPtr expression) const {
  int depth = 0;
  for (const auto& child : expression->children) depth = std::max(depth, child ? child->depth : 0);
  for (const auto& argument : expression->arguments) depth = std::max(depth, argument->depth);
  for (const auto& [name, argument] : expression->named) depth = std::max(depth, argument->depth);
  expression->depth = depth + 1;
  if (expression->depth > kExpressionDepthMax) {
    return TemplateError(expression->line, StrCat("an expression is deeper than ", kExpressionDepthMax, " operators"));
  }
  return expression;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Parse(bool with_condition) {
  RETURN_IF_ERROR(Enter());
  ASSIGN_OR_RETURN(ExpressionPtr expression, Or());
  while (with_condition && IsName("if")) {
    ExpressionPtr conditional = Make(Kind::kConditional, Next().line);
    ASSIGN_OR_RETURN(ExpressionPtr condition, Or());
    ExpressionPtr otherwise;
    if (AcceptName("else")) {
      ASSIGN_OR_RETURN(otherwise, Parse());
    }
    conditional->children.push_back(std::move(expression));
    conditional->children.push_back(std::move(condition));
    conditional->children.push_back(std::move(otherwise));
    ASSIGN_OR_RETURN(expression, Finish(std::move(conditional)));
  }
  Leave();
  return expression;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Or() {
  ASSIGN_OR_RETURN(ExpressionPtr left, And());
  while (IsName("or")) {
    ExpressionPtr node = Make(Kind::kOr, Next().line);
    node->children.push_back(std::move(left));
    ASSIGN_OR_RETURN(ExpressionPtr right, And());
    node->children.push_back(std::move(right));
    ASSIGN_OR_RETURN(left, Finish(std::move(node)));
  }
  return left;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::And() {
  ASSIGN_OR_RETURN(ExpressionPtr left, Not());
  while (IsName("and")) {
    ExpressionPtr node = Make(Kind::kAnd, Next().line);
    node->children.push_back(std::move(left));
    ASSIGN_OR_RETURN(ExpressionPtr right, Not());
    node->children.push_back(std::move(right));
    ASSIGN_OR_RETURN(left, Finish(std::move(node)));
  }
  return left;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Not() {
  if (!IsName("not")) return Comparison();
  RETURN_IF_ERROR(Enter());
  ExpressionPtr node = Make(Kind::kUnary, Next().line, "not");
  ASSIGN_OR_RETURN(ExpressionPtr operand, Not());
  Leave();
  node->children.push_back(std::move(operand));
  return Finish(std::move(node));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Comparison() {
  ASSIGN_OR_RETURN(ExpressionPtr first, Sum());
  ExpressionPtr node;
  while (true) {
    std::string op;
    for (const char* candidate : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (IsOperator(candidate)) op = candidate;
    }
    if (IsName("in")) op = "in";
    if (IsName("not") && Peek(1).kind == Token::Kind::kName && Peek(1).text == "in") {
      op = "not in";
      Next();
    }
    if (op.empty()) break;
    const int line = Next().line;
    if (node == nullptr) {
      node = Make(Kind::kCompare, line);
      node->children.push_back(std::move(first));
    }
    node->operators.push_back(op);
    ASSIGN_OR_RETURN(ExpressionPtr operand, Sum());
    node->children.push_back(std::move(operand));
  }
  if (node == nullptr) return first;
  return Finish(std::move(node));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::LeftChain(Rule operand,
                                                          std::initializer_list<std::string_view> operators) {
  ASSIGN_OR_RETURN(ExpressionPtr left, (this->*operand)());
  while (std::any_of(operators.begin(), operators.end(), [this](std::string_view op) { return IsOperator(op); })) {
    const Token op = Next();
    ExpressionPtr node = Make(Kind::kBinary, op.line, op.text);
    node->children.push_back(std::move(left));
    ASSIGN_OR_RETURN(ExpressionPtr right, (this->*operand)());
    node->children.push_back(std::move(right));
    ASSIGN_OR_RETURN(left, Finish(std::move(node)));
  }
  return left;
}

// The order of precedence is Jinja2's, where '~' binds tighter than '+'.
absl::StatusOr<ExpressionPtr> ExpressionParser::Sum() { return LeftChain(&ExpressionParser::Concat, {"+", "-"}); }
absl::StatusOr<ExpressionPtr> ExpressionParser::Concat() { return LeftChain(&ExpressionParser::Product, {"~"}); }
absl::StatusOr<ExpressionPtr> ExpressionParser::Product() {
  return LeftChain(&ExpressionParser::Power, {"*", "/", "//", "%"});
}
absl::StatusOr<ExpressionPtr> ExpressionParser::Power() { return LeftChain(&ExpressionParser::Unary, {"**"}); }
absl::StatusOr<ExpressionPtr> ExpressionParser::Unary() { return UnaryOperand(true); }

absl::StatusOr<ExpressionPtr> ExpressionParser::UnaryOperand(bool with_filters) {
  ExpressionPtr node;
  if (IsOperator("-") || IsOperator("+")) {
    RETURN_IF_ERROR(Enter());
    const Token op = Next();
    node = Make(Kind::kUnary, op.line, op.text);
    ASSIGN_OR_RETURN(ExpressionPtr operand, UnaryOperand(false));
    Leave();
    node->children.push_back(std::move(operand));
    ASSIGN_OR_RETURN(node, Finish(std::move(node)));
  } else {
    ASSIGN_OR_RETURN(node, ParsePrimary());
  }
  if (!with_filters) return node;
  return FiltersAndTests(std::move(node));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParsePrimary() {
  ASSIGN_OR_RETURN(ExpressionPtr atom, Atom());
  return Postfix(std::move(atom));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Atom() {
  const int line = Peek().line;
  switch (Peek().kind) {
    case Token::Kind::kName:
      return NameOrConstant();
    case Token::Kind::kString: {
      std::string text = Next().text;
      while (Peek().kind == Token::Kind::kString) text += Next().text;  // Adjacent strings are one.
      return MakeLiteral(line, Value::String(std::move(text)));
    }
    case Token::Kind::kInt: {
      int64_t number = 0;
      if (!absl::SimpleAtoi(Peek().text, &number)) return ErrorHere("expected an integer of 64 bits");
      Next();
      return MakeLiteral(line, Value::Int(number));
    }
    case Token::Kind::kFloat: {
      double number = 0;
      if (!absl::SimpleAtod(Peek().text, &number)) return ErrorHere("expected a number");
      Next();
      return MakeLiteral(line, Value::Float(number));
    }
    default:
      break;
  }
  if (IsOperator("(")) return ParenthesizedOrTuple();
  if (IsOperator("[")) return ListLiteral();
  if (IsOperator("{")) return DictLiteral();
  return ErrorHere("expected an expression");
}

absl::StatusOr<ExpressionPtr> ExpressionParser::NameOrConstant() {
  const Token token = Next();
  const std::string& name = token.text;
  if (name == "true" || name == "True") return MakeLiteral(token.line, Value::Bool(true));
  if (name == "false" || name == "False") return MakeLiteral(token.line, Value::Bool(false));
  if (name == "none" || name == "None") return MakeLiteral(token.line, Value::None());
  return Make(Kind::kName, token.line, name);
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParenthesizedOrTuple() {
  const int line = Next().line;
  if (AcceptOperator(")")) return Make(Kind::kList, line);
  ASSIGN_OR_RETURN(ExpressionPtr first, Parse());
  if (AcceptOperator(")")) return first;
  ExpressionPtr tuple = Make(Kind::kList, line);
  tuple->children.push_back(std::move(first));
  while (AcceptOperator(",")) {
    if (IsOperator(")")) break;
    ASSIGN_OR_RETURN(ExpressionPtr item, Parse());
    tuple->children.push_back(std::move(item));
  }
  RETURN_IF_ERROR(ExpectOperator(")"));
  return Finish(std::move(tuple));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ListLiteral() {
  ExpressionPtr list = Make(Kind::kList, Next().line);
  while (!IsOperator("]")) {
    ASSIGN_OR_RETURN(ExpressionPtr item, Parse());
    list->children.push_back(std::move(item));
    if (!AcceptOperator(",")) break;
  }
  RETURN_IF_ERROR(ExpectOperator("]"));
  return Finish(std::move(list));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::DictLiteral() {
  ExpressionPtr dict = Make(Kind::kDict, Next().line);
  while (!IsOperator("}")) {
    ASSIGN_OR_RETURN(ExpressionPtr key, Parse());
    RETURN_IF_ERROR(ExpectOperator(":"));
    ASSIGN_OR_RETURN(ExpressionPtr value, Parse());
    dict->children.push_back(std::move(key));
    dict->children.push_back(std::move(value));
    if (!AcceptOperator(",")) break;
  }
  RETURN_IF_ERROR(ExpectOperator("}"));
  return Finish(std::move(dict));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Postfix(ExpressionPtr subject) {
  while (true) {
    const int line = Peek().line;
    if (AcceptOperator(".")) {
      ExpressionPtr node;
      if (Peek().kind == Token::Kind::kInt) {  // "a.0" is "a[0]".
        ASSIGN_OR_RETURN(ExpressionPtr index, Atom());
        node = Make(Kind::kItem, line);
        node->children.push_back(std::move(subject));
        node->children.push_back(std::move(index));
      } else {
        ASSIGN_OR_RETURN(std::string name, ExpectName());
        node = Make(Kind::kAttribute, line, std::move(name));
        node->children.push_back(std::move(subject));
      }
      ASSIGN_OR_RETURN(subject, Finish(std::move(node)));
    } else if (IsOperator("[")) {
      ASSIGN_OR_RETURN(subject, Subscript(std::move(subject)));
    } else if (IsOperator("(")) {
      ExpressionPtr call = Make(Kind::kCall, line);
      call->children.push_back(std::move(subject));
      RETURN_IF_ERROR(Arguments(call.get()));
      ASSIGN_OR_RETURN(subject, Finish(std::move(call)));
    } else {
      return subject;
    }
  }
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Subscript(ExpressionPtr subject) {
  const int line = Next().line;
  std::vector<ExpressionPtr> parts(1);
  bool is_slice = false;
  while (!IsOperator("]")) {
    if (IsOperator(":")) {
      Next();
      is_slice = true;
      parts.emplace_back();
      if (parts.size() > 3) return ErrorHere("a slice has at most three parts");
    } else {
      if (parts.back() != nullptr) return ErrorHere("expected ']'");
      ASSIGN_OR_RETURN(parts.back(), Parse());
    }
  }
  Next();
  if (!is_slice && parts[0] == nullptr) return TemplateError(line, "expected an index between '[' and ']'");
  if (is_slice) parts.resize(3);
  ExpressionPtr node = Make(is_slice ? Kind::kSlice : Kind::kItem, line);
  node->children.push_back(std::move(subject));
  for (ExpressionPtr& part : parts) node->children.push_back(std::move(part));
  return Finish(std::move(node));
}

absl::Status ExpressionParser::Arguments(Expression* call) {
  RETURN_IF_ERROR(ExpectOperator("("));
  while (!IsOperator(")")) {
    if (IsOperator("*") || IsOperator("**")) return ErrorHere("'*' arguments are not supported");
    const bool is_named =
        Peek().kind == Token::Kind::kName && Peek(1).kind == Token::Kind::kOperator && Peek(1).text == "=";
    if (is_named) {
      std::string name = Next().text;
      Next();
      ASSIGN_OR_RETURN(ExpressionPtr value, Parse());
      call->named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call->named.empty()) return ErrorHere("a plain argument cannot follow a named one");
      ASSIGN_OR_RETURN(ExpressionPtr value, Parse());
      call->arguments.push_back(std::move(value));
    }
    if (!AcceptOperator(",")) break;
  }
  return ExpectOperator(")");
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseFilter(ExpressionPtr subject) {
  const int line = Peek().line;
  ASSIGN_OR_RETURN(std::string name, ExpectName());
  if (!IsKnownFilter(name)) return TemplateError(line, StrCat("filter '", name.substr(0, 64), "' is not supported"));
  ExpressionPtr filter = Make(Kind::kFilter, line, std::move(name));
  if (subject != nullptr) filter->children.push_back(std::move(subject));
  if (IsOperator("(")) RETURN_IF_ERROR(Arguments(filter.get()));
  return Finish(std::move(filter));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseTest(ExpressionPtr subject) {
  const int line = Next().line;  // "is"
  const bool negated = AcceptName("not");
  ASSIGN_OR_RETURN(std::string name, ExpectName());
  if (!IsKnownTest(name)) return TemplateError(line, StrCat("test '", name.substr(0, 64), "' is not supported"));
  ExpressionPtr test = Make(Kind::kTest, line, std::move(name));
  test->children.push_back(std::move(subject));
  const Token& next = Peek();
  const bool is_word = next.kind == Token::Kind::kName && next.text != "else" && next.text != "or" &&
                       next.text != "and" && next.text != "is" && next.text != "if" && next.text != "not" &&
                       next.text != "in";
  const bool is_literal = next.kind == Token::Kind::kString || next.kind == Token::Kind::kInt ||
                          next.kind == Token::Kind::kFloat || IsOperator("[") || IsOperator("{");
  if (IsOperator("(")) {
    RETURN_IF_ERROR(Arguments(test.get()));
  } else if (is_word || is_literal) {
    ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
    test->arguments.push_back(std::move(argument));
  }
  ASSIGN_OR_RETURN(test, Finish(std::move(test)));
  if (!negated) return test;
  ExpressionPtr inverse = Make(Kind::kUnary, line, "not");
  inverse->children.push_back(std::move(test));
  return Finish(std::move(inverse));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::FiltersAndTests(ExpressionPtr subject) {
  while (true) {
    if (AcceptOperator("|")) {
      ASSIGN_OR_RETURN(subject, ParseFilter(std::move(subject)));
    } else if (IsName("is")) {
      ASSIGN_OR_RETURN(subject, ParseTest(std::move(subject)));
    } else if (IsOperator("(") || IsOperator(".") || IsOperator("[")) {  // The result of a filter: "(x | list)[0]".
      ASSIGN_OR_RETURN(subject, Postfix(std::move(subject)));
    } else {
      return subject;
    }
  }
}

}  // namespace shoal::jinja
