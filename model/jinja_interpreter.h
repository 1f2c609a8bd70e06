// Runs a parsed template. Sandboxed: no I/O, no way to change what was passed in, bounded steps, depth, memory and
// output.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/jinja_ast.h"
#include "model/jinja_value.h"

namespace shoal::jinja {

bool IsKnownFilter(std::string_view name);
bool IsKnownTest(std::string_view name);

struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> variables;
  void Set(std::string_view name, Value value);
  // In this scope or those around it; nullptr if there is none.
  const Value* Find(std::string_view name) const;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  // By position or name; nullptr if not given.
  const Value* Get(size_t index, std::string_view name) const;
};

struct Limits {
  int64_t steps = 1'000'000;
  size_t output_bytes = 64 << 10;
  absl::Duration time = absl::Milliseconds(1000);
};

class Interpreter {
 public:
  // `now` is what strftime_now shows.
  Interpreter(const Limits& limits, absl::Time now);

  // Renders with `variables` as globals.
  // Errors: kInvalidArgument "template line N: ..." (also raise_exception); kResourceExhausted beyond the limits.
  absl::StatusOr<std::string> Render(const Body& body, std::vector<std::pair<std::string, Value>> variables);

  Budget* budget() { return &budget_; }
  absl::Time now() const { return now_; }
  absl::StatusOr<Value> Call(const Value& callee, Arguments arguments);
  absl::StatusOr<Value> GetAttribute(const Value& object, const std::string& name);
  absl::StatusOr<Value> GetItem(const Value& object, const Value& key);

 private:
  enum class Flow { kNormal, kBreak, kContinue };

  absl::StatusOr<Flow> Run(const Body& body, std::string* out);
  absl::StatusOr<Flow> RunStatement(const Statement& statement, std::string* out);
  absl::StatusOr<Flow> RunIf(const Statement& statement, std::string* out);
  absl::StatusOr<Flow> RunFor(const Statement& statement, std::string* out);
  absl::Status RunSet(const Statement& statement);
  absl::Status RunCall(const Statement& statement, std::string* out);
  absl::StatusOr<Flow> RunScope(const Statement& statement, std::string* out);
  absl::Status Assign(const std::vector<std::string>& names, const Value& value);
  absl::StatusOr<std::vector<Value>> LoopItems(const Statement& statement);
  absl::Status Write(std::string_view text, std::string* out);
  // The text of `body` through the filters, which may be null.
  absl::StatusOr<Value> RunToValue(const Body& body, const Expression* filters);
  absl::StatusOr<Value> CallMacro(const Callable& macro, const Arguments& arguments);

  absl::StatusOr<Value> Evaluate(const Expression& expression);
  absl::StatusOr<Value> EvaluateNode(const Expression& expression);
  absl::StatusOr<Value> EvaluateBinary(const Expression& expression);
  absl::StatusOr<Value> EvaluateCompare(const Expression& expression);
  absl::StatusOr<Value> EvaluateDict(const Expression& expression);
  absl::StatusOr<Value> EvaluateSlice(const Expression& expression);
  absl::StatusOr<Value> EvaluateFilter(const Expression& expression);
  absl::StatusOr<Arguments> EvaluateArguments(const Expression& expression);

  // One step; also looks at depth and, now and then, at the clock.
  absl::Status Step(int line);
  Scope* NewScope(Scope* parent);

  Budget budget_;
  Limits limits_;
  absl::Time now_;
  absl::Time deadline_;
  int64_t ticks_ = 0;
  int line_ = 1;
  int depth_ = 0;
  int call_depth_ = 0;
  std::deque<Scope> scopes_;  // Kept until the end: macros point to the scope they were defined in.
  Scope* scope_ = nullptr;
  const Value* filter_subject_ = nullptr;  // Of the filters of a block.
};

// jinja_operators.cc
absl::StatusOr<Value> BinaryOperator(std::string_view op, const Value& a, const Value& b, Budget* budget);
absl::StatusOr<Value> UnaryOperator(std::string_view op, const Value& a);
absl::StatusOr<Value> Slice(const Value& object, const Value* start, const Value* stop, const Value* step,
                            Budget* budget);
// A non-negative index from one that may count from the end; nullopt if outside of `size`.
std::optional<size_t> ResolveIndex(int64_t index, size_t size);

// jinja_filters.cc, jinja_tests.cc, jinja_methods.cc. `interpreter` gives the budget and, for map and select, calls.
absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& subject, const Arguments& arguments,
                                  Interpreter* interpreter);
absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& subject, const Arguments& arguments,
                               Budget* budget);
bool IsMethod(const Value& receiver, std::string_view name);
absl::StatusOr<Value> CallMethod(const Value& receiver, const std::string& name, const Arguments& arguments,
                                 Budget* budget);
bool IsGlobalFunction(std::string_view name);
absl::StatusOr<Value> CallGlobal(const std::string& name, const Arguments& arguments, Interpreter* interpreter);

}  // namespace shoal::jinja
