// Arithmetic, concatenation and slices, as Python does them.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"
#include "model/jinja_interpreter.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

absl::Status Error(std::string_view what) { return absl::InvalidArgumentError(ToAbsl(what)); }

absl::Status OperandError(std::string_view op, const Value& a, const Value& b) {
  for (const Value* value : {&a, &b}) {
    if (value->is(Kind::kUndefined))
      return Error(StrCat("'", value->UndefinedName(), "' is undefined; '", op, "' needs a value"));
  }
  return Error(StrCat("'", op, "' is not defined for ", KindName(a.kind()), " and ", KindName(b.kind())));
}

// Python's floor division and its remainder, which has the sign of the divisor.
int64_t FloorDivide(int64_t a, int64_t b) { return a / b - static_cast<int64_t>(a % b != 0 && (a < 0) != (b < 0)); }

absl::StatusOr<Value> IntPower(int64_t base, int64_t exponent) {
  if (exponent < 0) return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  int64_t result = 1;
  for (int64_t i = 0; i < exponent && result != 0 && !(base == 1) && i < 64; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) return Error("'**' exceeds 64 bits");
    if (base == -1 && i == 1) return Value::Int(exponent % 2 == 0 ? 1 : -1);
  }
  return Value::Int(result);
}

absl::StatusOr<Value> IntOperator(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    return IntPower(a, b);
  } else {
    if (b == 0) return Error("division by zero");
    if (op == "/") return Value::Float(static_cast<double>(a) / static_cast<double>(b));
    if (b == -1) {  // The smallest integer has no positive counterpart.
      if (op == "%") return Value::Int(0);
      overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
    } else {
      result = op == "//" ? FloorDivide(a, b) : a - FloorDivide(a, b) * b;
    }
  }
  if (overflow) return Error(StrCat("'", op, "' exceeds 64 bits"));
  return Value::Int(result);
}

absl::StatusOr<Value> FloatOperator(std::string_view op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (op == "**") return Value::Float(std::pow(a, b));
  if (b == 0) return Error("division by zero");
  if (op == "/") return Value::Float(a / b);
  if (op == "//") return Value::Float(std::floor(a / b));
  return Value::Float(a - std::floor(a / b) * b);
}

absl::StatusOr<Value> Repeat(const Value& value, int64_t count, Budget* budget) {
  count = std::max<int64_t>(count, 0);
  if (value.is(Kind::kString)) {
    const size_t size = value.as_string().size();
    if (count == 0 || size == 0) return Value::String("");
    if (static_cast<uint64_t>(count) > SIZE_MAX / size / 2)
      return absl::ResourceExhaustedError("'*' makes a text too long");
    RETURN_IF_ERROR(budget->ChargeBytes(size * static_cast<size_t>(count)));
    std::string text;
    for (int64_t i = 0; i < count; ++i) text += value.as_string();
    return Value::String(std::move(text));
  }
  std::vector<Value> items;
  const auto size = static_cast<int64_t>(value.as_list().size());
  if (size > 0) {
    if (count > INT64_MAX / size) return absl::ResourceExhaustedError("'*' makes a list too long");
    RETURN_IF_ERROR(budget->Charge(count * size));
    for (int64_t i = 0; i < count; ++i) items.insert(items.end(), value.as_list().begin(), value.as_list().end());
  }
  return Value::MakeList(std::move(items));
}

// Python's slice bounds: `start`, and how many items `step` apart.
struct Range {
  int64_t start;
  int64_t count;
};

Range SliceRange(int64_t size, const Value* start, const Value* stop, int64_t step) {
  const int64_t low = step > 0 ? 0 : -1;
  const int64_t high = step > 0 ? size : size - 1;
  const auto clamp = [&](const Value* bound, int64_t otherwise) {
    if (bound == nullptr) return otherwise;
    int64_t index = bound->as_int();
    if (index < 0) index = index < -size ? low : index + size;
    return std::clamp(index, low, high);
  };
  const int64_t first = clamp(start, step > 0 ? 0 : size - 1);
  const int64_t last = clamp(stop, step > 0 ? size : -1);
  const int64_t distance = step > 0 ? last - first : first - last;
  const int64_t stride = step > 0 ? step : -step;
  return {first, distance <= 0 ? 0 : (distance - 1) / stride + 1};
}

}  // namespace

