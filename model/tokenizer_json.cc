#include "model/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/tokenizer_sax.h"

namespace shoal {
namespace {

absl::Status Error(std::string_view where, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(where, ": ", what));
}

absl::Status ParseAddedTokens(const Json& root, TokenizerSpec* spec) {
  const auto it = root.find("added_tokens");
  if (it == root.end() || it->is_null()) return absl::OkStatus();
  if (!it->is_array()) return Error(spec->where, "field 'added_tokens' must be an array");
  spec->added_tokens.reserve(it->size());
  for (size_t i = 0; i < it->size(); ++i) {
    const std::string where = StrCat(spec->where, ": added_tokens[", i, "]");
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken((*it)[i], where));
    ASSIGN_OR_RETURN(const int64_t id, JsonInt((*it)[i], "id", where));
    if (id < 0 || id > kTokenIdMax) return Error(where, StrCat("id ", id, " must be in 0..", kTokenIdMax));
    token.id = static_cast<int32_t>(id);
    spec->added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// "": none.
absl::StatusOr<std::string> OptionalString(const Json& json, std::string_view key, std::string_view where) {
  return JsonHas(json, key) ? JsonString(json, key, where) : absl::StatusOr<std::string>("");
}

absl::Status ParseModel(const Json& root, TokenizerSpec* spec) {
  const auto it = root.find("model");
  if (it == root.end() || !it->is_object()) return Error(spec->where, "field 'model' is missing or no object");
  const Json& model = *it;
  const std::string where = StrCat(spec->where, ": model");
  ASSIGN_OR_RETURN(const std::string type, OptionalString(model, "type", where));
  if (!type.empty() && type != "BPE") {
    return Error(where, StrCat("type '", type.substr(0, 64), "' is not supported; only BPE is"));
  }
  if (model.contains("vocab")) return Error(where, "field 'vocab' must be an object of token: id");
  if (model.contains("merges")) return Error(where, "field 'merges' must be an array");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string affix, OptionalString(model, key, where));
    if (!affix.empty()) return Error(where, StrCat("field '", key, "' is '", affix.substr(0, 64), "'; not supported"));
  }
  if (JsonHas(model, "dropout")) {
    ASSIGN_OR_RETURN(const double dropout, JsonNumber(model, "dropout", where));
    if (dropout != 0) return Error(where, "field 'dropout' is set; random merges are not supported");
  }
  ASSIGN_OR_RETURN(spec->byte_fallback, JsonBoolOr(model, "byte_fallback", false, where));
  ASSIGN_OR_RETURN(spec->fuse_unk, JsonBoolOr(model, "fuse_unk", false, where));
  ASSIGN_OR_RETURN(spec->ignore_merges, JsonBoolOr(model, "ignore_merges", false, where));
  ASSIGN_OR_RETURN(std::string unk, OptionalString(model, "unk_token", where));
  if (!unk.empty()) spec->unk_token = std::move(unk);
  return absl::OkStatus();
}

// ids of TemplateProcessing's special token `name`.
absl::Status AppendTemplateToken(const Json& json, const std::string& name, std::string_view where,
                                 std::vector<int32_t>* ids) {
  const auto tokens = json.find("special_tokens");
  if (tokens == json.end() || !tokens->is_object() || !tokens->contains(name)) {
    return Error(where, StrCat("special token '", name.substr(0, 64), "' is not in 'special_tokens'"));
  }
  const Json& token = (*tokens)[name];
  if (!token.is_object() || !token.contains("ids") || !token["ids"].is_array()) {
    return Error(where, StrCat("special token '", name.substr(0, 64), "' has no array 'ids'"));
  }
  for (const Json& id : token["ids"]) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(kTokenIdMax)) {
      return Error(where, StrCat("special token '", name.substr(0, 64), "' has an id that is not in 0..", kTokenIdMax));
    }
    ids->push_back(id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status ParseTemplate(const Json& json, const std::string& where, TokenizerSpec* spec) {
  constexpr size_t kPiecesMax = 16;
  const auto single = json.find("single");
  if (single == json.end() || !single->is_array() || single->size() > kPiecesMax) {
    return Error(where, StrCat("field 'single' must be an array of at most ", kPiecesMax, " pieces"));
  }
  bool seen_text = false;
  for (const Json& piece : *single) {
    if (piece.is_object() && piece.contains("Sequence")) {
      if (seen_text) return Error(where, "field 'single' has the text twice");
      seen_text = true;
    } else if (piece.is_object() && piece.contains("SpecialToken")) {
      ASSIGN_OR_RETURN(const std::string name, JsonString(piece["SpecialToken"], "id", where));
      RETURN_IF_ERROR(AppendTemplateToken(json, name, where, seen_text ? &spec->suffix_ids : &spec->prefix_ids));
    } else {
      return Error(where, "field 'single' has a piece that is neither SpecialToken nor Sequence");
    }
  }
  if (!seen_text) return Error(where, "field 'single' lacks the text (a Sequence)");
  return absl::OkStatus();
}

absl::Status ParsePostProcessor(const Json& json, const std::string& where, TokenizerSpec* spec) {
  if (json.is_null()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string type, JsonString(json, "type", where));
  if (type == "ByteLevel") return absl::OkStatus();  // Changes offsets only.
  if (type == "TemplateProcessing") return ParseTemplate(json, where, spec);
  if (type == "Sequence") {
    const auto it = json.find("processors");
    if (it == json.end() || !it->is_array()) return Error(where, "field 'processors' must be an array");
    for (size_t i = 0; i < it->size(); ++i) {
      RETURN_IF_ERROR(ParsePostProcessor((*it)[i], StrCat(where, "[", i, "]"), spec));
    }
    return absl::OkStatus();
  }
  return Error(where, StrCat("type '", type.substr(0, 64),
                             "' is not supported; supported are ByteLevel, Sequence, TemplateProcessing"));
}

Json Field(const Json& root, const char* key) {
  const auto it = root.find(key);
  return it == root.end() ? Json() : *it;
}

}  // namespace

