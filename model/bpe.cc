#include "model/bpe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"
#include "model/unicode.h"

namespace shoal {
namespace {

// Up to here a scan over all pairs for every merge beats the heap.
constexpr size_t kShortWordSymbols = 64;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Vocabulary>> Vocabulary::Create(std::vector<std::string> tokens) {
  auto vocabulary = std::make_unique<Vocabulary>();
  vocabulary->tokens_ = std::move(tokens);
  vocabulary->ids_.reserve(vocabulary->tokens_.size());
  for (size_t id = 0; id < vocabulary->tokens_.size(); ++id) {
    const std::string& token = vocabulary->tokens_[id];
    if (token.empty()) continue;
    if (token.size() > kTokenBytesMax) {
      return absl::InvalidArgumentError(
          StrCat("token ", id, " has ", token.size(), " bytes; at most ", kTokenBytesMax, " are allowed"));
    }
    const auto [it, inserted] = vocabulary->ids_.emplace(token, static_cast<int32_t>(id));
    if (!inserted) {
      return absl::InvalidArgumentError(
          StrCat("token '", token.substr(0, 64), "' has two ids, ", it->second, " and ", id));
    }
  }
  return vocabulary;
}

std::optional<int32_t> Vocabulary::Find(std::string_view token) const {
  const auto it = ids_.find(token);
  return it == ids_.end() ? std::nullopt : std::optional<int32_t>(it->second);
}

int ByteOfFallbackToken(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'))) return -1;
    value = value * 16 + (c <= '9' ? c - '0' : c - 'A' + 10);
  }
  return value;
}

std::optional<std::string> ByteLevelBytes(std::string_view token) {
  if (!IsValidUtf8(token)) return std::nullopt;
  std::string bytes;
  for (size_t pos = 0; pos < token.size();) {
    const int byte = CodePointToByte(DecodeUtf8(token, &pos));
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

absl::StatusOr<BpeModel> BpeModel::Create(const TokenizerSpec& spec, const Vocabulary& vocabulary, bool byte_level) {
  BpeModel model(vocabulary);
  model.kind_ = spec.merge_kind;
  model.byte_level_ = byte_level;
  model.fuse_unk_ = spec.fuse_unk;
  model.byte_fallback_ = spec.byte_fallback;
  model.ignore_merges_ = spec.ignore_merges;
  if (spec.unk_token.has_value()) {
    model.unk_id_ = vocabulary.Find(*spec.unk_token);
    if (!model.unk_id_.has_value()) {
      return absl::InvalidArgumentError(
          StrCat("model.unk_token '", spec.unk_token->substr(0, 64), "' is not in the vocabulary"));
    }
  }
  if (byte_level && spec.merge_kind == TokenizerSpec::MergeKind::kScored) {
    return absl::InvalidArgumentError("scored merges cannot be combined with a byte-level pre-tokenizer");
  }
  RETURN_IF_ERROR(model.AddByteTokens(spec));
  RETURN_IF_ERROR(spec.merge_kind == TokenizerSpec::MergeKind::kRanked ? model.AddMerges(spec) : model.AddScores(spec));
  if (byte_level && spec.ignore_merges) {
    for (int32_t id = 0; id < vocabulary.size(); ++id) {
      std::optional<std::string> bytes = ByteLevelBytes(vocabulary.token(id));
      if (bytes.has_value() && !bytes->empty()) model.words_.emplace(*std::move(bytes), id);
    }
  }
  return model;
}

absl::Status BpeModel::AddByteTokens(const TokenizerSpec& spec) {
  for (int b = 0; b < 256; ++b) {
    std::string token;
    if (byte_level_) {
      AppendUtf8(ByteToCodePoint(static_cast<uint8_t>(b)), &token);
    } else {
      token = absl::StrFormat("<0x%02X>", b);
    }
    byte_ids_[static_cast<size_t>(b)] = vocabulary_->Find(token).value_or(-1);
    if (spec.byte_fallback && !byte_level_ && byte_ids_[static_cast<size_t>(b)] < 0) {
      return absl::InvalidArgumentError(StrCat("model.byte_fallback is set but the vocabulary lacks '", token, "'"));
    }
  }
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerges(const TokenizerSpec& spec) {
  // Ranks are kept as floats, exact up to 2^24.
  constexpr size_t kMergesMax = size_t{1} << 22;
  if (spec.merges.size() > kMergesMax) {
    return absl::InvalidArgumentError(StrCat("model.merges has more than ", kMergesMax, " entries"));
  }
  merges_.reserve(spec.merges.size());
  std::string joined;
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    joined.assign(left).append(right);
    const std::string* missing = nullptr;
    std::optional<int32_t> ids[3];
    const std::string* names[3] = {&left, &right, &joined};
    for (int i = 2; i >= 0; --i) {
      ids[i] = vocabulary_->Find(*names[i]);
      if (!ids[i].has_value()) missing = names[i];
    }
    if (missing != nullptr) {
      return absl::InvalidArgumentError(
          StrCat("model.merges[", rank, "]: token '", missing->substr(0, 64), "' is not in the vocabulary"));
    }
    merges_.insert_or_assign(PairKey(*ids[0], *ids[1]), Merge{static_cast<float>(rank), *ids[2]});
  }
  return absl::OkStatus();
}

absl::Status BpeModel::AddScores(const TokenizerSpec& spec) {
  if (spec.scores.size() != spec.tokens.size()) {
    return absl::InvalidArgumentError(
        StrCat("there are ", spec.scores.size(), " scores for ", spec.tokens.size(), " tokens"));
  }
  // Control tokens and byte tokens must not come out of merging text that looks like them.
  absl::flat_hash_set<int32_t> excluded;
  for (const AddedToken& added : spec.added_tokens) {
    if (added.special) excluded.insert(added.id);
  }
  for (int32_t id = 0; id < static_cast<int32_t>(spec.scores.size()); ++id) {
    const std::string& token = vocabulary_->token(id);
    const float score = spec.scores[static_cast<size_t>(id)];
    if (!std::isfinite(score)) return absl::InvalidArgumentError(StrCat("the score of token ", id, " is not finite"));
    if (token.empty() || excluded.contains(id) || ByteOfFallbackToken(token) >= 0) continue;
    scored_tokens_.emplace(token, Merge{-score, id});
  }
  return absl::OkStatus();
}

std::optional<BpeModel::Merge> BpeModel::FindMerge(std::string_view word, const Symbol& left,
                                                   const Symbol& right) const {
  if (kind_ == TokenizerSpec::MergeKind::kScored) {
    const auto it = scored_tokens_.find(word.substr(left.begin, left.length + right.length));
    return it == scored_tokens_.end() ? std::nullopt : std::optional<Merge>(it->second);
  }
  if (left.id < 0 || right.id < 0) return std::nullopt;
  const auto it = merges_.find(PairKey(left.id, right.id));
  return it == merges_.end() ? std::nullopt : std::optional<Merge>(it->second);
}

absl::Status BpeModel::AddUnknown(std::string_view character, uint32_t begin, std::vector<Symbol>* symbols) const {
  const auto length = static_cast<uint32_t>(character.size());
  if (kind_ == TokenizerSpec::MergeKind::kScored) {  // Resolved by Emit: it may still be merged.
    symbols->push_back({-1, begin, length});
    return absl::OkStatus();
  }
  if (byte_fallback_ && !byte_level_) {
    for (uint32_t i = 0; i < length; ++i) {
      symbols->push_back({byte_ids_[static_cast<unsigned char>(character[i])], begin + i, 1});
    }
    return absl::OkStatus();
  }
  if (!unk_id_.has_value()) {
    return absl::InvalidArgumentError(
        StrCat("the text has '",
               byte_level_ ? absl::StrFormat("\\x%02X", static_cast<unsigned char>(character[0])) : character,
               "', for which the vocabulary has no token"));
  }
  if (fuse_unk_ && !symbols->empty() && symbols->back().id == *unk_id_) {
    symbols->back().length += length;
  } else {
    symbols->push_back({*unk_id_, begin, length});
  }
  return absl::OkStatus();
}

absl::Status BpeModel::SplitWord(std::string_view word, std::vector<Symbol>* symbols) const {
  symbols->reserve(word.size());
  for (size_t pos = 0; pos < word.size();) {
    const size_t begin = pos;
    std::optional<int32_t> id;
    if (byte_level_) {
      const int32_t byte_id = byte_ids_[static_cast<unsigned char>(word[pos++])];
      if (byte_id >= 0) id = byte_id;
    } else {
      DecodeUtf8(word, &pos);
      const std::string_view character = word.substr(begin, pos - begin);
      if (kind_ == TokenizerSpec::MergeKind::kScored) {
        const auto it = scored_tokens_.find(character);
        if (it != scored_tokens_.end()) id = it->second.id;
      } else {
        id = vocabulary_->Find(character);
      }
    }
    if (id.has_value()) {
      symbols->push_back({*id, static_cast<uint32_t>(begin), static_cast<uint32_t>(pos - begin)});
    } else {
      RETURN_IF_ERROR(AddUnknown(word.substr(begin, pos - begin), static_cast<uint32_t>(begin), symbols));
    }
  }
  return absl::OkStatus();
}

void BpeModel::MergeShort(std::string_view word, std::vector<Symbol>* symbols) const {
  constexpr float kNever = std::numeric_limits<float>::infinity();
  std::array<Merge, kShortWordSymbols> merges;  // merges[i]: of symbols i and i + 1.
  auto& s = *symbols;
  size_t count = s.size();
  const auto find = [&](size_t i) { return FindMerge(word, s[i], s[i + 1]).value_or(Merge{kNever, -1}); };
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = find(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (merges[i].priority < merges[best].priority) best = i;
    }
    if (merges[best].priority == kNever) break;
    s[best].id = merges[best].id;
    s[best].length += s[best + 1].length;
    --count;
    for (size_t i = best + 1; i < count; ++i) s[i] = s[i + 1];
    for (size_t i = best + 1; i + 1 < count; ++i) merges[i] = merges[i + 1];
    if (best + 1 < count) merges[best] = find(best);
    if (best > 0) merges[best - 1] = find(best - 1);
  }
  s.resize(count);
}

void BpeModel::MergeLong(std::string_view word, std::vector<Symbol>* symbols) const {
  constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  auto& s = *symbols;
  const auto count = static_cast<uint32_t>(s.size());
  std::vector<uint32_t> previous(count);
  std::vector<uint32_t> next(count);
  struct Candidate {
    Merge merge;
    uint32_t left;
    uint32_t length;  // Of both symbols: tells a stale candidate, since symbols only grow.
  };
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.merge.priority != b.merge.priority ? a.merge.priority > b.merge.priority : a.left > b.left;
  };
  std::priority_queue<Candidate, std::vector<Candidate>, decltype(later)> queue(later);
  const auto consider = [&](uint32_t left) {
    if (left == kNone || next[left] == kNone) return;
    const Symbol& right = s[next[left]];
    if (const auto merge = FindMerge(word, s[left], right)) queue.push({*merge, left, s[left].length + right.length});
  };
  for (uint32_t i = 0; i < count; ++i) {
    previous[i] = i == 0 ? kNone : i - 1;
    next[i] = i + 1 == count ? kNone : i + 1;
  }
  for (uint32_t i = 0; i < count; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = s[top.left];
    const uint32_t right = next[top.left];
    // Length 0 marks a symbol that its left neighbour has swallowed.
    if (left.length == 0 || right == kNone || left.length + s[right].length != top.length) continue;
    // Merges of one total length over the same text can still differ in where they divide it.
    const auto merge = FindMerge(word, left, s[right]);
    if (!merge.has_value() || merge->id != top.merge.id || merge->priority != top.merge.priority) continue;
    left.id = merge->id;
    left.length += s[right].length;
    s[right].length = 0;
    next[top.left] = next[right];
    if (next[right] != kNone) previous[next[right]] = top.left;
    consider(previous[top.left]);
    consider(top.left);
  }
  std::erase_if(s, [](const Symbol& symbol) { return symbol.length == 0; });
}

absl::Status BpeModel::Emit(std::string_view word, const Symbol& symbol, std::vector<int32_t>* ids) const {
  if (symbol.id >= 0) {
    ids->push_back(symbol.id);
    return absl::OkStatus();
  }
  const std::string_view text = word.substr(symbol.begin, symbol.length);
  if (byte_fallback_) {
    for (const char c : text) ids->push_back(byte_ids_[static_cast<unsigned char>(c)]);
    return absl::OkStatus();
  }
  if (!unk_id_.has_value()) {
    return absl::InvalidArgumentError(StrCat("the text has '", text, "', for which the vocabulary has no token"));
  }
  if (!fuse_unk_ || ids->empty() || ids->back() != *unk_id_) ids->push_back(*unk_id_);
  return absl::OkStatus();
}

absl::Status BpeModel::EncodeWord(std::string_view word, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (byte_level_) {
      if (const auto it = words_.find(ToAbsl(word)); it != words_.end()) {
        ids->push_back(it->second);
        return absl::OkStatus();
      }
    } else if (const auto id = vocabulary_->Find(word)) {
      ids->push_back(*id);
      return absl::OkStatus();
    }
  }
  std::vector<Symbol> symbols;
  RETURN_IF_ERROR(SplitWord(word, &symbols));
  if (symbols.size() <= kShortWordSymbols) {
    MergeShort(word, &symbols);
  } else {
    MergeLong(word, &symbols);
  }
  for (const Symbol& symbol : symbols) RETURN_IF_ERROR(Emit(word, symbol, ids));
  return absl::OkStatus();
}

}  // namespace shoal