std::optional<size_t> ResolveIndex(int64_t index, size_t size) {
  const auto count = static_cast<int64_t>(size);
  if (index < -count || index >= count) return std::nullopt;
  return static_cast<size_t>(index < 0 ? index + count : index);
}

absl::StatusOr<Value> BinaryOperator(std::string_view op, const Value& a, const Value& b, Budget* budget) {
  if (op == "~") {
    ASSIGN_OR_RETURN(std::string left, ToText(a, budget));
    ASSIGN_OR_RETURN(const std::string right, ToText(b, budget));
    RETURN_IF_ERROR(budget->ChargeBytes(left.size() + right.size()));
    return Value::String(left + right);
  }
  if (a.is_number() && b.is_number()) {
    if (a.is(Kind::kFloat) || b.is(Kind::kFloat)) return FloatOperator(op, a.as_double(), b.as_double());
    return IntOperator(op, a.as_int(), b.as_int());
  }
  if (op == "+" && a.is(Kind::kString) && b.is(Kind::kString)) {
    RETURN_IF_ERROR(budget->ChargeBytes(a.as_string().size() + b.as_string().size()));
    return Value::String(a.as_string() + b.as_string());
  }
  if (op == "+" && a.is(Kind::kList) && b.is(Kind::kList)) {
    RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(a.as_list().size() + b.as_list().size())));
    std::vector<Value> items = a.as_list();
    items.insert(items.end(), b.as_list().begin(), b.as_list().end());
    return Value::MakeList(std::move(items));
  }
  if (op == "*") {
    const bool a_repeats = a.is(Kind::kString) || a.is(Kind::kList);
    const bool b_repeats = b.is(Kind::kString) || b.is(Kind::kList);
    if (a_repeats && b.is(Kind::kInt)) return Repeat(a, b.as_int(), budget);
    if (b_repeats && a.is(Kind::kInt)) return Repeat(b, a.as_int(), budget);
  }
  return OperandError(op, a, b);
}

absl::StatusOr<Value> UnaryOperator(std::string_view op, const Value& a) {
  if (op == "not") return Value::Bool(!a.IsTrue());
  if (!a.is_number()) return OperandError(op, a, a);
  if (a.is(Kind::kFloat)) return Value::Float(op == "-" ? -a.as_double() : a.as_double());
  return IntOperator(op, 0, a.as_int());
}

absl::StatusOr<Value> Slice(const Value& object, const Value* start, const Value* stop, const Value* step,
                            Budget* budget) {
  for (const Value* bound : {start, stop, step}) {
    if (bound != nullptr && !bound->is(Kind::kInt)) return Error("the bounds of a slice must be integers");
  }
  const int64_t stride = step == nullptr ? 1 : step->as_int();
  if (stride == 0 || stride == INT64_MIN) return Error("the step of a slice cannot be 0");
  if (object.is(Kind::kList)) {
    const Range range = SliceRange(static_cast<int64_t>(object.as_list().size()), start, stop, stride);
    RETURN_IF_ERROR(budget->Charge(range.count));
    std::vector<Value> items;
    for (int64_t i = 0; i < range.count; ++i)
      items.push_back(object.as_list()[static_cast<size_t>(range.start + i * stride)]);
    return Value::MakeList(std::move(items));
  }
  if (!object.is(Kind::kString)) return Error(StrCat("a ", KindName(object.kind()), " cannot be sliced"));
  const std::string& text = object.as_string();
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(text.size()) / 16));
  std::vector<size_t> begins;  // Of characters, and the end.
  for (size_t pos = 0; pos < text.size();) {
    begins.push_back(pos);
    DecodeUtf8(text, &pos);
  }
  const Range range = SliceRange(static_cast<int64_t>(begins.size()), start, stop, stride);
  begins.push_back(text.size());
  std::string out;
  for (int64_t i = 0; i < range.count; ++i) {
    const auto index = static_cast<size_t>(range.start + i * stride);
    out.append(text, begins[index], begins[index + 1] - begins[index]);
  }
  return Value::String(std::move(out));
}

}  // namespace shoal::jinja
