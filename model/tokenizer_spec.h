// A tokenizer in memory, whatever file it came from: Tokenizer::Create checks it and builds the working form.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace shoal {

// Bounds on what a file may ask for. The largest real vocabularies have about 300,000 tokens.
inline constexpr int32_t kTokenIdMax = (1 << 20) - 1;
inline constexpr size_t kTokenBytesMax = 1 << 16;

// A token matched in the text before the model sees it. Names and meaning: Hugging Face `AddedToken`.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // A control token: dropped by Decode(skip_special_tokens).
  bool single_word = false;  // Only matched between non-word characters.
  bool lstrip = false;       // Also takes the white space before it.
  bool rstrip = false;       // Also takes the white space after it.
  bool normalized = false;   // Matched in the normalized text instead of the raw one.
};

struct NormalizerStep {
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kPrepend, kReplace, kStrip };
  Kind kind = Kind::kNfc;
  std::string pattern;      // kReplace.
  bool is_regex = false;    // kReplace: `pattern` is an expression, else literal text.
  std::string content;      // kPrepend and kReplace.
  bool strip_left = true;   // kStrip.
  bool strip_right = true;  // kStrip.
};

// What becomes of the text that a Split matches. Source: Hugging Face `SplitDelimiterBehavior`.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct PreTokenizerStep {
  enum class Kind { kSplit, kByteLevel, kMetaspace };
  enum class Prepend { kAlways, kFirst, kNever };
  Kind kind = Kind::kSplit;
  // kSplit.
  std::string pattern;
  bool is_regex = true;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
  // kByteLevel, which must be the last step. A split by the GPT-2 expression is a kSplit of its own after `prefix`.
  bool add_prefix_space = false;
  bool use_regex = false;
  // kMetaspace.
  std::string replacement;
  Prepend prepend = Prepend::kAlways;
  bool split = true;
};

// How token strings become bytes of text.
struct DecoderSpec {
  bool byte_level = false;     // Characters of the GPT-2 byte alphabet stand for bytes.
  bool byte_fallback = false;  // "<0x0A>" is one byte.
  std::vector<std::pair<std::string, std::string>> replacements;  // In order, in every token.
  // Spaces dropped from the front of the whole text, at most.
  int strip_leading_spaces = 0;
  // Hugging Face `Metaspace`: the first token loses every occurrence of this text; empty: off.
  std::string first_token_drops;
};

struct TokenizerSpec {
  enum class MergeKind { kRanked, kScored };

  std::string where = "tokenizer";  // Starts every error message; a path.
  std::vector<std::string> tokens;  // By id. Empty: no token has this id.
  MergeKind merge_kind = MergeKind::kRanked;
  std::vector<std::pair<std::string, std::string>> merges;  // kRanked: the earlier, the sooner merged.
  std::vector<float> scores;  // kScored: by id; of two possible merges the higher score goes first.
  std::vector<AddedToken> added_tokens;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  DecoderSpec decoder;
  bool byte_fallback = false;  // Characters without a token become "<0xHH>" tokens.
  bool fuse_unk = false;       // A run of unknown characters is one unk token.
  bool ignore_merges = false;  // A word that is a token needs no merging.
  std::optional<std::string> unk_token;
  // Added by EncodeOptions::add_special_tokens.
  std::vector<int32_t> prefix_ids;
  std::vector<int32_t> suffix_ids;
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  std::optional<int32_t> pad_id;
};

}  // namespace shoal
