// Values as text: str(), repr() and JSON, in Python's spelling.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/jinja_value.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

absl::Status Put(std::string_view text, std::string* out, Budget* budget) {
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(text.size()) / 64));
  out->append(text);
  return (out->size() & 0xFFF) < text.size() ? budget->ChargeBytes(out->size()) : absl::OkStatus();
}

// Python prefers single quotes and leaves printable characters alone.
std::string QuotePython(const std::string& text) {
  const bool doubled = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char quote = doubled ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    switch (c) {
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\\':
        out += "\\\\";
        break;
      default:
        if (c == quote) {
          out.push_back('\\');
          out.push_back(c);
        } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
          out += absl::StrFormat("\\x%02x", static_cast<unsigned char>(c));
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back(quote);
  return out;
}

std::string QuoteJson(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += absl::StrFormat("\\u%04x", static_cast<unsigned char>(c));
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back('"');
  return out;
}

std::string ScalarText(const Value& value) {
  switch (value.kind()) {
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return value.as_bool() ? "True" : "False";
    case Kind::kInt:
      return StrCat(value.as_int());
    case Kind::kFloat:
      return FloatRepr(value.as_double());
    case Kind::kNamespace:
      return "<Namespace>";
    case Kind::kCallable:
      return StrCat("<function ", value.as_callable().name, ">");
    default:
      return "";
  }
}

absl::Status AppendRepr(const Value& value, std::string* out, Budget* budget) {
  RETURN_IF_ERROR(budget->Charge(1));
  if (value.is(Kind::kString)) return Put(QuotePython(value.as_string()), out, budget);
  if (value.is(Kind::kList)) {
    RETURN_IF_ERROR(Put("[", out, budget));
    for (size_t i = 0; i < value.as_list().size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(Put(", ", out, budget));
      RETURN_IF_ERROR(AppendRepr(value.as_list()[i], out, budget));
    }
    return Put("]", out, budget);
  }
  if (value.is(Kind::kDict)) {
    RETURN_IF_ERROR(Put("{", out, budget));
    bool first = true;
    for (const auto& [key, item] : value.as_dict().items) {
      RETURN_IF_ERROR(Put(StrCat(first ? "" : ", ", QuotePython(key), ": "), out, budget));
      RETURN_IF_ERROR(AppendRepr(item, out, budget));
      first = false;
    }
    return Put("}", out, budget);
  }
  return Put(value.is(Kind::kUndefined) ? "Undefined" : ScalarText(value), out, budget);
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, std::string* out, Budget* budget) : style_(style), out_(out), budget_(budget) {
    separator_ = !style.item_separator.empty() ? style.item_separator : style.indent < 0 ? ", " : ",";
  }

  absl::Status Write(const Value& value, int level) {
    RETURN_IF_ERROR(budget_->Charge(1));
    switch (value.kind()) {
      case Kind::kNone:
        return Put("null", out_, budget_);
      case Kind::kBool:
        return Put(value.as_bool() ? "true" : "false", out_, budget_);
      case Kind::kInt:
      case Kind::kFloat:
        return Put(ScalarText(value), out_, budget_);
      case Kind::kString:
        return Put(QuoteJson(value.as_string()), out_, budget_);
      case Kind::kList: {
        if (value.as_list().empty()) return Put("[]", out_, budget_);
        RETURN_IF_ERROR(Put("[", out_, budget_));
        for (size_t i = 0; i < value.as_list().size(); ++i) {
          RETURN_IF_ERROR(Next(i == 0, level + 1));
          RETURN_IF_ERROR(Write(value.as_list()[i], level + 1));
        }
        RETURN_IF_ERROR(NewLine(level));
        return Put("]", out_, budget_);
      }
      case Kind::kDict:
        return WriteDict(value.as_dict(), level);
      default:
        return absl::InvalidArgumentError(StrCat("tojson cannot write ", KindName(value.kind())));
    }
  }

 private:
  absl::Status WriteDict(const Dict& dict, int level) {
    if (dict.items.empty()) return Put("{}", out_, budget_);
    std::vector<const std::pair<std::string, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (style_.sort_keys) {
      std::sort(items.begin(), items.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
    }
    RETURN_IF_ERROR(Put("{", out_, budget_));
    for (size_t i = 0; i < items.size(); ++i) {
      RETURN_IF_ERROR(Next(i == 0, level + 1));
      RETURN_IF_ERROR(Put(StrCat(QuoteJson(items[i]->first), style_.key_separator), out_, budget_));
      RETURN_IF_ERROR(Write(items[i]->second, level + 1));
    }
    RETURN_IF_ERROR(NewLine(level));
    return Put("}", out_, budget_);
  }

  absl::Status Next(bool first, int level) {
    if (!first) RETURN_IF_ERROR(Put(separator_, out_, budget_));
    return NewLine(level);
  }
  absl::Status NewLine(int level) {
    if (style_.indent < 0) return absl::OkStatus();
    return Put(StrCat("\n", std::string(static_cast<size_t>(style_.indent * level), ' ')), out_, budget_);
  }

  const JsonStyle& style_;
  std::string separator_;
  std::string* out_;
  Budget* budget_;
};

}  // namespace

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 64> buffer;
  const auto scientific =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  const std::string text(buffer.data(), scientific.ptr);
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) {
    return StrCat(text.substr(0, e), "e", exponent < 0 ? "-" : "+", absl::StrFormat("%02d", std::abs(exponent)));
  }
  const auto fixed = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
  std::string out(buffer.data(), fixed.ptr);
  return out.find('.') == std::string::npos ? out + ".0" : out;
}

absl::StatusOr<std::string> ToText(const Value& value, Budget* budget) {
  if (value.is(Kind::kString)) return value.as_string();
  if (value.is(Kind::kList) || value.is(Kind::kDict)) return ToRepr(value, budget);
  return ScalarText(value);
}

absl::StatusOr<std::string> ToRepr(const Value& value, Budget* budget) {
  std::string out;
  RETURN_IF_ERROR(AppendRepr(value, &out, budget));
  RETURN_IF_ERROR(budget->ChargeBytes(out.size()));
  return out;
}

absl::StatusOr<std::string> ToJson(const Value& value, const JsonStyle& style, Budget* budget) {
  if (style.indent > 64) return absl::InvalidArgumentError("tojson: indent must be at most 64");
  std::string out;
  RETURN_IF_ERROR(JsonWriter(style, &out, budget).Write(value, 0));
  RETURN_IF_ERROR(budget->ChargeBytes(out.size()));
  return out;
}

}  // namespace shoal::jinja
