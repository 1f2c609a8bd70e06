// "| NAME" filters. Source: Jinja2, `jinja2/filters.py`; tojson as Hugging Face transformers replaces it.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/jinja_interpreter.h"
#include "model/jinja_strings.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;
using Result = absl::StatusOr<Value>;

struct Call {
  const std::string& name;
  const Value& subject;
  const Arguments& arguments;
  Interpreter* interpreter;
  Budget* budget() const { return interpreter->budget(); }
};

absl::Status Error(const Call& call, std::string_view what) {
  return absl::InvalidArgumentError(StrCat("filter '", call.name, "': ", what));
}

absl::StatusOr<int64_t> IntArgument(const Call& call, size_t index, std::string_view name, int64_t otherwise) {
  const Value* value = call.arguments.Get(index, name);
  if (value == nullptr || value->is(Kind::kNone)) return otherwise;
  if (!value->is(Kind::kInt)) return Error(call, StrCat("'", name, "' must be an integer"));
  return value->as_int();
}

bool BoolArgument(const Call& call, size_t index, std::string_view name, bool otherwise) {
  const Value* value = call.arguments.Get(index, name);
  return value == nullptr ? otherwise : value->IsTrue();
}

// "a.b.0" within `object`.
Result AttributePath(const Call& call, const Value& object, const Value& path) {
  if (path.is(Kind::kInt)) return call.interpreter->GetItem(object, path);
  if (!path.is(Kind::kString)) return Error(call, "the attribute must be a string or an integer");
  const std::string dot = ".";
  Value value = object;
  for (const std::string& part : Split(path.as_string(), &dot, -1, false)) {
    int64_t index = 0;
    if (!part.empty() && absl::ascii_isdigit(static_cast<unsigned char>(part[0])) && absl::SimpleAtoi(part, &index)) {
      ASSIGN_OR_RETURN(value, call.interpreter->GetItem(value, Value::Int(index)));
    } else {
      ASSIGN_OR_RETURN(value, call.interpreter->GetItem(value, Value::String(part)));
    }
  }
  return value;
}

Result TrimFilter(const Call& call) {
  ASSIGN_OR_RETURN(const std::string text, ToText(call.subject, call.budget()));
  const Value* chars = call.arguments.Get(0, "chars");
  if (chars != nullptr && !chars->is(Kind::kString)) return Error(call, "'chars' must be a string");
  RETURN_IF_ERROR(call.budget()->ChargeBytes(text.size()));
  return Value::String(std::string(Strip(text, chars == nullptr ? nullptr : &chars->as_string(), true, true)));
}

Result CaseFilter(const Call& call) {
  ASSIGN_OR_RETURN(const std::string text, ToText(call.subject, call.budget()));
  RETURN_IF_ERROR(call.budget()->ChargeBytes(text.size()));
  return Value::String(ChangeCase(text, call.name == "upper"   ? LetterCase::kUpper
                                        : call.name == "lower" ? LetterCase::kLower
                                        : call.name == "title" ? LetterCase::kTitle
                                                               : LetterCase::kCapitalize));
}

Result ToJsonFilter(const Call& call) {
  JsonStyle style;
  ASSIGN_OR_RETURN(const int64_t indent, IntArgument(call, 1, "indent", -1));
  const Value* first = call.arguments.positional.empty() ? nullptr : &call.arguments.positional[0];
  // Jinja2's own tojson has indent first, transformers' has ensure_ascii there.
  style.indent = static_cast<int>(
      std::clamp<int64_t>(first != nullptr && first->is(Kind::kInt) ? first->as_int() : indent, -1, 65));
  style.sort_keys = BoolArgument(call, 3, "sort_keys", false);
  const Value* separators = call.arguments.Get(2, "separators");
  if (separators != nullptr && !separators->is(Kind::kNone)) {
    if (!separators->is(Kind::kList) || separators->as_list().size() != 2 ||
        !separators->as_list()[0].is(Kind::kString) || !separators->as_list()[1].is(Kind::kString)) {
      return Error(call, "'separators' must be two strings");
    }
    style.item_separator = separators->as_list()[0].as_string();
    style.key_separator = separators->as_list()[1].as_string();
  }
  ASSIGN_OR_RETURN(std::string text, ToJson(call.subject, style, call.budget()));
  return Value::String(std::move(text));
}

