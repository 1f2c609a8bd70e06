#include "server/text_config.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>

#include "absl/strings/str_join.h"
#include "base/str_cat.h"
#include "base/utf8.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace shoal {
namespace {

namespace pb = google::protobuf;
using Field = pb::FieldDescriptor;
using Token = pb::io::Tokenizer;

constexpr int kDepthMax = 16;
constexpr int kElementsMax = 4096;  // Of one repeated field.

// Changes of one character, and swaps of neighbours, from `a` to `b`.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

const char* KindName(const Field* field) {
  switch (field->cpp_type()) {
    case Field::CPPTYPE_STRING:
      return "a string in quotes";
    case Field::CPPTYPE_BOOL:
      return "true or false";
    case Field::CPPTYPE_DOUBLE:
    case Field::CPPTYPE_FLOAT:
      return "a number";
    case Field::CPPTYPE_MESSAGE:
      return "a block in braces";
    default:
      return "an integer";
  }
}

// Descends with the braces of the text; one object per call.
class Parser : public pb::io::ErrorCollector {
 public:
  Parser(std::string_view text, TextConfig* result)
      : stream_(text.data(), static_cast<int>(text.size())), tokens_(&stream_, this), result_(result) {
    tokens_.set_comment_style(Token::SH_COMMENT_STYLE);
    tokens_.set_require_space_after_number(false);
    tokens_.Next();
  }

  void Run(pb::Message* out) { ParseFields(out, "", 0); }

  void AddError(int line, pb::io::ColumnNumber column, const std::string& message) override {
    Report({line + 1, column + 1}, message);
  }

 private:
  const pb::io::Tokenizer::Token& token() { return tokens_.current(); }
  TextPlace here() { return {token().line + 1, token().column + 1}; }
  bool AtEnd() { return token().type == Token::TYPE_END; }
  bool At(std::string_view symbol) { return token().text == symbol && token().type == Token::TYPE_SYMBOL; }
  bool Take(std::string_view symbol) {
    if (!At(symbol)) return false;
    tokens_.Next();
    return true;
  }
  void Report(TextPlace place, std::string message) {
    if (result_->errors.size() >= kTextErrorsMax) return;
    TextError& error = result_->errors.emplace_back();
    error.place = place;
    error.message = std::move(message);
  }
  std::string Found() { return AtEnd() ? "the end of the file" : StrCat("'", token().text, "'"); }

  // Drops what stands on the line of `place`, up to a brace that closes this block.
  void SkipLine(TextPlace place) {
    while (!AtEnd() && token().line + 1 == place.line && !At("}")) {
      if (At("{")) {
        SkipBlock("{", "}");
      } else {
        tokens_.Next();
      }
    }
  }

  void SkipBlock(std::string_view open, std::string_view close) {
    int depth = 0;
    do {
      if (At(open)) ++depth;
      if (At(close)) --depth;
      tokens_.Next();
    } while (depth > 0 && !AtEnd());
  }

  // Drops the value of a field nobody knows, whatever its form.
  void SkipValue() {
    Take(":");
    if (At("{")) return SkipBlock("{", "}");
    if (At("[")) return SkipBlock("[", "]");
    Take("-");
    if (AtEnd() || At("}")) return;
    const bool is_string = token().type == Token::TYPE_STRING;
    tokens_.Next();
    while (is_string && token().type == Token::TYPE_STRING) tokens_.Next();
  }

  void ParseFields(pb::Message* out, const std::string& path, int depth) {
    while (!AtEnd() && result_->errors.size() < kTextErrorsMax) {
      if (At("}")) {
        if (depth > 0) return;
        Report(here(), "'}' without a '{' before it; remove it");
        tokens_.Next();
        continue;
      }
      if (token().type != Token::TYPE_IDENTIFIER) {
        Report(here(), StrCat("expected the name of a field, found ", Found()));
        SkipLine(here());
        continue;
      }
      ParseField(out, path, depth);
      if (!Take(",")) Take(";");
    }
  }

