#include "model/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

constexpr int64_t kBytesPerStep = 64;

absl::Status TooDeep() {
  return absl::ResourceExhaustedError(
      StrCat("lists and dicts may be nested ", kValueDepthMax, " deep and cannot hold a namespace or a function"));
}

}  // namespace

absl::Status Budget::Charge(int64_t steps) {
  steps_ -= steps;
  return steps_ >= 0 ? absl::OkStatus() : absl::ResourceExhaustedError("the template takes too many steps");
}

absl::Status Budget::ChargeBytes(size_t bytes) {
  if (bytes > bytes_max_) {
    return absl::ResourceExhaustedError(StrCat("the template makes a text of more than ", bytes_max_, " bytes"));
  }
  return Charge(static_cast<int64_t>(bytes) / kBytesPerStep + 1);
}

const Value* Dict::Find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name == key) return &value;
  }
  return nullptr;
}

void Dict::Set(std::string_view key, Value value) {
  depth = std::max(depth, value.Depth() + 1);
  for (auto& [name, old] : items) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(std::string(key), std::move(value));
}

Value Value::Undefined(std::string name) {
  Value value;
  value.data_ = std::make_shared<const std::string>(std::move(name));
  return value;
}

Value Value::None() {
  Value value;
  value.kind_ = Kind::kNone;
  return value;
}

Value Value::Bool(bool b) {
  Value value;
  value.kind_ = Kind::kBool;
  value.data_ = b;
  return value;
}

Value Value::Int(int64_t i) {
  Value value;
  value.kind_ = Kind::kInt;
  value.data_ = i;
  return value;
}

Value Value::Float(double d) {
  Value value;
  value.kind_ = Kind::kFloat;
  value.data_ = d;
  return value;
}

Value Value::String(std::string text) {
  Value value;
  value.kind_ = Kind::kString;
  value.data_ = std::make_shared<const std::string>(std::move(text));
  return value;
}

Value Value::MakeCallable(Callable callable) {
  Value value;
  value.kind_ = Kind::kCallable;
  value.data_ = std::make_shared<const Callable>(std::move(callable));
  return value;
}

Value Value::MakeNamespace(Dict dict) {
  Value value;
  value.kind_ = Kind::kNamespace;
  value.data_ = std::make_shared<Dict>(std::move(dict));
  return value;
}

absl::StatusOr<Value> Value::MakeList(std::vector<Value> items) {
  List list;
  for (const Value& item : items) list.depth = std::max(list.depth, item.Depth() + 1);
  if (list.depth > kValueDepthMax) return TooDeep();
  list.items = std::move(items);
  Value value;
  value.kind_ = Kind::kList;
  value.data_ = std::make_shared<const List>(std::move(list));
  return value;
}

absl::StatusOr<Value> Value::MakeDict(Dict dict) {
  if (dict.depth > kValueDepthMax) return TooDeep();
  Value value;
  value.kind_ = Kind::kDict;
  value.data_ = std::make_shared<Dict>(std::move(dict));
  return value;
}

absl::StatusOr<Value> Value::FromJson(const OrderedJson& json) {
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return Bool(json.get<bool>());
    case OrderedJson::value_t::number_integer:
      return Int(json.get<int64_t>());
    case OrderedJson::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
        return absl::InvalidArgumentError("an integer of the input does not fit 64 bits");
      }
      return Int(json.get<int64_t>());
    case OrderedJson::value_t::number_float:
      return Float(json.get<double>());
    case OrderedJson::value_t::string:
      return String(json.get<std::string>());
    case OrderedJson::value_t::array: {
      std::vector<Value> items;
      for (const auto& item : json) {
        ASSIGN_OR_RETURN(Value value, FromJson(item));
        items.push_back(std::move(value));
      }
      return MakeList(std::move(items));
    }
    case OrderedJson::value_t::object: {
      Dict dict;
      for (const auto& [key, item] : json.items()) {
        ASSIGN_OR_RETURN(Value value, FromJson(item));
        dict.depth = std::max(dict.depth, value.Depth() + 1);
        dict.items.emplace_back(key, std::move(value));
      }
      return MakeDict(std::move(dict));
    }
    default:
      return None();
  }
}

std::string Value::UndefinedName() const {
  const auto* name = std::get_if<std::shared_ptr<const std::string>>(&data_);
  return name != nullptr && *name != nullptr ? **name : "value";
}

bool Value::IsTrue() const {
  switch (kind_) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return as_bool();
    case Kind::kInt:
      return as_int() != 0;
    case Kind::kFloat:
      return as_double() != 0;
    case Kind::kString:
      return !as_string().empty();
    case Kind::kList:
      return !as_list().empty();
    case Kind::kDict:
      return !as_dict().items.empty();
    case Kind::kNamespace:
    case Kind::kCallable:
      return true;
  }
  return false;
}