Result LengthFilter(const Call& call) {
  switch (call.subject.kind()) {
    case Kind::kUndefined:
      return Value::Int(0);
    case Kind::kString:
      RETURN_IF_ERROR(call.budget()->Charge(static_cast<int64_t>(call.subject.as_string().size()) / 64));
      return Value::Int(static_cast<int64_t>(CountCharacters(call.subject.as_string())));
    case Kind::kList:
      return Value::Int(static_cast<int64_t>(call.subject.as_list().size()));
    case Kind::kDict:
      return Value::Int(static_cast<int64_t>(call.subject.as_dict().items.size()));
    default:
      return Error(call, StrCat("a ", KindName(call.subject.kind()), " has no length"));
  }
}

Result DefaultFilter(const Call& call) {
  const bool falsy_too = BoolArgument(call, 1, "boolean", false);
  if (falsy_too ? call.subject.IsTrue() : !call.subject.is(Kind::kUndefined)) return call.subject;
  const Value* otherwise = call.arguments.Get(0, "default_value");
  return otherwise != nullptr ? *otherwise : Value::String("");
}

Result JoinFilter(const Call& call) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.subject, call.budget()));
  std::string separator;
  if (const Value* given = call.arguments.Get(0, "d")) {
    ASSIGN_OR_RETURN(separator, ToText(*given, call.budget()));
  }
  const Value* attribute = call.arguments.Get(1, "attribute");
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (attribute != nullptr) {
      ASSIGN_OR_RETURN(item, AttributePath(call, item, *attribute));
    }
    ASSIGN_OR_RETURN(const std::string text, ToText(item, call.budget()));
    if (i > 0) out += separator;
    out += text;
    RETURN_IF_ERROR(call.budget()->Charge(1 + static_cast<int64_t>(separator.size() + text.size()) / 64));
    if ((i & 0xFF) == 0) RETURN_IF_ERROR(call.budget()->ChargeBytes(out.size()));
  }
  RETURN_IF_ERROR(call.budget()->ChargeBytes(out.size()));
  return Value::String(std::move(out));
}

Result ReplaceFilter(const Call& call) {
  ASSIGN_OR_RETURN(const std::string text, ToText(call.subject, call.budget()));
  const Value* from = call.arguments.Get(0, "old");
  const Value* to = call.arguments.Get(1, "new");
  if (from == nullptr || to == nullptr || !from->is(Kind::kString) || !to->is(Kind::kString)) {
    return Error(call, "needs two strings");
  }
  ASSIGN_OR_RETURN(const int64_t count, IntArgument(call, 2, "count", -1));
  ASSIGN_OR_RETURN(std::string replaced, Replace(text, from->as_string(), to->as_string(), count, call.budget()));
  return Value::String(std::move(replaced));
}

Result ItemsFilter(const Call& call) {
  if (call.subject.is(Kind::kUndefined)) return Value::MakeList({});
  if (!call.subject.is(Kind::kDict)) return Error(call, StrCat("needs a dict, not ", KindName(call.subject.kind())));
  return CallMethod(call.subject, "items", {}, call.budget());
}

// select, reject, selectattr, rejectattr.
Result SelectFilter(const Call& call) {
  const bool by_attribute = call.name == "selectattr" || call.name == "rejectattr";
  const bool wanted = call.name == "select" || call.name == "selectattr";
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.subject, call.budget()));
  const size_t test_at = by_attribute ? 1 : 0;
  const auto& given = call.arguments.positional;
  if (by_attribute && given.empty()) return Error(call, "needs an attribute");
  std::string test;
  Arguments rest;
  if (given.size() > test_at) {
    if (!given[test_at].is(Kind::kString)) return Error(call, "the name of the test must be a string");
    test = given[test_at].as_string();
    rest.positional.assign(given.begin() + static_cast<ptrdiff_t>(test_at) + 1, given.end());
  }
  std::vector<Value> kept;
  for (const Value& item : items) {
    Value value = item;
    if (by_attribute) {
      ASSIGN_OR_RETURN(value, AttributePath(call, item, given[0]));
    }
    bool holds = value.IsTrue();
    if (!test.empty()) {
      ASSIGN_OR_RETURN(holds, ApplyTest(test, value, rest, call.budget()));
    }
    if (holds == wanted) kept.push_back(item);
  }
  return Value::MakeList(std::move(kept));
}

