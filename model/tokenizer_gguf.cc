#include "model/tokenizer_gguf.h"

#include <sys/stat.h>

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/gguf_config.h"

namespace shoal {
namespace {

// Numbers of `tokenizer.ggml.token_type`.
enum TokenType : int64_t { kUnknown = 2, kControl = 3, kUserDefined = 4 };

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kMerges = "tokenizer.ggml.merges";
constexpr std::string_view kScores = "tokenizer.ggml.scores";
constexpr std::string_view kPre = "tokenizer.ggml.pre";
constexpr std::string_view kSpace = "\u2581";  // Stands for a blank in SentencePiece vocabularies.

// How text is cut into words. Sources: the tokenizer.json of the models; `tokenizer.ggml.pre` names them.
struct PreTokenizerKind {
  std::string_view name;
  bool nfc;                                // Text is brought to NFC first.
  bool gpt2_regex;                         // The expression of the byte-level step itself.
  bool ignore_merges;                      // A word that is a token needs no merging.
  bool add_bos;                            // Unless the file says otherwise.
  std::array<std::string_view, 5> splits;  // Expressions, one after the other; empty: none.
};

constexpr std::string_view kQwen2Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::array<PreTokenizerKind, 7> kKinds = {{
    {"gpt-2", false, true, false, false, {}},
    {"qwen2", true, false, false, false, {kQwen2Split}},
    {"deepseek-r1-qwen", true, false, false, true, {kQwen2Split}},
    {"llama-bpe", false, false, true, true, {kLlama3Split}},
    {"llama3", false, false, true, true, {kLlama3Split}},
    {"llama-v3", false, false, true, true, {kLlama3Split}},
    {"deepseek-coder",
     false,
     false,
     false,
     true,
     {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", R"(\p{N})"}},
}};

absl::Status Error(const GgufMetadata& metadata, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(metadata.where(), ": ", what, "; convert the model again"));
}

absl::Status Unsupported(const GgufMetadata& metadata, std::string_view key, std::string_view value,
                         std::string_view supported) {
  return absl::UnimplementedError(StrCat(metadata.where(), ": key '", key, "' is '", value.substr(0, 64),
                                         "'; supported are ", supported,
                                         ": use the model's Hugging Face folder instead"));
}

absl::Status ReadVocabulary(const GgufMetadata& metadata, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const std::vector<std::string_view> tokens, metadata.Texts(kTokens));
  if (tokens.size() > static_cast<size_t>(kTokenIdMax) + 1) {
    return Error(metadata, StrCat("the vocabulary has ", tokens.size(), " tokens, more than ", kTokenIdMax + 1));
  }
  spec->tokens.assign(tokens.begin(), tokens.end());
  if (!metadata.Has(kTypes)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<int64_t> types, metadata.Integers(kTypes));
  if (types.size() != tokens.size()) {
    return Error(metadata, StrCat("has ", types.size(), " token types for ", tokens.size(), " tokens"));
  }
  for (size_t id = 0; id < types.size(); ++id) {
    if (types[id] != kUnknown && types[id] != kControl && types[id] != kUserDefined) continue;
    if (tokens[id].empty()) continue;
    AddedToken added;
    added.id = static_cast<int32_t>(id);
    added.content = spec->tokens[id];
    added.special = types[id] != kUserDefined;
    spec->added_tokens.push_back(std::move(added));
  }
  return absl::OkStatus();
}

// Writers put 2^32 - 1 where there is no token.
absl::StatusOr<std::optional<int32_t>> TokenId(const GgufMetadata& metadata, std::string_view key,
                                               const TokenizerSpec& spec) {
  if (!metadata.Has(key)) return std::optional<int32_t>();
  ASSIGN_OR_RETURN(const int64_t id, metadata.Integer(key));
  const bool inside = id >= 0 && id < static_cast<int64_t>(spec.tokens.size());
  return inside ? std::optional<int32_t>(static_cast<int32_t>(id)) : std::nullopt;
}

// BOS and EOS and whether they are put around a text.
absl::Status ReadSpecialIds(const GgufMetadata& metadata, bool add_bos, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(spec->bos_id, TokenId(metadata, "tokenizer.ggml.bos_token_id", *spec));
  ASSIGN_OR_RETURN(spec->eos_id, TokenId(metadata, "tokenizer.ggml.eos_token_id", *spec));
  ASSIGN_OR_RETURN(spec->pad_id, TokenId(metadata, "tokenizer.ggml.padding_token_id", *spec));
  bool add_eos = false;
  constexpr std::string_view kAddBos = "tokenizer.ggml.add_bos_token", kAddEos = "tokenizer.ggml.add_eos_token";
  if (metadata.Has(kAddBos)) {
    ASSIGN_OR_RETURN(add_bos, metadata.Bool(kAddBos));
  }
  if (metadata.Has(kAddEos)) {
    ASSIGN_OR_RETURN(add_eos, metadata.Bool(kAddEos));
  }
  if (add_bos && !spec->bos_id.has_value()) {
    return Error(metadata, "texts begin with BOS, but tokenizer.ggml.bos_token_id names no token");
  }
  if (add_eos && !spec->eos_id.has_value()) {
    return Error(metadata, "texts end with EOS, but tokenizer.ggml.eos_token_id names no token");
  }
  if (add_bos) spec->prefix_ids = {*spec->bos_id};
  if (add_eos) spec->suffix_ids = {*spec->eos_id};
  return absl::OkStatus();
}

absl::Status ReadByteLevelBpe(const GgufMetadata& metadata, TokenizerSpec* spec) {
  std::string names;
  const PreTokenizerKind* kind = nullptr;
  if (!metadata.Has(kPre)) return Error(metadata, StrCat("key '", kPre, "', which says how to cut words, is missing"));
  ASSIGN_OR_RETURN(const std::string_view pre, metadata.Text(kPre));
  for (const PreTokenizerKind& known : kKinds) {
    names += StrCat(names.empty() ? "" : ", ", known.name);
    if (known.name == pre) kind = &known;
  }
  if (kind == nullptr) return Unsupported(metadata, kPre, pre, names);

  if (kind->nfc) spec->normalizer.emplace_back();
  for (const std::string_view split : kind->splits) {
    if (!split.empty()) spec->pre_tokenizer.emplace_back().pattern = std::string(split);
  }
  PreTokenizerStep& last = spec->pre_tokenizer.emplace_back();
  last.kind = PreTokenizerStep::Kind::kByteLevel;
  last.use_regex = kind->gpt2_regex;
  spec->decoder.byte_level = true;
  spec->ignore_merges = kind->ignore_merges;

  ASSIGN_OR_RETURN(const std::vector<std::string_view> merges, metadata.Texts(kMerges));
  spec->merges.reserve(merges.size());
  for (const std::string_view merge : merges) {
    const size_t blank = merge.find(' ', 1);  // No part is empty, and a blank is another character in this alphabet.
    if (blank == std::string_view::npos) {
      return Error(metadata, StrCat("key '", kMerges, "' has '", merge.substr(0, 64), "', which is not two tokens"));
    }
    spec->merges.emplace_back(merge.substr(0, blank), merge.substr(blank + 1));
  }
  return ReadSpecialIds(metadata, kind->add_bos, spec);
}

absl::Status ReadScoredBpe(const GgufMetadata& metadata, TokenizerSpec* spec) {
  for (const char* key : {"tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.escape_whitespaces"}) {
    if (!metadata.Has(key)) continue;
    ASSIGN_OR_RETURN(const bool value, metadata.Bool(key));
    if (value != (std::string_view(key) == "tokenizer.ggml.escape_whitespaces")) {
      return Unsupported(metadata, key, value ? "true" : "false", value ? "false" : "true");
    }
  }
  ASSIGN_OR_RETURN(spec->scores, metadata.Floats(kScores));
  spec->merge_kind = TokenizerSpec::MergeKind::kScored;
  spec->byte_fallback = true;
  bool prefix = true;
  constexpr std::string_view kPrefix = "tokenizer.ggml.add_space_prefix";
  if (metadata.Has(kPrefix)) {
    ASSIGN_OR_RETURN(prefix, metadata.Bool(kPrefix));
  }
  if (prefix) {
    NormalizerStep& step = spec->normalizer.emplace_back();
    step.kind = NormalizerStep::Kind::kPrepend;
    step.content.assign(1, ' ');
    spec->decoder.strip_leading_spaces = 1;
  }
  NormalizerStep& blanks = spec->normalizer.emplace_back();
  blanks.kind = NormalizerStep::Kind::kReplace;
  blanks.pattern.assign(1, ' ');
  blanks.content = std::string(kSpace);
  spec->decoder.replacements.emplace_back(kSpace, " ");
  spec->decoder.byte_fallback = true;
  return ReadSpecialIds(metadata, /*add_bos=*/true, spec);
}

bool Exists(const std::string& path) {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0;
}

}  // namespace

absl::StatusOr<TokenizerSpec> ReadGgufTokenizer(const GgufMetadata& metadata) {
  constexpr std::string_view kModel = "tokenizer.ggml.model";
  TokenizerSpec spec;
  spec.where = metadata.where();
  ASSIGN_OR_RETURN(const std::string_view model, metadata.Text(kModel));
  if (model != "gpt2" && model != "llama") return Unsupported(metadata, kModel, model, "gpt2 and llama");
  RETURN_IF_ERROR(ReadVocabulary(metadata, &spec));
  RETURN_IF_ERROR(model == "gpt2" ? ReadByteLevelBpe(metadata, &spec) : ReadScoredBpe(metadata, &spec));
  return spec;
}

std::string GgufTokenizerPath(const std::string& model_dir) {
  if (IsGgufPath(model_dir)) return model_dir;
  std::string path = StrCat(model_dir, "/", kGgufTokenizerFile);
  return Exists(path) && !Exists(StrCat(model_dir, "/tokenizer.json")) ? path : "";
}

}  // namespace shoal
