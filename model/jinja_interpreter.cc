#include "model/jinja_interpreter.h"

#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/jinja_lexer.h"

namespace shoal::jinja {
namespace {

constexpr int kEvaluationDepthMax = 600;
constexpr int kCallDepthMax = 64;

absl::Status Error(std::string_view what) { return absl::InvalidArgumentError(ToAbsl(what)); }

}  // namespace

void Scope::Set(std::string_view name, Value value) {
  for (auto& [known, old] : variables) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(std::string(name), std::move(value));
}

const Value* Scope::Find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    for (const auto& [known, value] : scope->variables) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

const Value* Arguments::Get(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [known, value] : named) {
    if (known == name) return &value;
  }
  return nullptr;
}

Interpreter::Interpreter(const Limits& limits, absl::Time now)
    : budget_(limits.steps, limits.output_bytes), limits_(limits), now_(now), deadline_(absl::Now() + limits.time) {}

Scope* Interpreter::NewScope(Scope* parent) {
  scopes_.emplace_back();
  scopes_.back().parent = parent;
  return &scopes_.back();
}

absl::Status Interpreter::Step(int line) {
  line_ = line;
  if (depth_ > kEvaluationDepthMax) return absl::ResourceExhaustedError("the template recurses too deeply");
  if ((++ticks_ & 0xFF) == 0 && absl::Now() > deadline_) {
    return absl::ResourceExhaustedError(StrCat("the template runs longer than ", absl::FormatDuration(limits_.time)));
  }
  return budget_.Charge(1);
}

absl::StatusOr<std::string> Interpreter::Render(const Body& body,
                                                std::vector<std::pair<std::string, Value>> variables) {
  scope_ = NewScope(nullptr);
  scope_->variables = std::move(variables);
  std::string out;
  const absl::StatusOr<Flow> flow = Run(body, &out);
  if (!flow.ok()) {
    return absl::Status(flow.status().code(), StrCat("template line ", line_, ": ", flow.status().message()));
  }
  return out;
}

