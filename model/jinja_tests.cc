// "is NAME" tests. Source: Jinja2, `jinja2/tests.py`.
#include <array>
#include <cctype>
#include <string>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/jinja_interpreter.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

constexpr std::array<std::string_view, 33> kTests = {
    "defined",     "undefined", "none",    "None",     "boolean",  "true",     "false",    "integer", "float",
    "number",      "string",    "mapping", "sequence", "iterable", "callable", "sameas",   "odd",     "even",
    "divisibleby", "equalto",   "eq",      "==",       "ne",       "lt",       "lessthan", "le",      "gt",
    "greaterthan", "ge",        "in",      "lower",    "upper",    "escaped"};

// Python's islower() and isupper() for ASCII: some letter, and all of that case.
bool HasOnlyCase(const std::string& text, bool upper) {
  bool found = false;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (upper ? std::islower(byte) != 0 : std::isupper(byte) != 0) return false;
    found = found || std::isalpha(byte) != 0;
  }
  return found;
}

absl::StatusOr<bool> KindTest(std::string_view name, const Value& v) {
  if (name == "defined") return !v.is(Kind::kUndefined);
  if (name == "undefined") return v.is(Kind::kUndefined);
  if (name == "none" || name == "None") return v.is(Kind::kNone);
  if (name == "boolean") return v.is(Kind::kBool);
  if (name == "true") return v.is(Kind::kBool) && v.as_bool();
  if (name == "false") return v.is(Kind::kBool) && !v.as_bool();
  if (name == "integer") return v.is(Kind::kInt);
  if (name == "float") return v.is(Kind::kFloat);
  if (name == "number") return v.is_number();
  if (name == "string") return v.is(Kind::kString);
  if (name == "mapping") return v.is(Kind::kDict);
  if (name == "sequence") return v.is(Kind::kString) || v.is(Kind::kList) || v.is(Kind::kDict);
  if (name == "iterable")
    return v.is(Kind::kString) || v.is(Kind::kList) || v.is(Kind::kDict) || v.is(Kind::kUndefined);
  if (name == "callable") return v.is(Kind::kCallable);
  if (name == "lower" || name == "upper") return v.is(Kind::kString) && HasOnlyCase(v.as_string(), name == "upper");
  if (name == "escaped") return false;
  return absl::InternalError("unreachable");
}

absl::StatusOr<bool> Divisible(std::string_view name, const Value& v, int64_t by, int64_t rest) {
  if (!v.is(Kind::kInt) && !v.is(Kind::kBool)) {
    return absl::InvalidArgumentError(StrCat("test '", name, "' needs an integer, not ", KindName(v.kind())));
  }
  if (by == 0) return absl::InvalidArgumentError("test 'divisibleby' cannot divide by 0");
  if (by == -1) return rest == 0;
  return (v.as_int() % by != 0) == (rest != 0);
}

}  // namespace

bool IsKnownTest(std::string_view name) {
  for (const std::string_view known : kTests) {
    if (known == name) return true;
  }
  return false;
}

absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& subject, const Arguments& arguments,
                               Budget* budget) {
  if (!IsKnownTest(name)) return absl::InvalidArgumentError(StrCat("test '", name, "' is not supported"));
  if (name == "odd") return Divisible(name, subject, 2, 1);
  if (name == "even") return Divisible(name, subject, 2, 0);
  static constexpr std::array<std::string_view, 12> kWithArgument = {
      "sameas", "divisibleby", "equalto", "eq", "==", "ne", "lt", "lessthan", "le", "gt", "greaterthan", "ge"};
  bool needs = name == "in";
  for (const std::string_view known : kWithArgument) needs = needs || known == name;
  if (!needs) return KindTest(name, subject);
  if (arguments.positional.empty()) return absl::InvalidArgumentError(StrCat("test '", name, "' needs an argument"));
  const Value& other = arguments.positional[0];
  if (name == "in") return Contains(other, subject, budget);
  if (name == "sameas") return subject.SameObject(other);
  if (name == "divisibleby") {
    if (!other.is(Kind::kInt)) return absl::InvalidArgumentError("test 'divisibleby' needs an integer");
    return Divisible(name, subject, other.as_int(), 0);
  }
  if (name == "equalto" || name == "eq" || name == "==") return Equal(subject, other, budget);
  if (name == "ne") {
    ASSIGN_OR_RETURN(const bool same, Equal(subject, other, budget));
    return !same;
  }
  ASSIGN_OR_RETURN(const int order, Compare(subject, other, budget));
  if (name == "lt" || name == "lessthan") return order < 0;
  if (name == "le") return order <= 0;
  return name == "ge" ? order >= 0 : order > 0;
}

}  // namespace shoal::jinja