Result MapFilter(const Call& call) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.subject, call.budget()));
  const Value* attribute = call.arguments.positional.empty() ? call.arguments.Get(SIZE_MAX, "attribute") : nullptr;
  const Value* otherwise = call.arguments.Get(SIZE_MAX, "default");
  std::string filter;
  Arguments rest;
  if (attribute == nullptr) {
    if (call.arguments.positional.empty() || !call.arguments.positional[0].is(Kind::kString)) {
      return Error(call, "needs attribute=... or the name of a filter");
    }
    filter = call.arguments.positional[0].as_string();
    if (filter == "map" || !IsKnownFilter(filter))
      return Error(call, StrCat("filter '", filter, "' is not supported here"));
    rest.positional.assign(call.arguments.positional.begin() + 1, call.arguments.positional.end());
    rest.named = call.arguments.named;
  }
  std::vector<Value> mapped;
  for (const Value& item : items) {
    Value value;
    if (attribute != nullptr) {
      ASSIGN_OR_RETURN(value, AttributePath(call, item, *attribute));
      if (value.is(Kind::kUndefined) && otherwise != nullptr) value = *otherwise;
    } else {
      ASSIGN_OR_RETURN(value, ApplyFilter(filter, item, rest, call.interpreter));
    }
    mapped.push_back(std::move(value));
  }
  return Value::MakeList(std::move(mapped));
}

Result ListFilter(const Call& call) {
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(call.subject, call.budget()));
  if (call.name == "list") return Value::MakeList(std::move(items));
  if (call.name == "reverse") {
    std::reverse(items.begin(), items.end());
    if (!call.subject.is(Kind::kString)) return Value::MakeList(std::move(items));
    std::string text;
    for (const Value& item : items) text += item.as_string();
    return Value::String(std::move(text));
  }
  if (items.empty()) return Value::Undefined(StrCat("the ", call.name, " item of nothing"));
  return call.name == "first" ? items.front() : items.back();
}

Result UniqueFilter(const Call& call) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.subject, call.budget()));
  std::vector<Value> kept;
  for (const Value& item : items) {
    bool known = false;
    for (const Value& other : kept) {
      ASSIGN_OR_RETURN(known, Equal(item, other, call.budget()));
      if (known) break;
    }
    if (!known) kept.push_back(item);
  }
  return Value::MakeList(std::move(kept));
}

// sort, min, max and dictsort; strings compare without case unless case_sensitive.
Result SortFilter(const Call& call) {
  const bool is_dict = call.name == "dictsort";
  const bool is_sort = call.name == "sort";
  const bool reverse = is_sort && BoolArgument(call, 0, "reverse", false);
  const bool case_sensitive = BoolArgument(call, is_sort ? 1 : 0, "case_sensitive", false);
  const Value* attribute = call.arguments.Get(is_sort ? 2 : is_dict ? SIZE_MAX : 1, "attribute");
  Value source = call.subject;
  if (is_dict) {
    ASSIGN_OR_RETURN(source, ItemsFilter(call));
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(source, call.budget()));
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) {
    Value key = is_dict ? item.as_list()[0] : item;
    if (attribute != nullptr) {
      ASSIGN_OR_RETURN(key, AttributePath(call, item, *attribute));
    }
    if (!case_sensitive && key.is(Kind::kString)) key = Value::String(ChangeCase(key.as_string(), LetterCase::kLower));
    keyed.emplace_back(std::move(key), item);
  }
  // Insertion into a sorted list: an order that fails half-way cannot upset it, as it could std::sort.
  std::vector<std::pair<Value, Value>> sorted;
  for (auto& entry : keyed) {
    size_t low = 0;
    size_t high = sorted.size();
    while (low < high) {
      const size_t middle = (low + high) / 2;
      ASSIGN_OR_RETURN(const int order, Compare(entry.first, sorted[middle].first, call.budget()));
      (reverse ? order > 0 : order < 0) ? high = middle : low = middle + 1;
    }
    RETURN_IF_ERROR(call.budget()->Charge(static_cast<int64_t>(sorted.size() - low) / 16));
    sorted.insert(sorted.begin() + static_cast<ptrdiff_t>(low), std::move(entry));
  }
  if (call.name == "min" || call.name == "max") {
    if (sorted.empty()) return Value::Undefined(StrCat("the ", call.name, " of nothing"));
    return call.name == "min" ? sorted.front().second : sorted.back().second;
  }
  std::vector<Value> out;
  for (auto& [key, item] : sorted) out.push_back(std::move(item));
  return Value::MakeList(std::move(out));
}

Result SumFilter(const Call& call) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(call.subject, call.budget()));
  const Value* attribute = call.arguments.Get(0, "attribute");
  Value sum = Value::Int(0);
  for (const Value& item : items) {
    Value value = item;
    if (attribute != nullptr) {
      ASSIGN_OR_RETURN(value, AttributePath(call, item, *attribute));
    }
    ASSIGN_OR_RETURN(sum, BinaryOperator("+", sum, value, call.budget()));
  }
  return sum;
}

