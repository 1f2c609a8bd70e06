// tokenizer_config.json: what Hugging Face transformers adds to tokenizer.json.
#include <array>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/tokenizer_json.h"

namespace shoal {
namespace {

absl::Status Error(std::string_view where, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(where, ": ", what));
}

std::optional<int32_t> FindId(const TokenizerSpec& spec, std::string_view token) {
  for (const AddedToken& added : spec.added_tokens) {
    if (added.content == token) return added.id;
  }
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    if (spec.tokens[id] == token) return static_cast<int32_t>(id);
  }
  return std::nullopt;
}

// "added_tokens_decoder": {"151643": {"content": ...}, ...}. transformers adds those that tokenizer.json lacks, and
// takes over only the `special` flag of the others.
absl::Status AddAddedTokens(const Json& config, std::string_view where, TokenizerSpec* spec) {
  const auto it = config.find("added_tokens_decoder");
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  if (!it->is_object()) return Error(where, "field 'added_tokens_decoder' must be an object");
  absl::flat_hash_map<std::string, size_t> known;
  for (size_t i = 0; i < spec->added_tokens.size(); ++i) known.emplace(spec->added_tokens[i].content, i);
  for (const auto& [key, value] : it->items()) {
    const std::string token_where = StrCat(where, ": added_tokens_decoder['", key.substr(0, 32), "']");
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(value, token_where));
    int id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < 0 || id > kTokenIdMax) {
      return Error(token_where, StrCat("the key must be an id in 0..", kTokenIdMax));
    }
    token.id = id;
    if (const auto found = known.find(token.content); found != known.end()) {
      AddedToken& existing = spec->added_tokens[found->second];
      if (existing.id != id) {
        return Error(token_where,
                     StrCat("'", token.content.substr(0, 64), "' has id ", existing.id, " in tokenizer.json"));
      }
      existing.special = existing.special || token.special;
    } else {
      known.emplace(token.content, spec->added_tokens.size());
      spec->added_tokens.push_back(std::move(token));
    }
  }
  return absl::OkStatus();
}

// "bos_token": text, {"content": text} or null. A name that is no token gives no id: some configs name a pad token that
// their model has no row for.
absl::StatusOr<std::optional<int32_t>> NamedToken(const Json& config, const char* key, std::string_view where,
                                                  TokenizerSpec* spec) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return std::optional<int32_t>();
  std::string name;
  if (it->is_string()) {
    name = it->get<std::string>();
  } else if (it->is_object()) {
    ASSIGN_OR_RETURN(name, JsonString(*it, "content", StrCat(where, ": ", key)));
  } else {
    return Error(where, StrCat("field '", key, "' must be a string or an object with 'content'"));
  }
  const std::optional<int32_t> id = FindId(*spec, name);
  if (!id.has_value()) return id;
  for (const AddedToken& added : spec->added_tokens) {
    if (added.id == *id) return id;
  }
  AddedToken token;  // A vocabulary entry that tokenizer.json does not list: transformers makes it a special token.
  token.id = *id;
  token.content = name;
  token.special = true;
  if (!name.empty()) spec->added_tokens.push_back(std::move(token));
  return id;
}

// transformers' Llama-like classes replace the post-processor by one that their own settings describe.
absl::Status ApplyBosAndEos(const Json& config, std::string_view where, TokenizerSpec* spec) {
  static constexpr std::array<std::string_view, 8> kClasses = {
      "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast",
      "GemmaTokenizer", "GemmaTokenizerFast", "CohereTokenizer",    "CohereTokenizerFast"};
  if (!JsonHas(config, "tokenizer_class")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string name, JsonString(config, "tokenizer_class", where));
  bool replaces = false;
  for (const std::string_view known : kClasses) replaces = replaces || name == known;
  if (!replaces) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool add_bos, JsonBoolOr(config, "add_bos_token", true, where));
  ASSIGN_OR_RETURN(const bool add_eos, JsonBoolOr(config, "add_eos_token", false, where));
  spec->prefix_ids.clear();
  spec->suffix_ids.clear();
  if (add_bos) {
    if (!spec->bos_id.has_value())
      return Error(where, "add_bos_token is set but 'bos_token' is not a token of the vocabulary");
    spec->prefix_ids.push_back(*spec->bos_id);
  }
  if (add_eos) {
    if (!spec->eos_id.has_value())
      return Error(where, "add_eos_token is set but 'eos_token' is not a token of the vocabulary");
    spec->suffix_ids.push_back(*spec->eos_id);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ApplyTokenizerConfig(const Json& config, std::string_view where, TokenizerSpec* spec) {
  if (!config.is_object()) return Error(where, "must be a JSON object");
  RETURN_IF_ERROR(AddAddedTokens(config, where, spec));
  ASSIGN_OR_RETURN(spec->bos_id, NamedToken(config, "bos_token", where, spec));
  ASSIGN_OR_RETURN(spec->eos_id, NamedToken(config, "eos_token", where, spec));
  ASSIGN_OR_RETURN(spec->pad_id, NamedToken(config, "pad_token", where, spec));
  return ApplyBosAndEos(config, where, spec);
}

}  // namespace shoal
