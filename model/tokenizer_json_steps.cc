// The pipeline steps of tokenizer.json, each written as {"type": NAME, ...}.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/tokenizer_json.h"

namespace shoal {
namespace {

constexpr size_t kStepsMax = 64;
constexpr size_t kContentBytesMax = 256;  // Bounds what a replacement can make of a text.

absl::Status Error(std::string_view where, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(where, ": ", what));
}

absl::Status UnsupportedType(std::string_view where, std::string_view type, std::string_view supported) {
  return Error(where, StrCat("type '", type.substr(0, 64), "' is not supported; supported are ", supported));
}

// The array `key` of a Sequence.
absl::StatusOr<const Json*> Children(const Json& json, const char* key, std::string_view where) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_array()) return Error(where, StrCat("field '", key, "' must be an array"));
  if (it->size() > kStepsMax) return Error(where, StrCat("has more than ", kStepsMax, " steps"));
  return &*it;
}

// {"String": text} or {"Regex": expression}.
absl::Status ParsePattern(const Json& json, std::string_view where, std::string* pattern, bool* is_regex) {
  const auto it = json.find("pattern");
  if (it == json.end() || !it->is_object() || it->size() != 1 || !it->begin()->is_string() ||
      (it->begin().key() != "String" && it->begin().key() != "Regex")) {
    return Error(where, "field 'pattern' must be {\"String\": text} or {\"Regex\": expression}");
  }
  *pattern = it->begin()->get<std::string>();
  *is_regex = it->begin().key() == "Regex";
  if (pattern->empty()) return Error(where, "field 'pattern' is empty");
  return absl::OkStatus();
}

absl::StatusOr<std::string> ShortString(const Json& json, std::string_view key, std::string_view where) {
  ASSIGN_OR_RETURN(std::string text, JsonString(json, key, where));
  if (text.size() > kContentBytesMax) {
    return Error(where, StrCat("field '", key, "' is longer than ", kContentBytesMax, " bytes"));
  }
  return text;
}

absl::StatusOr<SplitBehavior> ParseBehavior(const Json& json, std::string_view where, std::string_view otherwise) {
  std::string name(otherwise);
  if (JsonHas(json, "behavior")) {
    ASSIGN_OR_RETURN(name, JsonString(json, "behavior", where));
  }
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return Error(where, StrCat("field 'behavior' is '", name.substr(0, 64), "', which is not known"));
}

absl::StatusOr<PreTokenizerStep> ParseMetaspace(const Json& json, std::string_view where) {
  PreTokenizerStep step;
  step.kind = PreTokenizerStep::Kind::kMetaspace;
  ASSIGN_OR_RETURN(step.replacement, ShortString(json, "replacement", where));
  if (step.replacement.empty()) return Error(where, "field 'replacement' is empty");
  ASSIGN_OR_RETURN(step.split, JsonBoolOr(json, "split", true, where));
  ASSIGN_OR_RETURN(const bool prefix, JsonBoolOr(json, "add_prefix_space", true, where));
  std::string scheme = prefix ? "always" : "never";
  if (JsonHas(json, "prepend_scheme")) {
    ASSIGN_OR_RETURN(scheme, JsonString(json, "prepend_scheme", where));
  }
  if (scheme == "always") {
    step.prepend = PreTokenizerStep::Prepend::kAlways;
  } else if (scheme == "first") {
    step.prepend = PreTokenizerStep::Prepend::kFirst;
  } else if (scheme == "never") {
    step.prepend = PreTokenizerStep::Prepend::kNever;
  } else {
    return Error(where, "field 'prepend_scheme' must be always, first or never");
  }
  return step;
}

// Steps that are a split by a fixed expression.
absl::StatusOr<PreTokenizerStep> ParseFixedSplit(const Json& json, std::string_view type, std::string_view where) {
  PreTokenizerStep step;
  if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual, JsonBoolOr(json, "individual_digits", false, where));
    step.pattern = R"(\p{N})";
    step.behavior = individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
  } else if (type == "Punctuation") {
    step.pattern = R"([\p{P}$+<=>^`|~])";
    ASSIGN_OR_RETURN(step.behavior, ParseBehavior(json, where, "Isolated"));
  } else if (type == "WhitespaceSplit") {
    step.pattern = R"(\s)";
    step.behavior = SplitBehavior::kRemoved;
  } else {  // Whitespace
    step.pattern = R"(\w+|[^\w\s]+)";
    step.behavior = SplitBehavior::kRemoved;
    step.invert = true;
  }
  return step;
}

absl::Status ParseStrip(const Json& json, std::string_view where, bool after_fuse, DecoderSpec* decoder) {
  ASSIGN_OR_RETURN(const std::string content, JsonString(json, "content", where));
  ASSIGN_OR_RETURN(const int64_t start, JsonInt(json, "start", where));
  ASSIGN_OR_RETURN(const int64_t stop, JsonInt(json, "stop", where));
  if (content != " " || stop != 0 || start < 0 || start > 64 || !after_fuse) {
    return Error(where,
                 "only a Strip of leading spaces (content \" \", stop 0, start 0..64) after a Fuse is supported");
  }
  decoder->strip_leading_spaces = static_cast<int>(start);
  return absl::OkStatus();
}

