// The tree of a parsed template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/jinja_value.h"

namespace shoal::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,      // value
    kName,         // text
    kList,         // children
    kDict,         // children: key, value, key, value ...
    kAttribute,    // children[0].text
    kItem,         // children[0][children[1]]
    kSlice,        // children[0][children[1]:children[2]:children[3]]; null where left out
    kCall,         // children[0](arguments, named)
    kFilter,       // children[0] | text(arguments, named)
    kTest,         // children[0] is text(arguments, named)
    kUnary,        // text children[0]: "-", "+", "not"
    kBinary,       // children[0] text children[1]
    kAnd,          // children[0] and children[1]
    kOr,           // children[0] or children[1]
    kCompare,      // children[0] operators[0] children[1] operators[1] children[2] ...
    kConditional,  // children[0] if children[1] else children[2]; the last may be null
  };
  Kind kind;
  int line = 1;
  int depth = 1;  // Of this tree; bounded by the parser.
  std::string text;
  Value value;
  std::vector<ExpressionPtr> children;
  std::vector<std::string> operators;
  std::vector<ExpressionPtr> arguments;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Statement {
  enum class Kind {
    kText,       // text
    kPrint,      // expression
    kIf,         // branches; a null condition is "else"
    kFor,        // names in expression [if condition]: body, otherwise
    kSet,        // names (or names[0].attribute) = expression, or = body through filters
    kMacro,      // text(parameters): body
    kCall,       // call expression with `body` as caller(parameters)
    kFilter,     // body through filters
    kScope,      // body, in a scope of its own ("with": names[i] = parameters[i].second)
    kPlainBody,  // body ("generation")
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;
    Body body;
  };
  Kind kind;
  int line = 1;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;
  std::vector<std::string> names;
  std::string attribute;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // Name and default, which may be null.
  std::vector<Branch> branches;
  Body body;
  Body otherwise;
};

}  // namespace shoal::jinja
