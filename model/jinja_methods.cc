// Methods of strings and dicts, and the global functions. Nothing here changes its receiver.
#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/jinja_interpreter.h"
#include "model/jinja_strings.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

constexpr std::array<std::string_view, 21> kStringMethods = {
    "strip",    "lstrip",  "rstrip", "split",        "rsplit",       "splitlines", "startswith",
    "endswith", "replace", "upper",  "lower",        "capitalize",   "title",      "find",
    "rfind",    "count",   "join",   "removeprefix", "removesuffix", "isdigit",    "index"};
constexpr std::array<std::string_view, 4> kDictMethods = {"items", "keys", "values", "get"};
constexpr std::array<std::string_view, 2> kListMethods = {"index", "count"};
constexpr std::array<std::string_view, 5> kGlobals = {"raise_exception", "strftime_now", "range", "namespace", "dict"};

absl::Status Error(std::string_view what) { return absl::InvalidArgumentError(ToAbsl(what)); }

// An argument that must be a string; null if not given or none.
absl::StatusOr<const std::string*> TextArgument(const Arguments& arguments, size_t index, std::string_view name) {
  const Value* value = arguments.Get(index, name);
  if (value == nullptr || value->is(Kind::kNone)) return nullptr;
  if (!value->is(Kind::kString))
    return Error(StrCat("argument '", name, "' must be a string, not ", KindName(value->kind())));
  return &value->as_string();
}

absl::StatusOr<std::string> NeedText(const Arguments& arguments, size_t index, std::string_view name) {
  ASSIGN_OR_RETURN(const std::string* text, TextArgument(arguments, index, name));
  if (text == nullptr) return Error(StrCat("argument '", name, "' is missing"));
  return *text;
}

absl::StatusOr<int64_t> IntArgument(const Arguments& arguments, size_t index, std::string_view name,
                                    int64_t otherwise) {
  const Value* value = arguments.Get(index, name);
  if (value == nullptr) return otherwise;
  if (!value->is(Kind::kInt))
    return Error(StrCat("argument '", name, "' must be an integer, not ", KindName(value->kind())));
  return value->as_int();
}

absl::StatusOr<Value> TextList(std::vector<std::string> parts, Budget* budget) {
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(parts.size())));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (std::string& part : parts) items.push_back(Value::String(std::move(part)));
  return Value::MakeList(std::move(items));
}

// startswith and endswith take one string or a tuple of them.
absl::StatusOr<Value> HasAffix(const std::string& text, const Arguments& arguments, bool at_start) {
  const Value* affix = arguments.Get(0, "prefix");
  if (affix == nullptr) return Error("startswith and endswith need an argument");
  std::vector<Value> candidates = {*affix};
  if (affix->is(Kind::kList)) candidates = affix->as_list();
  for (const Value& candidate : candidates) {
    if (!candidate.is(Kind::kString)) return Error("startswith and endswith need strings");
    const std::string& part = candidate.as_string();
    if (at_start ? absl::StartsWith(text, part) : absl::EndsWith(text, part)) return Value::Bool(true);
  }
  return Value::Bool(false);
}

absl::StatusOr<Value> SplitLines(const std::string& text, const Arguments& arguments, Budget* budget) {
  const Value* keep = arguments.Get(0, "keepends");
  std::vector<std::string> lines;
  for (size_t pos = 0; pos < text.size();) {
    const size_t end = std::min(text.find_first_of("\r\n", pos), text.size());
    size_t next = end;
    if (next < text.size()) next += text.compare(next, 2, "\r\n") == 0 ? 2 : 1;
    lines.push_back(text.substr(pos, (keep != nullptr && keep->IsTrue() ? next : end) - pos));
    pos = next;
  }
  return TextList(std::move(lines), budget);
}

absl::StatusOr<Value> Join(const std::string& separator, const Arguments& arguments, Budget* budget) {
  if (arguments.positional.empty()) return Error("join needs a list");
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(arguments.positional[0], budget));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is(Kind::kString)) return Error(StrCat("join needs strings, not ", KindName(items[i].kind())));
    if (i > 0) out += separator;
    out += items[i].as_string();
    RETURN_IF_ERROR(budget->Charge(1 + static_cast<int64_t>(separator.size()) / 64));
    if ((i & 0xFF) == 0) RETURN_IF_ERROR(budget->ChargeBytes(out.size()));
  }
  RETURN_IF_ERROR(budget->ChargeBytes(out.size()));
  return Value::String(std::move(out));
}