  void ParseField(pb::Message* out, const std::string& parent, int depth) {
    const TextPlace place = here();
    const std::string name = token().text;
    tokens_.Next();
    const pb::Descriptor* type = out->GetDescriptor();
    const Field* field = type->FindFieldByName(name);
    if (field == nullptr) {
      std::vector<std::string> known;
      for (int i = 0; i < type->field_count(); ++i) known.push_back(type->field(i)->name());
      Report(place,
             StrCat("unknown field '", name, "' in ", parent.empty() ? "the file" : parent, DidYouMean(name, known)));
      return SkipValue();
    }
    const std::string path = parent.empty() ? name : StrCat(parent, ".", name);
    if (!field->is_repeated() && out->GetReflection()->HasField(*out, field)) {
      Report(place, StrCat(path, " is set twice; keep one"));
      return SkipValue();
    }
    const bool colon = Take(":");
    if (!colon && !At("{")) {
      Report(here(), StrCat("expected ':' after '", name, "', found ", Found()));
      return SkipLine(place);
    }
    if (!field->is_repeated() || !Take("[")) return ParseValue(out, field, path, place, depth);
    while (!AtEnd() && !At("]") && !At("}")) {
      ParseValue(out, field, path, here(), depth);
      if (!Take(",")) break;
    }
    if (!Take("]")) {
      Report(here(), StrCat("expected ']' at the end of ", path, ", found ", Found()));
      SkipLine(here());
    }
  }

  void ParseValue(pb::Message* out, const Field* field, std::string path, TextPlace place, int depth) {
    const pb::Reflection* reflection = out->GetReflection();
    if (field->is_repeated()) {
      const int index = reflection->FieldSize(*out, field);
      absl::StrAppend(&path, "[", index, "]");
      if (index >= kElementsMax) {
        Report(place, StrCat(path, ": more than ", kElementsMax, " elements"));
        return SkipValue();
      }
    }
    if (field->cpp_type() != Field::CPPTYPE_MESSAGE) {
      if (SetScalar(out, field, path)) result_->places[path] = place;
      return;
    }
    if (!At("{")) {
      Report(here(), StrCat(path, " must be a block in braces, found ", Found()));
      return SkipValue();
    }
    if (depth >= kDepthMax) {
      Report(here(), "braces are nested too deeply");
      return SkipBlock("{", "}");
    }
    result_->places[path] = place;
    tokens_.Next();
    pb::Message* child =
        field->is_repeated() ? reflection->AddMessage(out, field) : reflection->MutableMessage(out, field);
    ParseFields(child, path, depth + 1);
    if (!Take("}")) Report(here(), StrCat(path, ": the '{' of line ", place.line, " is never closed; add '}'"));
  }

  // Reads one scalar and sets or adds it. False if there was an error, which is reported.
  bool SetScalar(pb::Message* out, const Field* field, const std::string& path) {
    const TextPlace place = here();
    if (At("}") || AtEnd()) {
      Report(place, StrCat(path, " has no value"));
      return false;
    }
    switch (field->cpp_type()) {
      case Field::CPPTYPE_STRING:
        return SetString(out, field, path, place);
      case Field::CPPTYPE_ENUM:
        return SetEnum(out, field, path, place);
      case Field::CPPTYPE_BOOL:
        return SetBool(out, field, path, place);
      default:
        return SetNumber(out, field, path, place);
    }
  }

  bool WrongKind(const Field* field, const std::string& path, TextPlace place) {
    Report(place, StrCat(path, " must be ", KindName(field), ", found ", Found()));
    SkipValue();
    return false;
  }

  bool SetString(pb::Message* out, const Field* field, const std::string& path, TextPlace place) {
    if (token().type != Token::TYPE_STRING) return WrongKind(field, path, place);
    std::string value;
    for (; token().type == Token::TYPE_STRING; tokens_.Next()) Token::ParseStringAppend(token().text, &value);
    if (!IsValidUtf8(value) || value.find('\0') != std::string::npos) {
      Report(place, StrCat(path, " is not valid UTF-8 text"));
      return false;
    }
    const pb::Reflection* reflection = out->GetReflection();
    if (field->is_repeated()) {
      reflection->AddString(out, field, value);
    } else {
      reflection->SetString(out, field, value);
    }
    return true;
  }

