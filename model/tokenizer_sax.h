// Parses tokenizer.json in one pass: the vocabulary and the merges, which are 95 % of it, go straight into a
// TokenizerSpec, the rest into a small JSON tree.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "model/tokenizer_spec.h"

namespace shoal {

struct TokenizerJson {
  Json rest;           // The file without model.vocab and model.merges.
  TokenizerSpec spec;  // Has only `where`, `tokens` and `merges`.
  bool has_vocab = false;
};

// Errors: kInvalidArgument, starting with `where`: not JSON, keys twice, nesting deeper than 64, more than 2 million
// values outside of the vocabulary, ids that are no integers in 0..kTokenIdMax or used twice, merges that are not two
// tokens.
absl::StatusOr<TokenizerJson> ParseTokenizerJsonText(std::string_view text, std::string_view where);

}  // namespace shoal