// find, rfind, index, count: positions in characters.
absl::StatusOr<Value> Search(const std::string& text, const std::string& name, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string needle, NeedText(arguments, 0, "sub"));
  if (arguments.positional.size() > 1) return Error(StrCat(name, " with a start or end is not supported"));
  if (name == "count") {
    if (needle.empty()) return Value::Int(static_cast<int64_t>(CountCharacters(text)) + 1);
    int64_t count = 0;
    for (size_t at = text.find(needle); at != std::string::npos; at = text.find(needle, at + needle.size())) ++count;
    return Value::Int(count);
  }
  const size_t at = name == "rfind" ? text.rfind(needle) : text.find(needle);
  if (at == std::string::npos) {
    if (name == "index") return Error("index: the text does not contain the argument");
    return Value::Int(-1);
  }
  return Value::Int(static_cast<int64_t>(CountCharacters(std::string_view(text).substr(0, at))));
}

absl::StatusOr<Value> StringMethod(const std::string& text, const std::string& name, const Arguments& arguments,
                                   Budget* budget) {
  RETURN_IF_ERROR(budget->ChargeBytes(text.size()));
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    ASSIGN_OR_RETURN(const std::string* chars, TextArgument(arguments, 0, "chars"));
    return Value::String(std::string(Strip(text, chars, name != "rstrip", name != "lstrip")));
  }
  if (name == "split" || name == "rsplit") {
    ASSIGN_OR_RETURN(const std::string* separator, TextArgument(arguments, 0, "sep"));
    ASSIGN_OR_RETURN(const int64_t limit, IntArgument(arguments, 1, "maxsplit", -1));
    if (separator != nullptr && separator->empty()) return Error("split: the separator is empty");
    return TextList(Split(text, separator, limit, name == "rsplit"), budget);
  }
  if (name == "splitlines") return SplitLines(text, arguments, budget);
  if (name == "startswith" || name == "endswith") return HasAffix(text, arguments, name == "startswith");
  if (name == "replace") {
    ASSIGN_OR_RETURN(const std::string from, NeedText(arguments, 0, "old"));
    ASSIGN_OR_RETURN(const std::string to, NeedText(arguments, 1, "new"));
    ASSIGN_OR_RETURN(const int64_t count, IntArgument(arguments, 2, "count", -1));
    ASSIGN_OR_RETURN(std::string replaced, Replace(text, from, to, count, budget));
    return Value::String(std::move(replaced));
  }
  if (name == "upper") return Value::String(ChangeCase(text, LetterCase::kUpper));
  if (name == "lower") return Value::String(ChangeCase(text, LetterCase::kLower));
  if (name == "capitalize") return Value::String(ChangeCase(text, LetterCase::kCapitalize));
  if (name == "title") return Value::String(ChangeCase(text, LetterCase::kTitle));
  if (name == "join") return Join(text, arguments, budget);
  if (name == "isdigit") {
    return Value::Bool(!text.empty() &&
                       std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    ASSIGN_OR_RETURN(const std::string affix, NeedText(arguments, 0, "affix"));
    if (name == "removeprefix" && absl::StartsWith(text, affix)) return Value::String(text.substr(affix.size()));
    if (name == "removesuffix" && absl::EndsWith(text, affix))
      return Value::String(text.substr(0, text.size() - affix.size()));
    return Value::String(text);
  }
  return Search(text, name, arguments);
}

absl::StatusOr<Value> DictMethod(const Dict& dict, const std::string& name, const Arguments& arguments,
                                 Budget* budget) {
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(dict.items.size()) / 8));
  if (name == "get") {
    ASSIGN_OR_RETURN(const std::string key, NeedText(arguments, 0, "key"));
    if (const Value* value = dict.Find(key)) return *value;
    const Value* otherwise = arguments.Get(1, "default");
    return otherwise != nullptr ? *otherwise : Value::None();
  }
  std::vector<Value> items;
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(dict.items.size()) * 2));
  for (const auto& [key, value] : dict.items) {
    if (name == "values") {
      items.push_back(value);
    } else if (name == "keys") {
      items.push_back(Value::String(key));
    } else {
      ASSIGN_OR_RETURN(Value pair, Value::MakeList({Value::String(key), value}));
      items.push_back(std::move(pair));
    }
  }
  return Value::MakeList(std::move(items));
}