Result NumberFilter(const Call& call) {
  const Value& v = call.subject;
  if (call.name == "abs") {
    if (v.is(Kind::kFloat)) return Value::Float(std::fabs(v.as_double()));
    if (!v.is_number()) return Error(call, "needs a number");
    return v.as_int() < 0 ? UnaryOperator("-", v) : Result(v);
  }
  if (call.name == "round") {
    if (!v.is_number()) return Error(call, "needs a number");
    ASSIGN_OR_RETURN(const int64_t digits, IntArgument(call, 0, "precision", 0));
    if (digits < 0 || digits > 15) return Error(call, "the precision must be in 0..15");
    const double scale = std::pow(10.0, static_cast<double>(digits));
    return Value::Float(std::nearbyint(v.as_double() * scale) / scale);
  }
  const bool to_int = call.name == "int";
  const Value* given = call.arguments.Get(0, "default");
  const Value otherwise = given != nullptr ? *given : to_int ? Value::Int(0) : Value::Float(0);
  double number = 0;
  int64_t integer = 0;
  if (v.is(Kind::kString)) {
    if (to_int && absl::SimpleAtoi(v.as_string(), &integer)) return Value::Int(integer);
    if (!absl::SimpleAtod(v.as_string(), &number)) return otherwise;
  } else if (v.is(Kind::kFloat)) {
    number = v.as_double();
  } else if (v.is_number()) {
    return to_int ? Value::Int(v.as_int()) : Value::Float(v.as_double());
  } else {
    return otherwise;
  }
  if (!to_int) return Value::Float(number);
  if (!(std::fabs(number) < 9e18)) return otherwise;
  return Value::Int(static_cast<int64_t>(number));
}

Result StringFilter(const Call& call) {
  ASSIGN_OR_RETURN(std::string text, ToText(call.subject, call.budget()));
  if (call.name == "string" || call.name == "safe") return Value::String(std::move(text));
  for (const auto& [from, to] : {std::pair<const char*, const char*>{"&", "&amp;"},
                                 {"<", "&lt;"},
                                 {">", "&gt;"},
                                 {"'", "&#39;"},
                                 {"\"", "&#34;"}}) {
    ASSIGN_OR_RETURN(text, Replace(text, from, to, -1, call.budget()));
  }
  return Value::String(std::move(text));
}

Result IndentFilter(const Call& call) {
  ASSIGN_OR_RETURN(const std::string text, ToText(call.subject, call.budget()));
  std::string prefix(4, ' ');
  const Value* width = call.arguments.Get(0, "width");
  if (width != nullptr && width->is(Kind::kString)) {
    prefix = width->as_string();
  } else if (width != nullptr) {
    if (!width->is(Kind::kInt) || width->as_int() < 0 || width->as_int() > 1000)
      return Error(call, "the width must be in 0..1000");
    prefix.assign(static_cast<size_t>(width->as_int()), ' ');
  }
  const bool first = BoolArgument(call, 1, "first", false);
  const bool blank = BoolArgument(call, 2, "blank", false);
  ASSIGN_OR_RETURN(std::string out, Indent(text, prefix, first, blank, call.budget()));
  return Value::String(std::move(out));
}

using Filter = Result (*)(const Call&);

const std::map<std::string_view, Filter>& Filters() {
  static const std::map<std::string_view, Filter> filters = {
      {"trim", TrimFilter},         {"upper", CaseFilter},    {"lower", CaseFilter},    {"title", CaseFilter},
      {"capitalize", CaseFilter},   {"tojson", ToJsonFilter}, {"length", LengthFilter}, {"count", LengthFilter},
      {"default", DefaultFilter},   {"d", DefaultFilter},     {"join", JoinFilter},     {"replace", ReplaceFilter},
      {"items", ItemsFilter},       {"select", SelectFilter}, {"reject", SelectFilter}, {"selectattr", SelectFilter},
      {"rejectattr", SelectFilter}, {"map", MapFilter},       {"list", ListFilter},     {"first", ListFilter},
      {"last", ListFilter},         {"reverse", ListFilter},  {"unique", UniqueFilter}, {"sort", SortFilter},
      {"min", SortFilter},          {"max", SortFilter},      {"dictsort", SortFilter}, {"sum", SumFilter},
      {"abs", NumberFilter},        {"round", NumberFilter},  {"int", NumberFilter},    {"float", NumberFilter},
      {"string", StringFilter},     {"safe", StringFilter},   {"escape", StringFilter}, {"e", StringFilter},
      {"indent", IndentFilter}};
  return filters;
}

}  // namespace

bool IsKnownFilter(std::string_view name) { return Filters().contains(name); }

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& subject, const Arguments& arguments,
                                  Interpreter* interpreter) {
  const auto it = Filters().find(name);
  if (it == Filters().end()) return absl::InvalidArgumentError(StrCat("filter '", name, "' is not supported"));
  return it->second({name, subject, arguments, interpreter});
}

}  // namespace shoal::jinja
