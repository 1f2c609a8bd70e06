// Finds added tokens in text: leftmost first, then longest. Source: Hugging Face tokenizers, `AddedVocabulary`.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "model/tokenizer_spec.h"

namespace shoal {

// Where a text has an added token.
struct AddedTokenMatch {
  size_t length = 0;  // In bytes.
  int32_t id = -1;    // -1: there is none.
};

class AddedTokenMatcher {
 public:
  // Adds a token to be found as `content`, which is not empty. All tokens are added before the first ForEachPart.
  void Add(std::string_view content, const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  // The longest token that begins at `begin`.
  AddedTokenMatch FindAt(std::string_view text, size_t begin) const;

  // Calls `on_part` for the added tokens (id >= 0) and the texts between them (id < 0, never empty), in order. White
  // space that a token strips belongs to its part. Stops at the first error.
  absl::Status ForEachPart(std::string_view text,
                           absl::FunctionRef<absl::Status(std::string_view part, int32_t id)> on_part) const;

 private:
  struct Match {
    size_t length = 0;
    int32_t token = -1;  // Index into tokens_.
  };
  Match LongestAt(std::string_view text, size_t begin) const;

  std::vector<AddedToken> tokens_;
  std::array<bool, 256> first_bytes_{};
  std::vector<int32_t> node_token_{-1};                 // By trie node; node 0 is the root.
  absl::flat_hash_map<uint64_t, uint32_t> trie_edges_;  // (node << 8 | byte) -> node.
};

}  // namespace shoal