absl::StatusOr<Value> ListMethod(const std::vector<Value>& list, const std::string& name, const Arguments& arguments,
                                 Budget* budget) {
  if (arguments.positional.size() != 1) return Error(StrCat(name, " needs one argument"));
  int64_t count = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    ASSIGN_OR_RETURN(const bool same, Equal(list[i], arguments.positional[0], budget));
    if (same && name == "index") return Value::Int(static_cast<int64_t>(i));
    count += same ? 1 : 0;
  }
  if (name == "index") return Error("index: the list does not contain the argument");
  return Value::Int(count);
}

absl::StatusOr<Value> MakeRange(const Arguments& arguments, Budget* budget) {
  constexpr int64_t kRangeMax = 100'000;
  int64_t bounds[3] = {0, 0, 1};
  const size_t count = arguments.positional.size();
  if (count < 1 || count > 3) return Error("range needs 1 to 3 integers");
  for (size_t i = 0; i < count; ++i) {
    const Value& value = arguments.positional[i];
    if (!value.is(Kind::kInt) || std::abs(static_cast<double>(value.as_int())) > 1e15) {
      return Error("range needs integers below 1e15");
    }
    bounds[count == 1 ? 1 : i] = value.as_int();
  }
  if (bounds[2] == 0) return Error("range: the step is 0");
  std::vector<Value> items;
  for (int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1]; i += bounds[2]) {
    if (static_cast<int64_t>(items.size()) >= kRangeMax) return Error(StrCat("range is longer than ", kRangeMax));
    RETURN_IF_ERROR(budget->Charge(1));
    items.push_back(Value::Int(i));
  }
  return Value::MakeList(std::move(items));
}

// namespace(a=1) and dict(a=1); either may copy a dict first.
absl::StatusOr<Value> MakeDictLike(const std::string& name, const Arguments& arguments, Budget* budget) {
  Dict dict;
  if (!arguments.positional.empty()) {
    if (arguments.positional.size() > 1 || !arguments.positional[0].is(Kind::kDict)) {
      return Error(StrCat(name, " takes one dict and named arguments"));
    }
    dict = arguments.positional[0].as_dict();
    RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(dict.items.size())));
  }
  for (const auto& [key, value] : arguments.named) dict.Set(key, value);
  if (name == "dict") return Value::MakeDict(std::move(dict));
  if (dict.depth > kValueDepthMax) return Error("a namespace cannot hold a namespace or a function");
  return Value::MakeNamespace(std::move(dict));
}

}  // namespace

bool IsMethod(const Value& receiver, std::string_view name) {
  const auto has = [name](const auto& names) { return std::find(names.begin(), names.end(), name) != names.end(); };
  if (receiver.is(Kind::kString)) return has(kStringMethods);
  if (receiver.is(Kind::kDict)) return has(kDictMethods);
  return receiver.is(Kind::kList) && has(kListMethods);
}

absl::StatusOr<Value> CallMethod(const Value& receiver, const std::string& name, const Arguments& arguments,
                                 Budget* budget) {
  if (receiver.is(Kind::kString)) return StringMethod(receiver.as_string(), name, arguments, budget);
  if (receiver.is(Kind::kDict)) return DictMethod(receiver.as_dict(), name, arguments, budget);
  return ListMethod(receiver.as_list(), name, arguments, budget);
}

bool IsGlobalFunction(std::string_view name) {
  return std::find(kGlobals.begin(), kGlobals.end(), name) != kGlobals.end();
}

absl::StatusOr<Value> CallGlobal(const std::string& name, const Arguments& arguments, Interpreter* interpreter) {
  Budget* budget = interpreter->budget();
  if (name == "raise_exception") {
    ASSIGN_OR_RETURN(const std::string message, arguments.positional.empty()
                                                    ? absl::StatusOr<std::string>("raise_exception")
                                                    : ToText(arguments.positional[0], budget));
    return Error(message);
  }
  if (name == "strftime_now") {
    ASSIGN_OR_RETURN(const std::string format, NeedText(arguments, 0, "format"));
    if (format.size() > 256) return Error("strftime_now: the format is longer than 256 bytes");
    return Value::String(absl::FormatTime(format, interpreter->now(), absl::LocalTimeZone()));
  }
  if (name == "range") return MakeRange(arguments, budget);
  return MakeDictLike(name, arguments, budget);
}

}  // namespace shoal::jinja
