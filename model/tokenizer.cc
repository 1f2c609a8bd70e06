#include "model/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"
#include "model/detokenizer.h"
#include "model/tokenizer_gguf.h"
#include "model/tokenizer_json.h"
#include "model/unicode.h"

namespace shoal {
namespace {

constexpr size_t kAddedTokensMax = 1 << 16;
constexpr size_t kAddedContentMax = 4096;

absl::Status Annotate(std::string_view where, const absl::Status& status) {
  return absl::Status(status.code(), StrCat(where, ": ", status.message()));
}

std::string StripSpaces(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    size_t pos = 0;
    if (!IsUnicodeWhitespace(DecodeUtf8(text, &pos))) break;
    text.remove_prefix(pos);
  }
  while (right && !text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    size_t pos = begin;
    if (!IsUnicodeWhitespace(DecodeUtf8(text, &pos))) break;
    text = text.substr(0, begin);
  }
  return std::string(text);
}

absl::StatusOr<std::string> ReplaceMatches(const Regex& regex, std::string_view text, std::string_view content) {
  std::string out;
  const size_t bytes_max = 4 * text.size() + (64 << 10);
  RETURN_IF_ERROR(regex.ForEachPart(text, [&](std::string_view part, bool is_match) -> absl::Status {
    out.append(is_match ? content : part);
    if (out.size() > bytes_max)
      return absl::ResourceExhaustedError("normalizing makes the text more than 4 times longer");
    return absl::OkStatus();
  }));
  return out;
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Vocabulary> vocabulary, PreTokenizer pre_tokenizer, BpeModel bpe)
    : vocabulary_(std::move(vocabulary)), pre_tokenizer_(std::move(pre_tokenizer)), bpe_(std::move(bpe)) {}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  if (const std::string path = GgufTokenizerPath(model_dir); !path.empty()) {
    ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(path));
    ASSIGN_OR_RETURN(TokenizerSpec spec, ReadGgufTokenizer(file->header().metadata));
    return Create(std::move(spec));
  }
  ASSIGN_OR_RETURN(TokenizerSpec spec, ReadTokenizerFiles(model_dir));
  return Create(std::move(spec));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerSpec spec) {
  if (spec.tokens.empty()) return absl::InvalidArgumentError(StrCat(spec.where, ": the vocabulary is empty"));
  if (spec.tokens.size() > static_cast<size_t>(kTokenIdMax) + 1) {
    return absl::InvalidArgumentError(StrCat(spec.where, ": the vocabulary has ids above ", kTokenIdMax));
  }
  for (AddedToken& added : spec.added_tokens) {  // An added token may be new to the vocabulary.
    const std::string name = StrCat("added token '", added.content.substr(0, 64), "'");
    if (added.content.empty() || added.content.size() > kAddedContentMax) {
      return absl::InvalidArgumentError(
          StrCat(spec.where, ": added token ", added.id, " must have 1 to ", kAddedContentMax, " bytes"));
    }
    if (added.id < 0 || added.id > kTokenIdMax) {
      return absl::InvalidArgumentError(
          StrCat(spec.where, ": ", name, " has id ", added.id, ", which must be in 0..", kTokenIdMax));
    }
    const auto id = static_cast<size_t>(added.id);
    if (id >= spec.tokens.size()) {
      spec.tokens.resize(id + 1);
      if (spec.merge_kind == TokenizerSpec::MergeKind::kScored) spec.scores.resize(id + 1);
    }
    if (!spec.tokens[id].empty() && spec.tokens[id] != added.content) {
      return absl::InvalidArgumentError(StrCat(spec.where, ": ", name, " has id ", id, ", which is token '",
                                               spec.tokens[id].substr(0, 64), "' already"));
    }
    spec.tokens[id] = added.content;
  }
  absl::StatusOr<std::unique_ptr<Vocabulary>> vocabulary = Vocabulary::Create(std::exchange(spec.tokens, {}));
  if (!vocabulary.ok()) return Annotate(spec.where, vocabulary.status());
  spec.tokens.resize(static_cast<size_t>((*vocabulary)->size()));  // Only its size is asked for from here on.
  absl::StatusOr<PreTokenizer> pre_tokenizer = PreTokenizer::Create(spec.pre_tokenizer);
  if (!pre_tokenizer.ok()) return Annotate(spec.where, pre_tokenizer.status());
  absl::StatusOr<BpeModel> bpe = BpeModel::Create(spec, **vocabulary, pre_tokenizer->byte_level());
  if (!bpe.ok()) return Annotate(spec.where, bpe.status());
  auto tokenizer =
      std::unique_ptr<Tokenizer>(new Tokenizer(*std::move(vocabulary), *std::move(pre_tokenizer), *std::move(bpe)));
  if (absl::Status status = tokenizer->Init(spec); !status.ok()) return Annotate(spec.where, status);
  return tokenizer;
}