absl::Status Interpreter::Write(std::string_view text, std::string* out) {
  RETURN_IF_ERROR(budget_.Charge(static_cast<int64_t>(text.size()) / 64));
  if (out->size() + text.size() > limits_.output_bytes) {
    return absl::ResourceExhaustedError(StrCat("the text is longer than ", limits_.output_bytes, " bytes"));
  }
  out->append(text);
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::Run(const Body& body, std::string* out) {
  for (const auto& statement : body) {
    ++depth_;
    const absl::StatusOr<Flow> flow = RunStatement(*statement, out);
    --depth_;
    if (!flow.ok() || *flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunStatement(const Statement& statement, std::string* out) {
  RETURN_IF_ERROR(Step(statement.line));
  switch (statement.kind) {
    case Statement::Kind::kText:
      RETURN_IF_ERROR(Write(statement.text, out));
      return Flow::kNormal;
    case Statement::Kind::kPrint: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression));
      ASSIGN_OR_RETURN(const std::string text, ToText(value, &budget_));
      RETURN_IF_ERROR(Write(text, out));
      return Flow::kNormal;
    }
    case Statement::Kind::kIf:
      return RunIf(statement, out);
    case Statement::Kind::kFor:
      return RunFor(statement, out);
    case Statement::Kind::kSet:
      RETURN_IF_ERROR(RunSet(statement));
      return Flow::kNormal;
    case Statement::Kind::kMacro:
      scope_->Set(statement.text, Value::MakeCallable({statement.text, Value(), &statement, scope_}));
      return Flow::kNormal;
    case Statement::Kind::kCall:
      RETURN_IF_ERROR(RunCall(statement, out));
      return Flow::kNormal;
    case Statement::Kind::kFilter: {
      ASSIGN_OR_RETURN(const Value value, RunToValue(statement.body, statement.condition.get()));
      ASSIGN_OR_RETURN(const std::string text, ToText(value, &budget_));
      RETURN_IF_ERROR(Write(text, out));
      return Flow::kNormal;
    }
    case Statement::Kind::kScope:
      return RunScope(statement, out);
    case Statement::Kind::kPlainBody:
      return Run(statement.body, out);
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunIf(const Statement& statement, std::string* out) {
  for (const Statement::Branch& branch : statement.branches) {
    if (branch.condition != nullptr) {
      ASSIGN_OR_RETURN(const Value condition, Evaluate(*branch.condition));
      if (!condition.IsTrue()) continue;
    }
    return Run(branch.body, out);
  }
  return Flow::kNormal;
}

absl::Status Interpreter::Assign(const std::vector<std::string>& names, const Value& value) {
  if (names.size() == 1) {
    scope_->Set(names[0], value);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<Value> parts, Iterate(value, &budget_));
  if (parts.size() != names.size()) {
    return Error(StrCat("cannot unpack ", parts.size(), " values into ", names.size(), " names"));
  }
  for (size_t i = 0; i < names.size(); ++i) scope_->Set(names[i], parts[i]);
  return absl::OkStatus();
}

// What the loop runs over: its condition applied.
absl::StatusOr<std::vector<Value>> Interpreter::LoopItems(const Statement& statement) {
  ASSIGN_OR_RETURN(const Value iterable, Evaluate(*statement.expression));
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(iterable, &budget_));
  if (statement.condition == nullptr) return items;
  std::vector<Value> kept;
  Scope* const outer = scope_;
  scope_ = NewScope(outer);
  const auto restore = absl::MakeCleanup([&] { scope_ = outer; });
  for (Value& item : items) {
    RETURN_IF_ERROR(Assign(statement.names, item));
    ASSIGN_OR_RETURN(const Value condition, Evaluate(*statement.condition));
    if (condition.IsTrue()) kept.push_back(std::move(item));
  }
  return kept;
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunFor(const Statement& statement, std::string* out) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, LoopItems(statement));
  if (items.empty()) return Run(statement.otherwise, out);
  Scope* const outer = scope_;
  scope_ = NewScope(outer);
  const auto restore = absl::MakeCleanup([&] { scope_ = outer; });
  const auto size = static_cast<int64_t>(items.size());
  for (int64_t i = 0; i < size; ++i) {
    RETURN_IF_ERROR(Step(statement.line));
    Dict loop;
    loop.items = {{"index", Value::Int(i + 1)},       {"index0", Value::Int(i)},
                  {"revindex", Value::Int(size - i)}, {"revindex0", Value::Int(size - i - 1)},
                  {"first", Value::Bool(i == 0)},     {"last", Value::Bool(i + 1 == size)},
                  {"length", Value::Int(size)},       {"depth", Value::Int(1)},
                  {"depth0", Value::Int(0)}};
    if (i > 0) loop.items.emplace_back("previtem", items[static_cast<size_t>(i - 1)]);
    if (i + 1 < size) loop.items.emplace_back("nextitem", items[static_cast<size_t>(i + 1)]);
    scope_->variables.clear();
    scope_->Set("loop", Value::MakeNamespace(std::move(loop)));
    RETURN_IF_ERROR(Assign(statement.names, items[static_cast<size_t>(i)]));
    ASSIGN_OR_RETURN(const Flow flow, Run(statement.body, out));
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNormal;
}

absl::StatusOr<Value> Interpreter::RunToValue(const Body& body, const Expression* filters) {
  std::string text;
  Scope* const outer = scope_;
  scope_ = NewScope(outer);
  const auto restore = absl::MakeCleanup([&] { scope_ = outer; });
  RETURN_IF_ERROR(Run(body, &text).status());
  const Value value = Value::String(std::move(text));
  if (filters == nullptr) return value;
  const Value* const before = std::exchange(filter_subject_, &value);
  const auto restore_subject = absl::MakeCleanup([&] { filter_subject_ = before; });
  return Evaluate(*filters);
}

absl::Status Interpreter::RunSet(const Statement& statement) {
  Value value;
  if (statement.expression != nullptr) {
    ASSIGN_OR_RETURN(value, Evaluate(*statement.expression));
  } else {
    ASSIGN_OR_RETURN(value, RunToValue(statement.body, statement.condition.get()));
  }
  if (statement.attribute.empty()) return Assign(statement.names, value);
  const Value* target = scope_->Find(statement.names[0]);
  if (target == nullptr || !target->is(Value::Kind::kNamespace)) {
    return Error(
        StrCat("cannot set '", statement.names[0], ".", statement.attribute, "': only a namespace can be changed"));
  }
  if (value.Depth() >= kValueDepthMax) {
    return absl::ResourceExhaustedError("a namespace cannot hold a namespace, a function or so deeply nested a value");
  }
  target->as_namespace().Set(statement.attribute, std::move(value));
  return absl::OkStatus();
}

absl::Status Interpreter::RunCall(const Statement& statement, std::string* out) {
  const Expression& call = *statement.expression;
  ASSIGN_OR_RETURN(const Value callee, Evaluate(*call.children[0]));
  ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(call));
  arguments.named.emplace_back("caller", Value::MakeCallable({"caller", Value(), &statement, scope_}));
  ASSIGN_OR_RETURN(const Value value, Call(callee, std::move(arguments)));
  ASSIGN_OR_RETURN(const std::string text, ToText(value, &budget_));
  return Write(text, out);
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunScope(const Statement& statement, std::string* out) {
  Scope* const outer = scope_;
  Scope* const inner = NewScope(outer);
  for (const auto& [name, expression] : statement.parameters) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expression));
    inner->Set(name, std::move(value));
  }
  scope_ = inner;
  const auto restore = absl::MakeCleanup([&] { scope_ = outer; });
  return Run(statement.body, out);
}