int Value::Depth() const {
  switch (kind_) {
    case Kind::kList:
      return std::get<std::shared_ptr<const List>>(data_)->depth;
    case Kind::kDict:
      return as_dict().depth;
    case Kind::kNamespace:
    case Kind::kCallable:
      return kValueDepthMax;
    default:
      return 0;
  }
}

bool Value::SameObject(const Value& other) const { return kind_ == other.kind_ && data_ == other.data_; }

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kUndefined:
      return "undefined";
    case Kind::kNone:
      return "none";
    case Kind::kBool:
      return "boolean";
    case Kind::kInt:
      return "integer";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "string";
    case Kind::kList:
      return "list";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "namespace";
    case Kind::kCallable:
      return "function";
  }
  return "value";
}

absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget* budget) {
  RETURN_IF_ERROR(budget->Charge(1));
  if (a.is_number() && b.is_number()) {
    if (a.is(Kind::kFloat) || b.is(Kind::kFloat)) return a.as_double() == b.as_double();
    return a.as_int() == b.as_int();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kString:
      RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(std::min(a.as_string().size(), b.as_string().size())) / 64));
      return a.as_string() == b.as_string();
    case Kind::kList: {
      if (a.as_list().size() != b.as_list().size()) return false;
      for (size_t i = 0; i < a.as_list().size(); ++i) {
        ASSIGN_OR_RETURN(const bool same, Equal(a.as_list()[i], b.as_list()[i], budget));
        if (!same) return false;
      }
      return true;
    }
    case Kind::kDict: {
      if (a.as_dict().items.size() != b.as_dict().items.size()) return false;
      for (const auto& [key, value] : a.as_dict().items) {
        const Value* other = b.as_dict().Find(key);
        if (other == nullptr) return false;
        ASSIGN_OR_RETURN(const bool same, Equal(value, *other, budget));
        if (!same) return false;
      }
      return true;
    }
    case Kind::kNamespace:
    case Kind::kCallable:
      return a.SameObject(b);
    default:
      return true;  // Undefined and none.
  }
}

absl::StatusOr<int> Compare(const Value& a, const Value& b, Budget* budget) {
  RETURN_IF_ERROR(budget->Charge(1));
  if (a.is_number() && b.is_number()) {
    if (a.is(Kind::kFloat) || b.is(Kind::kFloat)) {
      return a.as_double() < b.as_double() ? -1 : a.as_double() > b.as_double() ? 1 : 0;
    }
    return a.as_int() < b.as_int() ? -1 : a.as_int() > b.as_int() ? 1 : 0;
  }
  if (a.is(Kind::kString) && b.is(Kind::kString)) {
    RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(std::min(a.as_string().size(), b.as_string().size())) / 64));
    return a.as_string().compare(b.as_string());  // Order of UTF-8 bytes is the order of code points.
  }
  if (a.is(Kind::kList) && b.is(Kind::kList)) {
    const size_t common = std::min(a.as_list().size(), b.as_list().size());
    for (size_t i = 0; i < common; ++i) {
      ASSIGN_OR_RETURN(const int order, Compare(a.as_list()[i], b.as_list()[i], budget));
      if (order != 0) return order;
    }
    return static_cast<int>(a.as_list().size() > common) - static_cast<int>(b.as_list().size() > common);
  }
  return absl::InvalidArgumentError(StrCat("cannot order ", KindName(a.kind()), " and ", KindName(b.kind())));
}

absl::StatusOr<bool> Contains(const Value& haystack, const Value& needle, Budget* budget) {
  switch (haystack.kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kString:
      if (!needle.is(Kind::kString)) {
        return absl::InvalidArgumentError(StrCat("'in' a string needs a string, not ", KindName(needle.kind())));
      }
      RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(haystack.as_string().size()) / 64));
      return haystack.as_string().find(needle.as_string()) != std::string::npos;
    case Kind::kList:
      for (const Value& item : haystack.as_list()) {
        ASSIGN_OR_RETURN(const bool same, Equal(item, needle, budget));
        if (same) return true;
      }
      return false;
    case Kind::kDict:
      return needle.is(Kind::kString) && haystack.as_dict().Find(needle.as_string()) != nullptr;
    default:
      return absl::InvalidArgumentError(StrCat("'in' needs a string, list or dict, not ", KindName(haystack.kind())));
  }
}

absl::StatusOr<std::vector<Value>> Iterate(const Value& value, Budget* budget) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::kUndefined:
      break;
    case Kind::kList:
      items = value.as_list();
      break;
    case Kind::kDict:
      for (const auto& [key, unused] : value.as_dict().items) items.push_back(Value::String(key));
      break;
    case Kind::kString: {
      const std::string& text = value.as_string();
      RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(text.size())));
      for (size_t pos = 0; pos < text.size();) {
        const size_t begin = pos;
        DecodeUtf8(text, &pos);
        items.push_back(Value::String(text.substr(begin, pos - begin)));
      }
      return items;
    }
    default:
      return absl::InvalidArgumentError(StrCat("cannot loop over ", KindName(value.kind())));
  }
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(items.size())));
  return items;
}

size_t CountCharacters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace shoal::jinja