absl::Status Tokenizer::Init(const TokenizerSpec& spec) {
  decoder_ = spec.decoder;
  prefix_ids_ = spec.prefix_ids;
  suffix_ids_ = spec.suffix_ids;
  bos_id_ = spec.bos_id;
  eos_id_ = spec.eos_id;
  pad_id_ = spec.pad_id;
  for (const auto& id : {bos_id_, eos_id_, pad_id_}) {
    if (id.has_value()) RETURN_IF_ERROR(CheckId(*id));
  }
  for (const int32_t id : prefix_ids_) RETURN_IF_ERROR(CheckId(id));
  for (const int32_t id : suffix_ids_) RETURN_IF_ERROR(CheckId(id));
  token_begin_.reserve(static_cast<size_t>(vocab_size()) + 1);
  for (int32_t id = 0; id < vocab_size(); ++id) {
    token_begin_.push_back(static_cast<uint32_t>(token_bytes_.size()));
    token_bytes_ += DecodeBytes(vocabulary_->token(id));
    if (token_bytes_.size() > UINT32_MAX / 2) return absl::InvalidArgumentError("the decoded vocabulary exceeds 2 GiB");
  }
  token_begin_.push_back(static_cast<uint32_t>(token_bytes_.size()));
  RETURN_IF_ERROR(AddNormalizer(spec));
  return AddAddedTokens(spec);
}

std::string Tokenizer::DecodeBytes(const std::string& token) const {
  if (decoder_.byte_level) return ByteLevelBytes(token).value_or(token);
  std::string text = token;
  for (const auto& [pattern, content] : decoder_.replacements) text = absl::StrReplaceAll(text, {{pattern, content}});
  if (const int byte = ByteOfFallbackToken(text); decoder_.byte_fallback && byte >= 0) {
    return std::string(1, static_cast<char>(byte));
  }
  return text;
}

