// The expressions of the interpreter.
#include <utility>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/jinja_interpreter.h"

namespace shoal::jinja {

absl::StatusOr<Value> Interpreter::Evaluate(const Expression& expression) {
  RETURN_IF_ERROR(Step(expression.line));
  ++depth_;
  absl::StatusOr<Value> value = EvaluateNode(expression);
  --depth_;
  return value;
}

absl::StatusOr<Value> Interpreter::EvaluateNode(const Expression& expression) {
  using Kind = Expression::Kind;
  switch (expression.kind) {
    case Kind::kLiteral:
      return expression.value;
    case Kind::kName: {
      if (const Value* value = scope_->Find(expression.text)) return *value;
      if (IsGlobalFunction(expression.text)) return Value::MakeCallable({expression.text, Value(), nullptr, nullptr});
      return Value::Undefined(expression.text);
    }
    case Kind::kList: {
      std::vector<Value> items;
      for (const auto& child : expression.children) {
        ASSIGN_OR_RETURN(Value item, Evaluate(*child));
        items.push_back(std::move(item));
      }
      return Value::MakeList(std::move(items));
    }
    case Kind::kDict:
      return EvaluateDict(expression);
    case Kind::kAttribute: {
      ASSIGN_OR_RETURN(const Value object, Evaluate(*expression.children[0]));
      return GetAttribute(object, expression.text);
    }
    case Kind::kItem: {
      ASSIGN_OR_RETURN(const Value object, Evaluate(*expression.children[0]));
      ASSIGN_OR_RETURN(const Value key, Evaluate(*expression.children[1]));
      return GetItem(object, key);
    }
    case Kind::kSlice:
      return EvaluateSlice(expression);
    case Kind::kCall: {
      ASSIGN_OR_RETURN(const Value callee, Evaluate(*expression.children[0]));
      ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(expression));
      return Call(callee, std::move(arguments));
    }
    case Kind::kFilter:
      return EvaluateFilter(expression);
    case Kind::kTest: {
      ASSIGN_OR_RETURN(const Value subject, Evaluate(*expression.children[0]));
      ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression));
      ASSIGN_OR_RETURN(const bool result, ApplyTest(expression.text, subject, arguments, &budget_));
      return Value::Bool(result);
    }
    case Kind::kUnary: {
      ASSIGN_OR_RETURN(const Value operand, Evaluate(*expression.children[0]));
      return UnaryOperator(expression.text, operand);
    }
    case Kind::kBinary:
      return EvaluateBinary(expression);
    case Kind::kAnd:
    case Kind::kOr: {
      ASSIGN_OR_RETURN(Value left, Evaluate(*expression.children[0]));
      if (left.IsTrue() == (expression.kind == Kind::kOr)) return left;
      return Evaluate(*expression.children[1]);
    }
    case Kind::kCompare:
      return EvaluateCompare(expression);
    case Kind::kConditional: {
      ASSIGN_OR_RETURN(const Value condition, Evaluate(*expression.children[1]));
      if (condition.IsTrue()) return Evaluate(*expression.children[0]);
      if (expression.children[2] == nullptr) return Value::Undefined("the missing 'else'");
      return Evaluate(*expression.children[2]);
    }
  }
  return Value();
}

absl::StatusOr<Value> Interpreter::EvaluateBinary(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value left, Evaluate(*expression.children[0]));
  ASSIGN_OR_RETURN(const Value right, Evaluate(*expression.children[1]));
  return BinaryOperator(expression.text, left, right, &budget_);
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expression& expression) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*expression.children[0]));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    ASSIGN_OR_RETURN(Value right, Evaluate(*expression.children[i + 1]));
    const std::string& op = expression.operators[i];
    bool holds = false;
    if (op == "==" || op == "!=") {
      ASSIGN_OR_RETURN(const bool same, Equal(left, right, &budget_));
      holds = same == (op == "==");
    } else if (op == "in" || op == "not in") {
      ASSIGN_OR_RETURN(const bool found, Contains(right, left, &budget_));
      holds = found == (op == "in");
    } else {
      ASSIGN_OR_RETURN(const int order, Compare(left, right, &budget_));
      holds = op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
    }
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

absl::StatusOr<Value> Interpreter::EvaluateDict(const Expression& expression) {
  Dict dict;
  for (size_t i = 0; i + 1 < expression.children.size(); i += 2) {
    ASSIGN_OR_RETURN(const Value key, Evaluate(*expression.children[i]));
    if (!key.is(Value::Kind::kString)) {
      return absl::InvalidArgumentError(StrCat("the keys of a dict must be strings, not ", KindName(key.kind())));
    }
    ASSIGN_OR_RETURN(Value value, Evaluate(*expression.children[i + 1]));
    RETURN_IF_ERROR(budget_.Charge(static_cast<int64_t>(dict.items.size()) / 8));
    dict.Set(key.as_string(), std::move(value));
  }
  return Value::MakeDict(std::move(dict));
}

absl::StatusOr<Value> Interpreter::EvaluateSlice(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value object, Evaluate(*expression.children[0]));
  Value bounds[3];
  const Value* given[3] = {nullptr, nullptr, nullptr};
  for (size_t i = 0; i < 3; ++i) {
    if (expression.children[i + 1] == nullptr) continue;
    ASSIGN_OR_RETURN(bounds[i], Evaluate(*expression.children[i + 1]));
    if (!bounds[i].is(Value::Kind::kNone)) given[i] = &bounds[i];
  }
  return Slice(object, given[0], given[1], given[2], &budget_);
}

absl::StatusOr<Value> Interpreter::EvaluateFilter(const Expression& expression) {
  Value subject;
  if (!expression.children.empty()) {
    ASSIGN_OR_RETURN(subject, Evaluate(*expression.children[0]));
  } else if (filter_subject_ != nullptr) {
    subject = *filter_subject_;
  }
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression));
  return ApplyFilter(expression.text, subject, arguments, this);
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const Expression& expression) {
  Arguments arguments;
  for (const auto& argument : expression.arguments) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*argument));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, argument] : expression.named) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*argument));
    arguments.named.emplace_back(name, std::move(value));
  }
  return arguments;
}

}  // namespace shoal::jinja