absl::Status ParseDecoderStep(const Json& json, std::string_view where, bool* fused, DecoderSpec* decoder) {
  ASSIGN_OR_RETURN(const std::string type, JsonString(json, "type", where));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const Json* children, Children(json, "decoders", where));
    for (size_t i = 0; i < children->size(); ++i) {
      RETURN_IF_ERROR(ParseDecoderStep((*children)[i], StrCat(where, "[", i, "]"), fused, decoder));
    }
    return absl::OkStatus();
  }
  if (type == "Fuse") {
    *fused = true;
    return absl::OkStatus();
  }
  if (type == "Strip") return ParseStrip(json, where, *fused, decoder);
  if (*fused) return Error(where, StrCat("type '", type.substr(0, 64), "' cannot come after Fuse"));
  if (type == "ByteLevel") {
    decoder->byte_level = true;
  } else if (type == "ByteFallback") {
    decoder->byte_fallback = true;
  } else if (type == "Replace") {
    bool is_regex = false;
    std::string pattern;
    RETURN_IF_ERROR(ParsePattern(json, where, &pattern, &is_regex));
    if (is_regex) return Error(where, "a Replace by expression is not supported in a decoder");
    ASSIGN_OR_RETURN(std::string content, ShortString(json, "content", where));
    if (decoder->replacements.size() >= 4) return Error(where, "has more than 4 Replace steps");
    decoder->replacements.emplace_back(std::move(pattern), std::move(content));
  } else if (type == "Metaspace") {
    ASSIGN_OR_RETURN(const PreTokenizerStep step, ParseMetaspace(json, where));
    decoder->replacements.emplace_back(step.replacement, " ");
    if (step.prepend != PreTokenizerStep::Prepend::kNever) decoder->first_token_drops.assign(1, ' ');
  } else {
    return UnsupportedType(where, type, "ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Sequence, Strip");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> JsonBoolOr(const Json& object, std::string_view key, bool otherwise, std::string_view where) {
  return JsonHas(object, key) ? JsonBool(object, key, where) : absl::StatusOr<bool>(otherwise);
}

absl::Status ParseNormalizer(const Json& json, std::string_view where, std::vector<NormalizerStep>* steps) {
  if (json.is_null()) return absl::OkStatus();
  if (steps->size() >= kStepsMax) return Error(where, StrCat("has more than ", kStepsMax, " steps"));
  ASSIGN_OR_RETURN(const std::string type, JsonString(json, "type", where));
  NormalizerStep step;
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const Json* children, Children(json, "normalizers", where));
    for (size_t i = 0; i < children->size(); ++i) {
      RETURN_IF_ERROR(ParseNormalizer((*children)[i], StrCat(where, "[", i, "]"), steps));
    }
    return absl::OkStatus();
  }
  if (type == "NFC") {
    step.kind = NormalizerStep::Kind::kNfc;
  } else if (type == "NFD") {
    step.kind = NormalizerStep::Kind::kNfd;
  } else if (type == "NFKC") {
    step.kind = NormalizerStep::Kind::kNfkc;
  } else if (type == "NFKD") {
    step.kind = NormalizerStep::Kind::kNfkd;
  } else if (type == "Prepend") {
    step.kind = NormalizerStep::Kind::kPrepend;
    ASSIGN_OR_RETURN(step.content, ShortString(json, "prepend", where));
  } else if (type == "Replace") {
    step.kind = NormalizerStep::Kind::kReplace;
    RETURN_IF_ERROR(ParsePattern(json, where, &step.pattern, &step.is_regex));
    ASSIGN_OR_RETURN(step.content, ShortString(json, "content", where));
  } else if (type == "Strip") {
    step.kind = NormalizerStep::Kind::kStrip;
    ASSIGN_OR_RETURN(step.strip_left, JsonBoolOr(json, "strip_left", true, where));
    ASSIGN_OR_RETURN(step.strip_right, JsonBoolOr(json, "strip_right", true, where));
  } else {
    return UnsupportedType(where, type, "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence, Strip");
  }
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status ParsePreTokenizer(const Json& json, std::string_view where, std::vector<PreTokenizerStep>* steps) {
  if (json.is_null()) return absl::OkStatus();
  if (steps->size() >= kStepsMax) return Error(where, StrCat("has more than ", kStepsMax, " steps"));
  ASSIGN_OR_RETURN(const std::string type, JsonString(json, "type", where));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const Json* children, Children(json, "pretokenizers", where));
    for (size_t i = 0; i < children->size(); ++i) {
      RETURN_IF_ERROR(ParsePreTokenizer((*children)[i], StrCat(where, "[", i, "]"), steps));
    }
    return absl::OkStatus();
  }
  PreTokenizerStep step;
  if (type == "Split") {
    RETURN_IF_ERROR(ParsePattern(json, where, &step.pattern, &step.is_regex));
    ASSIGN_OR_RETURN(step.behavior, ParseBehavior(json, where, "Isolated"));
    ASSIGN_OR_RETURN(step.invert, JsonBoolOr(json, "invert", false, where));
  } else if (type == "ByteLevel") {
    step.kind = PreTokenizerStep::Kind::kByteLevel;
    ASSIGN_OR_RETURN(step.add_prefix_space, JsonBoolOr(json, "add_prefix_space", true, where));
    ASSIGN_OR_RETURN(step.use_regex, JsonBoolOr(json, "use_regex", true, where));
  } else if (type == "Metaspace") {
    ASSIGN_OR_RETURN(step, ParseMetaspace(json, where));
  } else if (type == "Digits" || type == "Punctuation" || type == "Whitespace" || type == "WhitespaceSplit") {
    ASSIGN_OR_RETURN(step, ParseFixedSplit(json, type, where));
  } else {
    return UnsupportedType(where, type,
                           "ByteLevel, Digits, Metaspace, Punctuation, Sequence, Split, Whitespace, WhitespaceSplit");
  }
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status ParseDecoder(const Json& json, std::string_view where, DecoderSpec* decoder) {
  if (json.is_null()) return absl::OkStatus();
  bool fused = false;
  return ParseDecoderStep(json, where, &fused, decoder);
}

}  // namespace shoal