  bool SetEnum(pb::Message* out, const Field* field, const std::string& path, TextPlace place) {
    const pb::EnumDescriptor* type = field->enum_type();
    const pb::EnumValueDescriptor* value = nullptr;
    if (token().type == Token::TYPE_IDENTIFIER) value = type->FindValueByName(token().text);
    if (value == nullptr) {
      std::vector<std::string> known;
      for (int i = 0; i < type->value_count(); ++i) known.push_back(type->value(i)->name());
      Report(place, StrCat(path, ": unknown value ", Found(), "; one of ", absl::StrJoin(known, ", "),
                           DidYouMean(token().text, known)));
      SkipValue();
      return false;
    }
    tokens_.Next();
    out->GetReflection()->SetEnum(out, field, value);  // No enum in our schema is repeated.
    return true;
  }

  bool SetBool(pb::Message* out, const Field* field, const std::string& path, TextPlace place) {
    const bool is_true = token().text == "true";
    if (!is_true && token().text != "false") return WrongKind(field, path, place);
    tokens_.Next();
    out->GetReflection()->SetBool(out, field, is_true);
    return true;
  }

  bool SetNumber(pb::Message* out, const Field* field, const std::string& path, TextPlace place) {
    const bool negative = Take("-");
    const bool integer = token().type == Token::TYPE_INTEGER;
    const bool real = field->cpp_type() == Field::CPPTYPE_DOUBLE;
    if (!integer && !(real && token().type == Token::TYPE_FLOAT)) return WrongKind(field, path, place);
    const pb::Reflection* reflection = out->GetReflection();
    if (real) {
      const double magnitude = Token::ParseFloat(token().text);
      const double value = negative ? -magnitude : magnitude;
      tokens_.Next();
      if (field->is_repeated()) {
        reflection->AddDouble(out, field, value);
      } else {
        reflection->SetDouble(out, field, value);
      }
      return true;
    }
    const bool narrow = field->cpp_type() == Field::CPPTYPE_INT32;
    const int64_t limit = narrow ? std::numeric_limits<int32_t>::max() : std::numeric_limits<int64_t>::max();
    uint64_t magnitude = 0;
    if (!Token::ParseInteger(token().text, static_cast<uint64_t>(limit), &magnitude)) {
      Report(place, StrCat(path, ": ", token().text, " is too large; at most ", limit));
      tokens_.Next();
      return false;
    }
    tokens_.Next();
    const int64_t value = negative ? -static_cast<int64_t>(magnitude) : static_cast<int64_t>(magnitude);
    if (narrow) {
      reflection->SetInt32(out, field, static_cast<int32_t>(value));
    } else {
      reflection->SetInt64(out, field, value);
    }
    return true;
  }

  pb::io::ArrayInputStream stream_;
  Token tokens_;
  TextConfig* result_;
};

}  // namespace

std::string DidYouMean(std::string_view word, const std::vector<std::string>& candidates) {
  if (word.size() > 64) return "";
  const std::string* best = nullptr;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    size_t distance = EditDistance(word, candidate);
    // "int8" for "INT8" and "sequences" for "max_sequences" are near whatever their distance.
    std::string lower(word), other(candidate);
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    for (char& c : other) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (lower == other) distance = 0;
    if (lower.size() >= 3 && other.find(lower) != std::string::npos) distance = std::min<size_t>(distance, 1);
    if (distance < best_distance) {
      best_distance = distance;
      best = &candidate;
    }
  }
  return best == nullptr ? "" : StrCat("; did you mean '", *best, "'?");
}

TextConfig ParseTextConfig(std::string_view text, google::protobuf::Message* out) {
  TextConfig result;
  Parser(text, &result).Run(out);
  std::stable_sort(result.errors.begin(), result.errors.end(), [](const TextError& a, const TextError& b) {
    return std::pair(a.place.line, a.place.column) < std::pair(b.place.line, b.place.column);
  });
  return result;
}

}  // namespace shoal