absl::Status Tokenizer::AddNormalizer(const TokenizerSpec& spec) {
  for (const NormalizerStep& step : spec.normalizer) {
    Normalizer normalizer{step, {}};
    if (step.kind == NormalizerStep::Kind::kReplace) {
      absl::StatusOr<Regex> regex = Regex::Compile(step.pattern, !step.is_regex);
      if (!regex.ok()) return Annotate("normalizer", regex.status());
      normalizer.regex.push_back(*std::move(regex));
    }
    normalizer_.push_back(std::move(normalizer));
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::AddAddedTokens(const TokenizerSpec& spec) {
  if (spec.added_tokens.size() > kAddedTokensMax) {
    return absl::InvalidArgumentError(StrCat("there are more than ", kAddedTokensMax, " added tokens"));
  }
  is_special_.resize(static_cast<size_t>(vocab_size()));
  for (const AddedToken& token : spec.added_tokens) {
    if (token.special) is_special_[static_cast<size_t>(token.id)] = true;
    all_added_.Add(token.content, token);
    if (!token.normalized) {
      raw_added_.Add(token.content, token);
      continue;
    }
    ASSIGN_OR_RETURN(const std::string content, RunNormalizer(token.content));
    if (!content.empty()) normalized_added_.Add(content, token);
  }
  for (int32_t id = 0; id < vocab_size(); ++id) {
    if (is_special_[static_cast<size_t>(id)]) special_ids_.push_back(id);
  }
  for (const AddedToken& token : spec.added_tokens) added_ids_.push_back(token.id);
  std::sort(added_ids_.begin(), added_ids_.end());
  added_ids_.erase(std::unique(added_ids_.begin(), added_ids_.end()), added_ids_.end());
  return absl::OkStatus();
}

absl::Status Tokenizer::CheckId(int32_t id) const {
  if (id >= 0 && id < vocab_size()) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("token id ", id, " is outside of the vocabulary, 0..", vocab_size() - 1));
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && is_special_[static_cast<size_t>(id)];
}

absl::StatusOr<std::string_view> Tokenizer::IdToToken(int32_t id) const {
  RETURN_IF_ERROR(CheckId(id));
  return std::string_view(vocabulary_->token(id));
}

absl::StatusOr<std::string_view> Tokenizer::TokenBytes(int32_t id) const {
  RETURN_IF_ERROR(CheckId(id));
  const uint32_t begin = token_begin_[static_cast<size_t>(id)];
  return std::string_view(token_bytes_).substr(begin, token_begin_[static_cast<size_t>(id) + 1] - begin);
}

absl::StatusOr<std::string> Tokenizer::RunNormalizer(std::string_view text) const {
  std::string out(text);
  for (const Normalizer& step : normalizer_) {
    switch (step.spec.kind) {
      case NormalizerStep::Kind::kNfc:
        out = Normalize(out, NormalForm::kNfc);
        break;
      case NormalizerStep::Kind::kNfd:
        out = Normalize(out, NormalForm::kNfd);
        break;
      case NormalizerStep::Kind::kNfkc:
        out = Normalize(out, NormalForm::kNfkc);
        break;
      case NormalizerStep::Kind::kNfkd:
        out = Normalize(out, NormalForm::kNfkd);
        break;
      case NormalizerStep::Kind::kPrepend:
        if (!out.empty()) out.insert(0, step.spec.content);
        break;
      case NormalizerStep::Kind::kReplace: {
        ASSIGN_OR_RETURN(out, ReplaceMatches(step.regex[0], out, step.spec.content));
        break;
      }
      case NormalizerStep::Kind::kStrip:
        out = StripSpaces(out, step.spec.strip_left, step.spec.strip_right);
        break;
    }
  }
  return out;
}

absl::Status Tokenizer::EncodePlain(std::string_view text, bool at_start, bool parse_special,
                                    std::vector<int32_t>* ids) const {
  std::string normalized;
  if (!normalizer_.empty()) {
    ASSIGN_OR_RETURN(normalized, RunNormalizer(text));
    text = normalized;
  }
  const auto encode_word = [&](std::string_view word) { return bpe_.EncodeWord(word, ids); };
  if (!parse_special || normalized_added_.empty()) return pre_tokenizer_.Run(text, at_start, encode_word);
  return normalized_added_.ForEachPart(text, [&](std::string_view part, int32_t id) -> absl::Status {
    if (id < 0) return pre_tokenizer_.Run(part, at_start && part.data() == text.data(), encode_word);
    ids->push_back(id);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kTextBytesMax) {
    return absl::InvalidArgumentError(
        StrCat("the text has ", text.size(), " bytes; at most ", kTextBytesMax, " can be encoded at once"));
  }
  if (const size_t bad = FindInvalidUtf8(text); bad != std::string_view::npos) {
    return absl::InvalidArgumentError(StrCat("the text is not valid UTF-8 at byte ", bad));
  }
  std::vector<int32_t> ids;
  if (options.add_special_tokens) ids = prefix_ids_;
  if (options.parse_special && !raw_added_.empty()) {
    RETURN_IF_ERROR(raw_added_.ForEachPart(text, [&](std::string_view part, int32_t id) -> absl::Status {
      if (id < 0) return EncodePlain(part, part.data() == text.data(), true, &ids);
      ids.push_back(id);
      return absl::OkStatus();
    }));
  } else {
    RETURN_IF_ERROR(EncodePlain(text, true, options.parse_special, &ids));
  }
  if (options.add_special_tokens) ids.insert(ids.end(), suffix_ids_.begin(), suffix_ids_.end());
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens,
                                              size_t bytes_max) const {
  IncrementalDecoder decoder(this, skip_special_tokens);
  std::string text;
  const auto append = [&](const std::string& piece) -> absl::Status {
    text += piece;
    if (text.size() <= bytes_max) return absl::OkStatus();
    return absl::InvalidArgumentError(
        StrCat("the text of the ", ids.size(), " tokens has more than ", bytes_max, " bytes; give fewer tokens"));
  };
  for (const int32_t id : ids) {
    ASSIGN_OR_RETURN(const std::string piece, decoder.Push(id));
    RETURN_IF_ERROR(append(piece));
  }
  RETURN_IF_ERROR(append(decoder.Finish()));
  return text;
}

}  // namespace shoal
