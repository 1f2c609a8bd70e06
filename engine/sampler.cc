#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/philox.h"

namespace shoal {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Candidate {
  float logit;
  int32_t id;
};

bool Better(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

// Candidates in order, sorted only as far as they are looked at: a draw seldom goes deep into a large vocabulary.
class SortedCandidates {
 public:
  explicit SortedCandidates(std::vector<Candidate>& all) : all_(all) {}

  const Candidate& At(size_t i) {
    while (i >= sorted_) SortTo(std::min(all_.size(), std::max<size_t>(kCandidatesMax, 4 * sorted_)));
    return all_[i];
  }

  // Drops all but the `count` best.
  void KeepBest(size_t count) {
    SortTo(count);
    all_.resize(count);
  }

 private:
  void SortTo(size_t count) {
    if (count <= sorted_) return;
    std::partial_sort(all_.begin() + sorted_, all_.begin() + count, all_.end(), Better);
    sorted_ = count;
  }

  std::vector<Candidate>& all_;
  size_t sorted_ = 0;
};

absl::Status CheckRow(const StepOutput::Row& row, int64_t vocab_size) {
  const size_t wanted = row.ids.empty() ? static_cast<size_t>(vocab_size) : row.ids.size();
  if (row.logits.size() != wanted || wanted == 0) {
    return absl::InternalError(absl::StrCat("a row of ", row.logits.size(), " logits and ", row.ids.size(),
                                            " ids for a vocabulary of ", vocab_size));
  }
  for (const int32_t id : row.ids) {
    if (id < 0 || id >= vocab_size) {
      return absl::InternalError(absl::StrCat("candidate ", id, " is outside the vocabulary of ", vocab_size));
    }
  }
  for (size_t i = 0; i < row.logits.size(); ++i) {
    if (std::isnan(row.logits[i]) || row.logits[i] == std::numeric_limits<float>::infinity()) {
      return absl::InternalError(absl::StrCat("the model gave the logit ", row.logits[i], " to token ",
                                              row.ids.empty() ? static_cast<int32_t>(i) : row.ids[i]));
    }
  }
  return absl::OkStatus();
}

bool Adjusts(const SamplingParams& params, bool bans_ids) {
  return bans_ids || !params.logit_bias.empty() || UsesPenalties(params);
}

// Bans, bias and penalties on a whole row of logits, by id.
void AdjustLogits(const SampleInput& input, std::vector<Candidate>& all) {
  const SamplingParams& params = input.params;
  for (const int32_t id : input.banned_ids) all[id].logit = kNever;
  for (const auto& [id, bias] : params.logit_bias) all[id].logit += bias;
  if (!UsesPenalties(params)) return;
  const auto repeat = [&](int32_t id) {
    float& logit = all[id].logit;
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    logit = std::min(logit, std::numeric_limits<float>::max());  // A tiny penalty must not make an infinity.
  };
  for (const int32_t id : input.history.prompt_ids) {
    if (!input.history.output_counts.contains(id)) repeat(id);
  }
  for (const auto& [id, count] : input.history.output_counts) {
    repeat(id);
    all[id].logit -= params.frequency_penalty * static_cast<float>(count);
    all[id].logit -= params.presence_penalty;
  }
}

int32_t Draw(const SampleInput& input, float best, std::vector<Candidate>& all) {
  const SamplingParams& params = input.params;
  const auto weight = [&](const Candidate& c) {
    const double w = std::exp((static_cast<double>(c.logit) - best) / params.temperature);
    return w >= params.min_p ? w : 0.0;
  };
  SortedCandidates sorted(all);
  // Sums go in the order of the candidates: sorted with a top_k, so that a row of candidates and a row of all logits
  // give the same bits; else by id, which saves sorting the vocabulary.
  if (params.top_k > 0) sorted.KeepBest(std::min<size_t>(params.top_k, all.size()));
  double total = 0;
  for (const Candidate& c : all) total += weight(c);

  double kept = total;
  size_t kept_count = all.size();
  if (params.top_p < 1) {
    kept = 0;
    kept_count = 0;
    while (kept_count < all.size() && kept < params.top_p * total) kept += weight(sorted.At(kept_count++));
  }
  const double target = UniformDraw(input.params.seed, input.position, 0) * kept;
  double reached = 0;
  int32_t id = sorted.At(0).id;
  for (size_t i = 0; i < kept_count && reached <= target; ++i) {
    const double w = weight(sorted.At(i));
    if (w == 0) break;  // Rounding ended the sum below the target.
    reached += w;
    id = all[i].id;
  }
  return id;
}

// Log probabilities of `chosen` and of the `count` best tokens, over a whole row.
std::vector<TokenLogprob> Logprobs(const std::vector<float>& logits, int32_t chosen, int count) {
  const double best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - best);
  const double log_sum = best + std::log(sum);
  const auto logprob = [&](int32_t id) { return TokenLogprob{id, static_cast<float>(logits[id] - log_sum)}; };

  std::vector<TokenLogprob> result = {logprob(chosen)};
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const size_t n = std::min<size_t>(count, order.size());
  std::partial_sort(order.begin(), order.begin() + n, order.end(), [&](int32_t a, int32_t b) {
    return Better({logits[a], a}, {logits[b], b});
  });
  for (size_t i = 0; i < n; ++i) result.push_back(logprob(order[i]));
  return result;
}

}  // namespace

bool UsesPenalties(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0;
}

int CandidatesNeeded(const SamplingParams& params, bool bans_ids) {
  if (Adjusts(params, bans_ids) || params.top_logprobs >= 0) return 0;
  if (params.temperature == 0) return 1;
  return params.top_k > 0 && params.top_k <= kCandidatesMax ? params.top_k : 0;
}

absl::StatusOr<SampledToken> Sample(const StepOutput::Row& row, int64_t vocab_size, const SampleInput& input) {
  RETURN_IF_ERROR(CheckRow(row, vocab_size));
  const bool bans_ids = !input.banned_ids.empty();
  const size_t needed = CandidatesNeeded(input.params, bans_ids);
  if (!row.ids.empty() && (needed == 0 || row.ids.size() < std::min<size_t>(needed, vocab_size))) {
    return absl::InternalError(absl::StrCat("a row of ", row.ids.size(), " candidates, needs ",
                                            needed == 0 ? vocab_size : static_cast<int64_t>(needed)));
  }
  std::vector<Candidate> all(row.logits.size());
  for (size_t i = 0; i < all.size(); ++i) {
    all[i] = {row.logits[i], row.ids.empty() ? static_cast<int32_t>(i) : row.ids[i]};
  }
  if (Adjusts(input.params, bans_ids)) AdjustLogits(input, all);

  const Candidate best = *std::min_element(all.begin(), all.end(), Better);
  if (best.logit == kNever) {
    // Top-k takes NaN for -infinity, so a row of NaN comes here too.
    if (!bans_ids) return absl::InternalError("the model gave no token a finite logit");
    return absl::InvalidArgumentError("no token is allowed here: min_tokens bans every stop id; name fewer stop_ids");
  }
  SampledToken token;
  token.id = input.params.temperature == 0 ? best.id : Draw(input, best.logit, all);
  if (input.params.top_logprobs >= 0) token.logprobs = Logprobs(row.logits, token.id, input.params.top_logprobs);
  return token;
}

}  // namespace shoal