absl::StatusOr<Value> Interpreter::CallMacro(const Callable& macro, const Arguments& arguments) {
  const auto& parameters = macro.macro->parameters;
  if (arguments.positional.size() > parameters.size()) {
    return Error(
        StrCat("macro '", macro.name, "' takes ", parameters.size(), " arguments, not ", arguments.positional.size()));
  }
  for (const auto& argument : arguments.named) {
    const bool known =
        std::any_of(parameters.begin(), parameters.end(), [&](const auto& p) { return p.first == argument.first; });
    if (!known && argument.first != "caller") {
      return Error(StrCat("macro '", macro.name, "' has no parameter '", argument.first, "'"));
    }
  }
  Scope* const outer = scope_;
  scope_ = NewScope(macro.scope);
  const auto restore = absl::MakeCleanup([&] { scope_ = outer; });
  if (const Value* caller = arguments.Get(SIZE_MAX, "caller")) scope_->Set("caller", *caller);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto& [name, otherwise] = parameters[i];
    Value value = Value::Undefined(name);
    if (const Value* given = arguments.Get(i, name)) {
      value = *given;
    } else if (otherwise != nullptr) {
      ASSIGN_OR_RETURN(value, Evaluate(*otherwise));
    }
    scope_->Set(name, std::move(value));
  }
  std::string text;
  RETURN_IF_ERROR(Run(macro.macro->body, &text).status());
  return Value::String(std::move(text));
}

absl::StatusOr<Value> Interpreter::Call(const Value& callee, Arguments arguments) {
  if (callee.is(Value::Kind::kUndefined))
    return Error(StrCat("'", callee.UndefinedName(), "' is undefined; it cannot be called"));
  if (!callee.is(Value::Kind::kCallable)) return Error(StrCat("a ", KindName(callee.kind()), " cannot be called"));
  if (call_depth_ >= kCallDepthMax) {
    return absl::ResourceExhaustedError(StrCat("calls are nested deeper than ", kCallDepthMax));
  }
  ++call_depth_;
  const auto leave = absl::MakeCleanup([&] { --call_depth_; });
  const Callable callable = callee.as_callable();
  if (callable.macro != nullptr) return CallMacro(callable, arguments);
  if (!callable.receiver.is(Value::Kind::kUndefined)) {
    return CallMethod(callable.receiver, callable.name, arguments, &budget_);
  }
  return CallGlobal(callable.name, arguments, this);
}

absl::StatusOr<Value> Interpreter::GetAttribute(const Value& object, const std::string& name) {
  if (object.is(Value::Kind::kUndefined)) {
    return Error(StrCat("'", object.UndefinedName(), "' is undefined; it has no attribute '", name, "'"));
  }
  if (object.is(Value::Kind::kNamespace)) {
    const Value* value = object.as_namespace().Find(name);
    return value != nullptr ? *value : Value::Undefined(name);
  }
  if (IsMethod(object, name)) return Value::MakeCallable({name, object, nullptr, nullptr});
  if (object.is(Value::Kind::kDict)) {
    RETURN_IF_ERROR(budget_.Charge(static_cast<int64_t>(object.as_dict().items.size()) / 8));
    const Value* value = object.as_dict().Find(name);
    if (value != nullptr) return *value;
  }
  return Value::Undefined(name);
}

absl::StatusOr<Value> Interpreter::GetItem(const Value& object, const Value& key) {
  if (object.is(Value::Kind::kUndefined)) {
    return Error(StrCat("'", object.UndefinedName(), "' is undefined; it has no items"));
  }
  if (object.is(Value::Kind::kDict) && key.is(Value::Kind::kString)) {
    RETURN_IF_ERROR(budget_.Charge(static_cast<int64_t>(object.as_dict().items.size()) / 8));
    if (const Value* value = object.as_dict().Find(key.as_string())) return *value;
    return GetAttribute(object, key.as_string());
  }
  if (key.is(Value::Kind::kString)) return GetAttribute(object, key.as_string());
  if ((key.is(Value::Kind::kInt) || key.is(Value::Kind::kBool)) && object.is(Value::Kind::kList)) {
    const auto index = ResolveIndex(key.as_int(), object.as_list().size());
    if (!index.has_value()) return Value::Undefined(StrCat("item ", key.as_int()));
    return object.as_list()[*index];
  }
  if (key.is(Value::Kind::kInt) && object.is(Value::Kind::kString)) {
    const auto index = ResolveIndex(key.as_int(), CountCharacters(object.as_string()));
    if (!index.has_value()) return Value::Undefined(StrCat("item ", key.as_int()));
    const Value start = Value::Int(static_cast<int64_t>(*index));
    const Value stop = Value::Int(static_cast<int64_t>(*index) + 1);
    return Slice(object, &start, &stop, nullptr, &budget_);
  }
  return Value::Undefined("item");
}

}  // namespace shoal::jinja
