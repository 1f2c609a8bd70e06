// Values of the template language, with Python's behaviour as chat templates see it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace shoal::jinja {

using OrderedJson = nlohmann::ordered_json;

struct Scope;
struct Statement;
class Value;

// What one rendering may use. Work and memory are counted together: creating n bytes costs n / 64 steps.
class Budget {
 public:
  Budget(int64_t steps, size_t bytes_max) : steps_(steps), bytes_max_(bytes_max) {}
  // Errors: kResourceExhausted once the steps are used up.
  absl::Status Charge(int64_t steps);
  // For a new string of `bytes`. Errors: kResourceExhausted if it is longer than the output may be.
  absl::Status ChargeBytes(size_t bytes);

 private:
  int64_t steps_;
  size_t bytes_max_;
};

// Nesting of lists and dicts; deeper ones are refused, so that walks and destructors may recurse.
inline constexpr int kValueDepthMax = 64;

struct List {
  std::vector<Value> items;
  int depth = 1;
};

struct Dict {
  std::vector<std::pair<std::string, Value>> items;  // In order of insertion.
  int depth = 1;
  const Value* Find(std::string_view key) const;
  void Set(std::string_view key, Value value);
};

// A macro, a global function or a method with its receiver.
struct Callable;

class Value {
 public:
  enum class Kind { kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kDict, kNamespace, kCallable };

  Value() = default;  // Undefined.
  static Value Undefined(std::string name);
  static Value None();
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  static Value String(std::string value);
  static Value MakeCallable(Callable callable);
  static Value MakeNamespace(Dict dict);
  // Errors: kResourceExhausted if nested deeper than kValueDepthMax.
  static absl::StatusOr<Value> MakeList(std::vector<Value> items);
  static absl::StatusOr<Value> MakeDict(Dict dict);
  // Errors: kInvalidArgument for integers beyond int64; as above.
  static absl::StatusOr<Value> FromJson(const OrderedJson& json);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_number() const { return is(Kind::kInt) || is(Kind::kFloat) || is(Kind::kBool); }
  // Each must be of its kind.
  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int() const { return is(Kind::kBool) ? (as_bool() ? 1 : 0) : std::get<int64_t>(data_); }
  double as_double() const { return is(Kind::kFloat) ? std::get<double>(data_) : static_cast<double>(as_int()); }
  const std::string& as_string() const { return *std::get<std::shared_ptr<const std::string>>(data_); }
  const std::vector<Value>& as_list() const { return std::get<std::shared_ptr<const List>>(data_)->items; }
  const Dict& as_dict() const { return *std::get<std::shared_ptr<Dict>>(data_); }
  Dict& as_namespace() const { return *std::get<std::shared_ptr<Dict>>(data_); }
  const Callable& as_callable() const { return *std::get<std::shared_ptr<const Callable>>(data_); }
  // The name of an undefined value, for messages.
  std::string UndefinedName() const;

  // Python's truth value.
  bool IsTrue() const;
  // Nesting; a namespace or a callable counts as too deep to be put into a list or dict.
  int Depth() const;
  // The same list, dict or string object, or an equal scalar.
  bool SameObject(const Value& other) const;

 private:
  Kind kind_ = Kind::kUndefined;
  std::variant<std::monostate, bool, int64_t, double, std::shared_ptr<const std::string>, std::shared_ptr<const List>,
               std::shared_ptr<Dict>, std::shared_ptr<const Callable>>
      data_;
};

struct Callable {
  std::string name;
  Value receiver;                    // Of a method.
  const Statement* macro = nullptr;  // Of a macro, with the scope it was defined in.
  Scope* scope = nullptr;
};

// "string", "list", ... for messages.
std::string_view KindName(Value::Kind kind);

// Python's str() and repr(). Errors: kResourceExhausted.
absl::StatusOr<std::string> ToText(const Value& value, Budget* budget);
absl::StatusOr<std::string> ToRepr(const Value& value, Budget* budget);

// Python's json.dumps(ensure_ascii=False). indent < 0: one line. Errors: kInvalidArgument for what JSON cannot say.
struct JsonStyle {
  int indent = -1;
  bool sort_keys = false;
  std::string item_separator;  // Empty: ", ", or "," with an indent.
  std::string key_separator = ": ";
};
absl::StatusOr<std::string> ToJson(const Value& value, const JsonStyle& style, Budget* budget);

// Python's ==. Errors: kResourceExhausted.
absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget* budget);

// Negative, zero or positive. Errors: kInvalidArgument unless both are numbers, strings or lists of such.
absl::StatusOr<int> Compare(const Value& a, const Value& b, Budget* budget);

// Python's `needle in haystack`. Errors: kInvalidArgument if `haystack` holds nothing.
absl::StatusOr<bool> Contains(const Value& haystack, const Value& needle, Budget* budget);

// What a loop over `value` sees: list items, dict keys, characters. Errors: kInvalidArgument if it is not iterable.
absl::StatusOr<std::vector<Value>> Iterate(const Value& value, Budget* budget);

// Code points of valid UTF-8.
size_t CountCharacters(std::string_view text);

// Python's repr of a float: the shortest digits that read back, "1.0", "1e+16".
std::string FloatRepr(double value);

}  // namespace shoal::jinja
