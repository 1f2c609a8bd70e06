#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/philox.h"

namespace shoal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNever = -kInfinity;

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
    while (i >= sorted_) SortTo(std::min(all_.size(), std::max<size_t>(kCandidatesMax, 8 * sorted_)));
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
    const auto begin = all_.begin() + static_cast<ptrdiff_t>(sorted_);
    const auto end = all_.begin() + static_cast<ptrdiff_t>(count);
    if (end != all_.end()) std::nth_element(begin, end, all_.end(), Better);
    std::sort(begin, end, Better);
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
  const auto broken = std::find_if(row.logits.begin(), row.logits.end(), [](float x) { return !(x < kInfinity); });
  if (broken == row.logits.end()) return absl::OkStatus();
  const auto i = broken - row.logits.begin();
  return absl::InternalError(absl::StrCat("the model gave the logit ", *broken, " to token ",
                                          row.ids.empty() ? static_cast<int32_t>(i) : row.ids[i]));
}

// exp(x) for x <= 0 within 1e-11 of itself, and 0 below -700: the same bits everywhere, and in loops that compilers
// turn into vector code. 2^f by its Taylor series, |f| <= 1/2.
inline double ExpNonPositive(double x) {
  constexpr double kLog2E = 0x1.71547652b82fep0, kLn2 = 0x1.62e42fefa39efp-1;
  constexpr double kRound = 0x1.8p52;  // Adding it rounds to an integer, which the low bits then hold.
  const double y = std::max(x, -701.0) * kLog2E;
  const double shifted = y + kRound;
  const double f = (y - (shifted - kRound)) * kLn2;
  double p = 1.0 / 362880;
  for (const double c : {1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0}) {
    p = p * f + c;
  }
  const double power = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);  // 2^round(y)
  return x < -700.0 ? 0.0 : p * power;
}

// The sum of `weight(i)` for i in [0, n), in this order; blocks of weights are computed before they are added up.
template <typename Weight>
double OrderedSum(size_t n, Weight weight) {
  constexpr size_t kBlock = 256;
  double block[kBlock];
  double total = 0;
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t count = std::min(kBlock, n - begin);
    for (size_t i = 0; i < count; ++i) block[i] = weight(begin + i);
    for (size_t i = 0; i < count; ++i) total += block[i];
  }
  return total;
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
  const double sharpness = 1.0 / params.temperature;
  const double min_p = params.min_p;
  const auto weight = [&](size_t i) {
    const double w = ExpNonPositive((static_cast<double>(all[i].logit) - best) * sharpness);
    return w >= min_p ? w : 0.0;
  };
  SortedCandidates sorted(all);
  // In order of probability with a top_k, so that a row of candidates and a row of all logits give the same bits; else
  // by id, which saves sorting the vocabulary.
  if (params.top_k > 0) sorted.KeepBest(std::min<size_t>(params.top_k, all.size()));
  double kept = OrderedSum(all.size(), weight);
  size_t kept_count = all.size();
  if (params.top_p < 1) {
    const double wanted = params.top_p * kept;
    kept = 0;
    for (kept_count = 0; kept_count < all.size() && kept < wanted; ++kept_count) {
      sorted.At(kept_count);
      kept += weight(kept_count);
    }
  }
  const double target = UniformDraw(params.seed, input.position, 0) * kept;
  double reached = 0;
  int32_t id = -1;
  for (size_t i = 0; i < kept_count && reached <= target; ++i) {
    const double w = weight(i);
    if (w == 0) continue;  // Rounding may end the sum below the target: then it is the last one that counts.
    reached += w;
    id = all[i].id;
  }
  return id;
}

// Log probabilities of `chosen` and of the `count` best tokens, over a whole row.
std::vector<TokenLogprob> Logprobs(const std::vector<float>& logits, int32_t chosen, int count) {
  const double best = *std::max_element(logits.begin(), logits.end());
  const double sum = OrderedSum(logits.size(), [&](size_t i) { return ExpNonPositive(logits[i] - best); });
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

  Candidate best = all[0];
  for (const Candidate& c : all) {
    if (Better(c, best)) best = c;
  }
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
