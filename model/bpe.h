// Byte-pair encoding of one word: by ranked merges (GPT-2, Llama 3, Qwen) or by token scores (SentencePiece).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tokenizer_spec.h"

namespace shoal {

// Token strings by id, and back.
class Vocabulary {
 public:
  // Errors: kInvalidArgument for two ids with the same string or a token longer than kTokenBytesMax.
  static absl::StatusOr<std::unique_ptr<Vocabulary>> Create(std::vector<std::string> tokens);
  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  const std::string& token(int32_t id) const { return tokens_[static_cast<size_t>(id)]; }
  std::optional<int32_t> Find(std::string_view token) const;

 private:
  std::vector<std::string> tokens_;  // Never changed once `ids_` points into it.
  absl::flat_hash_map<std::string_view, int32_t> ids_;
};

class BpeModel {
 public:
  // `vocabulary` must outlive the model. `byte_level`: words are bytes in the GPT-2 alphabet.
  // Errors: kInvalidArgument for merges of unknown tokens, missing scores, an unk token outside of the vocabulary.
  static absl::StatusOr<BpeModel> Create(const TokenizerSpec& spec, const Vocabulary& vocabulary, bool byte_level);

  // Appends the ids of `word`, which is not empty and, unless byte_level, valid UTF-8. n log n in its length.
  // Errors: kInvalidArgument if a character has no token and there is neither byte fallback nor an unk token.
  absl::Status EncodeWord(std::string_view word, std::vector<int32_t>* ids) const;

 private:
  struct Merge {
    float priority;  // Lower goes first: the rank, or minus the score.
    int32_t id;
  };
  // A stretch of the word: one character at first, then what was merged. id < 0: has no token.
  struct Symbol {
    int32_t id;
    uint32_t begin;
    uint32_t length;
  };

  explicit BpeModel(const Vocabulary& vocabulary) : vocabulary_(&vocabulary) {}
  absl::Status AddMerges(const TokenizerSpec& spec);
  absl::Status AddScores(const TokenizerSpec& spec);
  absl::Status AddByteTokens(const TokenizerSpec& spec);
  absl::Status SplitWord(std::string_view word, std::vector<Symbol>* symbols) const;
  absl::Status AddUnknown(std::string_view character, uint32_t begin, std::vector<Symbol>* symbols) const;
  std::optional<Merge> FindMerge(std::string_view word, const Symbol& left, const Symbol& right) const;
  void MergeShort(std::string_view word, std::vector<Symbol>* symbols) const;
  void MergeLong(std::string_view word, std::vector<Symbol>* symbols) const;
  absl::Status Emit(std::string_view word, const Symbol& symbol, std::vector<int32_t>* ids) const;

  const Vocabulary* vocabulary_;
  TokenizerSpec::MergeKind kind_ = TokenizerSpec::MergeKind::kRanked;
  bool byte_level_ = false;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  std::optional<int32_t> unk_id_;
  std::array<int32_t, 256> byte_ids_;            // byte_level: of the byte's character; else of "<0xHH>". -1: none.
  absl::flat_hash_map<uint64_t, Merge> merges_;  // kRanked: by (left id << 32 | right id).
  absl::flat_hash_map<std::string_view, Merge> scored_tokens_;  // kScored: the tokens that merging may make.
  absl::flat_hash_map<std::string, int32_t> words_;             // ignore_merges and byte_level: tokens by their bytes.
};

// The byte of a "<0xHH>" token, or -1.
int ByteOfFallbackToken(std::string_view token);

// The bytes that `token` stands for in the GPT-2 alphabet, or nullopt if a character is not in it.
std::optional<std::string> ByteLevelBytes(std::string_view token);

}  // namespace shoal
