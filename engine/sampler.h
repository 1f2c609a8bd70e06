// From one row of logits to one token. Pure functions: the same inputs give the same token, in any batch.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/executor.h"
#include "parallel/activation_layout.h"

namespace shoal {

// What the penalties look at. Kept up only for requests with UsesPenalties().
struct TokenHistory {
  std::vector<int32_t> prompt_ids;                 // Sorted, each once.
  std::unordered_map<int32_t, int> output_counts;  // Times each id stands in the output.
};

// Repetition, presence or frequency penalty set.
bool UsesPenalties(const SamplingParams& params);

// Candidates the row of a token needs: the k best, or 0 for all logits.
//   bans_ids: Sample() will get a non-empty `banned_ids`.
int CandidatesNeeded(const SamplingParams& params, bool bans_ids);

struct SampleInput {
  const SamplingParams& params;
  const TokenHistory& history;
  std::span<const int32_t> banned_ids;  // Probability 0: stop ids before min_tokens.
  uint32_t position = 0;                // Of the token in the output; keys the draw.
};

struct SampledToken {
  int32_t id = -1;
  std::vector<TokenLogprob> logprobs;  // As in TokenEvent; of the distribution before penalties and temperature.
};

// Order as in vLLM: bans, logit_bias, repetition, frequency and presence penalty; the best token if temperature is 0
// (ties to the lowest id); else temperature, min_p, top_k, top_p, and the inverse of the cumulative distribution at one
// uniform draw. The distribution is in order of (probability descending, id ascending) with a top_k or a top_p below 1,
// else in order of id. The token is the same whether `row` holds CandidatesNeeded() or more candidates, or all logits.
// Errors: kInternal if a logit is NaN or +inf, none is finite, or the row does not fit the vocabulary; kInvalidArgument
// if all ids are banned.
absl::StatusOr<SampledToken> Sample(const StepOutput::Row& row, int64_t vocab_size, const SampleInput& input);

}  // namespace shoal
