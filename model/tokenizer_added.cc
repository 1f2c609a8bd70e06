#include "model/tokenizer_added.h"

#include "base/status_macros.h"
#include "base/utf8.h"
#include "model/unicode.h"

namespace shoal {
namespace {

// Start of the character that ends at `end` > 0.
size_t PreviousCharacter(std::string_view text, size_t end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

bool EndsWithWord(std::string_view text) {
  if (text.empty()) return false;
  size_t pos = PreviousCharacter(text, text.size());
  return IsUnicodeWord(DecodeUtf8(text, &pos));
}

bool StartsWithWord(std::string_view text) {
  size_t pos = 0;
  return !text.empty() && IsUnicodeWord(DecodeUtf8(text, &pos));
}

// Where the white space that ends at `end` begins, not before `limit`.
size_t SpacesBefore(std::string_view text, size_t limit, size_t end) {
  while (end > limit) {
    const size_t begin = PreviousCharacter(text, end);
    size_t pos = begin;
    if (begin < limit || !IsUnicodeWhitespace(DecodeUtf8(text, &pos))) break;
    end = begin;
  }
  return end;
}

size_t SpacesAfter(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    size_t pos = begin;
    if (!IsUnicodeWhitespace(DecodeUtf8(text, &pos))) break;
    begin = pos;
  }
  return begin;
}

}  // namespace

void AddedTokenMatcher::Add(std::string_view content, const AddedToken& token) {
  uint32_t node = 0;
  for (const char c : content) {
    const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(c);
    const auto [it, inserted] = trie_edges_.emplace(key, static_cast<uint32_t>(node_token_.size()));
    if (inserted) node_token_.push_back(-1);
    node = it->second;
  }
  // Of two tokens that look the same after normalization the first wins.
  if (node_token_[node] < 0) node_token_[node] = static_cast<int32_t>(tokens_.size());
  first_bytes_[static_cast<unsigned char>(content[0])] = true;
  tokens_.push_back(token);
}

AddedTokenMatcher::Match AddedTokenMatcher::LongestAt(std::string_view text, size_t begin) const {
  Match best;
  uint32_t node = 0;
  for (size_t i = begin; i < text.size(); ++i) {
    const auto it = trie_edges_.find(static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(text[i]));
    if (it == trie_edges_.end()) break;
    node = it->second;
    if (node_token_[node] >= 0) best = {i + 1 - begin, node_token_[node]};
  }
  return best;
}

AddedTokenMatch AddedTokenMatcher::FindAt(std::string_view text, size_t begin) const {
  if (!first_bytes_[static_cast<unsigned char>(text[begin])]) return {};
  const Match match = LongestAt(text, begin);
  if (match.token < 0) return {};
  return {match.length, tokens_[static_cast<size_t>(match.token)].id};
}

absl::Status AddedTokenMatcher::ForEachPart(std::string_view text,
                                            absl::FunctionRef<absl::Status(std::string_view, int32_t)> on_part) const {
  size_t done = 0;
  for (size_t pos = 0; pos < text.size();) {
    if (!first_bytes_[static_cast<unsigned char>(text[pos])]) {
      ++pos;
      continue;
    }
    const Match match = LongestAt(text, pos);
    if (match.token < 0) {
      ++pos;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(match.token)];
    size_t begin = pos;
    size_t end = pos + match.length;
    pos = end;  // Matches do not overlap, taken or not.
    if (token.single_word && (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) continue;
    if (token.lstrip) begin = SpacesBefore(text, done, begin);
    if (token.rstrip) end = SpacesAfter(text, end);
    if (begin > done) RETURN_IF_ERROR(on_part(text.substr(done, begin - done), -1));
    RETURN_IF_ERROR(on_part(text.substr(begin, end - begin), token.id));
    done = pos = end;
  }
  return done < text.size() ? on_part(text.substr(done), -1) : absl::OkStatus();
}

}  // namespace shoal
