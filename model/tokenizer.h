// Text to token ids and back, for byte-level BPE (GPT-2, Qwen, DeepSeek, Llama 3) and BPE with byte fallback (Llama 2).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/bpe.h"
#include "model/pretokenizer.h"
#include "model/tokenizer_added.h"
#include "model/tokenizer_spec.h"

namespace shoal {

struct EncodeOptions {
  // Adds what the model expects around a text (BOS), as its files say.
  bool add_special_tokens = true;
  // Added tokens ("<|im_start|>") written in the text become their ids. False leaves them plain text, so that what a
  // user writes cannot pass for control tokens. Tokens that are not flagged special are left out too: real files flag
  // some control tokens as ordinary ones (DeepSeek's "<｜User｜>").
  bool parse_special = true;
};

// Immutable; all methods may be called from any thread.
class Tokenizer {
 public:
  // Encode refuses longer texts.
  static constexpr size_t kTextBytesMax = size_t{64} << 20;

  // Reads tokenizer.json and, if there, tokenizer_config.json of a Hugging Face folder; or the metadata of a GGUF file,
  // see model/tokenizer_gguf.h. Errors: kNotFound; kInvalidArgument or kUnimplemented with file and reason for what is
  // malformed or not supported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);

  // From a description in memory. Errors: kInvalidArgument starting with spec.where.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerSpec spec);

  // Errors: kInvalidArgument for invalid UTF-8 (with the byte offset), a text longer than kTextBytesMax or a character
  // the vocabulary cannot express; kResourceExhausted if the pre-tokenizer's expression exceeds its limits.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, const EncodeOptions& options = {}) const;

  // Valid UTF-8: each maximal ill-formed part of the tokens' bytes becomes U+FFFD.
  // Errors: kInvalidArgument for an id outside of the vocabulary or a text of more than `bytes_max`.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool skip_special_tokens,
                                     size_t bytes_max = kTextBytesMax) const;

  // One past the largest id. Some ids below may have no token; the model's embedding may have more rows.
  int32_t vocab_size() const { return vocabulary_->size(); }
  std::optional<int32_t> TokenToId(std::string_view token) const { return vocabulary_->Find(token); }
  // The token as its file writes it ("Ġthe"); empty for an id without token. Errors: kInvalidArgument if out of range.
  absl::StatusOr<std::string_view> IdToToken(int32_t id) const;
  std::optional<int32_t> bos_id() const { return bos_id_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }
  std::optional<int32_t> pad_id() const { return pad_id_; }
  // Ids of tokens flagged special, ascending.
  const std::vector<int32_t>& special_ids() const { return special_ids_; }
  bool IsSpecial(int32_t id) const;
  // Ids of all added tokens, ascending: what EncodeOptions::parse_special may make of a text. Control tokens are among
  // these even where a file does not flag them special.
  const std::vector<int32_t>& added_ids() const { return added_ids_; }

  // The longest added token that begins at byte `pos` of `text`, which lies within it. Whatever the flags of the token.
  AddedTokenMatch AddedTokenAt(std::string_view text, size_t pos) const { return all_added_.FindAt(text, pos); }

  // The bytes that `id` adds to the text, which need not be whole characters. Errors: kInvalidArgument if out of range.
  absl::StatusOr<std::string_view> TokenBytes(int32_t id) const;
  const DecoderSpec& decoder() const { return decoder_; }

 private:
  Tokenizer(std::unique_ptr<Vocabulary> vocabulary, PreTokenizer pre_tokenizer, BpeModel bpe);
  absl::Status Init(const TokenizerSpec& spec);
  absl::Status AddNormalizer(const TokenizerSpec& spec);
  absl::Status AddAddedTokens(const TokenizerSpec& spec);
  absl::Status CheckId(int32_t id) const;
  std::string DecodeBytes(const std::string& token) const;
  absl::StatusOr<std::string> RunNormalizer(std::string_view text) const;
  // Text that holds no added token found so far: normalize it, find the others, cut it into words, merge.
  absl::Status EncodePlain(std::string_view text, bool at_start, bool parse_special, std::vector<int32_t>* ids) const;

  struct Normalizer {
    NormalizerStep spec;
    std::vector<Regex> regex;  // kReplace: one.
  };

  std::unique_ptr<Vocabulary> vocabulary_;
  PreTokenizer pre_tokenizer_;
  BpeModel bpe_;
  std::vector<Normalizer> normalizer_;
  AddedTokenMatcher raw_added_;         // Looked for before normalization.
  AddedTokenMatcher normalized_added_;  // And after it.
  AddedTokenMatcher all_added_;         // As the files write them.
  DecoderSpec decoder_;
  std::string token_bytes_;            // Of all ids, one after the other.
  std::vector<uint32_t> token_begin_;  // [vocab_size + 1], offsets into token_bytes_.
  std::vector<bool> is_special_;
  std::vector<int32_t> special_ids_;
  std::vector<int32_t> added_ids_;
  std::vector<int32_t> prefix_ids_;
  std::vector<int32_t> suffix_ids_;
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
  std::optional<int32_t> pad_id_;
};

}  // namespace shoal