absl::StatusOr<AddedToken> ParseAddedToken(const Json& json, std::string_view where) {
  AddedToken token;
  ASSIGN_OR_RETURN(token.content, JsonString(json, "content", where));
  if (token.content.empty()) return Error(where, "field 'content' is empty");
  ASSIGN_OR_RETURN(token.special, JsonBoolOr(json, "special", false, where));
  ASSIGN_OR_RETURN(token.single_word, JsonBoolOr(json, "single_word", false, where));
  ASSIGN_OR_RETURN(token.lstrip, JsonBoolOr(json, "lstrip", false, where));
  ASSIGN_OR_RETURN(token.rstrip, JsonBoolOr(json, "rstrip", false, where));
  ASSIGN_OR_RETURN(token.normalized, JsonBoolOr(json, "normalized", !token.special, where));
  return token;
}

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(std::string_view text, std::string_view where) {
  ASSIGN_OR_RETURN(TokenizerJson file, ParseTokenizerJsonText(text, where));
  TokenizerSpec spec = std::move(file.spec);
  const Json& root = file.rest;
  if (!root.is_object()) return Error(where, "must be a JSON object");
  RETURN_IF_ERROR(ParseModel(root, &spec));
  if (!file.has_vocab) return Error(where, "field 'model.vocab' is missing");
  RETURN_IF_ERROR(ParseAddedTokens(root, &spec));
  RETURN_IF_ERROR(ParseNormalizer(Field(root, "normalizer"), StrCat(where, ": normalizer"), &spec.normalizer));
  RETURN_IF_ERROR(
      ParsePreTokenizer(Field(root, "pre_tokenizer"), StrCat(where, ": pre_tokenizer"), &spec.pre_tokenizer));
  RETURN_IF_ERROR(ParsePostProcessor(Field(root, "post_processor"), StrCat(where, ": post_processor"), &spec));
  const Json decoder = Field(root, "decoder");
  RETURN_IF_ERROR(ParseDecoder(decoder, StrCat(where, ": decoder"), &spec.decoder));
  if (decoder.is_null()) {
    const bool byte_level =
        !spec.pre_tokenizer.empty() && spec.pre_tokenizer.back().kind == PreTokenizerStep::Kind::kByteLevel;
    if (!byte_level) return Error(where, "field 'decoder' is missing; without it ids cannot become text");
    spec.decoder.byte_level = true;
  }
  return spec;
}

absl::StatusOr<TokenizerSpec> ReadTokenizerFiles(const std::string& model_dir) {
  const std::string path = StrCat(model_dir, "/tokenizer.json");
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kTokenizerFileBytesMax));
  ASSIGN_OR_RETURN(TokenizerSpec spec, ParseTokenizerJson(text, path));
  const std::string config_path = StrCat(model_dir, "/tokenizer_config.json");
  const absl::StatusOr<Json> config = ReadJsonFile(config_path, kTokenizerConfigBytesMax);
  if (config.ok()) {
    RETURN_IF_ERROR(ApplyTokenizerConfig(*config, config_path, &spec));
  } else if (!absl::IsNotFound(config.status())) {
    return config.status();
  }
  return spec;
}

}  // namespace shoal
