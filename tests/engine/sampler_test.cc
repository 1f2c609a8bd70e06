#include "engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "engine/philox.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

StepOutput::Row AllLogits(std::vector<float> logits) { return {.logits = std::move(logits), .ids = {}}; }

// The k best of a row, as the last stage's ranks merge them.
StepOutput::Row Candidates(const std::vector<float>& logits, int k) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  ids.resize(std::min<size_t>(k, ids.size()));
  StepOutput::Row row;
  for (const int32_t id : ids) row.logits.push_back(logits[id]);
  row.ids = ids;
  return row;
}

int32_t SampleId(const std::vector<float>& logits, const SamplingParams& params, uint32_t position = 0,
                 const TokenHistory& history = {}, std::vector<int32_t> banned = {}) {
  const auto token = Sample(AllLogits(logits), static_cast<int64_t>(logits.size()),
                            {.params = params, .history = history, .banned_ids = banned, .position = position});
  EXPECT_TRUE(token.ok()) << token.status();
  return token.ok() ? token->id : -1;
}

// The definition, written out: probabilities by id after all filters.
std::vector<double> ReferenceProbabilities(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(logits.size());
  for (size_t i = 0; i < p.size(); ++i) p[i] = std::exp((double{logits[i]} - logits[order[0]]) / params.temperature);
  for (double& x : p) x = x >= params.min_p ? x : 0;
  if (params.top_k > 0) {
    for (size_t i = params.top_k; i < order.size(); ++i) p[order[i]] = 0;
  }
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  double reached = 0;
  for (const int32_t id : order) {
    if (params.top_p < 1 && reached >= params.top_p * total) p[id] = 0;
    reached += p[id];
  }
  const double kept = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= kept;
  return p;
}

std::vector<float> RandomLogits(std::mt19937& random, int size) {
  std::vector<float> logits(size);
  // Coarse steps bring ties.
  for (float& logit : logits) logit = static_cast<float>(static_cast<int>(random() % 64)) / 8.0f - 4.0f;
  return logits;
}

TEST(SamplerTest, GreedyTakesTheLowestIdOfTheBest) {
  SamplingParams greedy;
  greedy.temperature = 0;
  EXPECT_EQ(SampleId({1, 5, 2, 5}, greedy), 1);
  EXPECT_EQ(CandidatesNeeded(greedy, false), 1);
  EXPECT_EQ(CandidatesNeeded(greedy, true), 0);
  greedy.top_logprobs = 0;
  EXPECT_EQ(CandidatesNeeded(greedy, false), 0);
}

TEST(SamplerTest, CandidatesNeededFollowsTopK) {
  SamplingParams params;
  EXPECT_EQ(CandidatesNeeded(params, false), 0);
  params.top_k = -1;
  EXPECT_EQ(CandidatesNeeded(params, false), 0);
  params.top_k = 20;
  params.top_p = 0.9f;
  params.min_p = 0.1f;
  EXPECT_EQ(CandidatesNeeded(params, false), 20);
  params.top_k = kCandidatesMax + 1;
  EXPECT_EQ(CandidatesNeeded(params, false), 0);
  params.top_k = 20;
  params.logit_bias = {{1, 2.0f}};
  EXPECT_EQ(CandidatesNeeded(params, false), 0);
  params.logit_bias.clear();
  params.presence_penalty = 0.5f;
  EXPECT_EQ(CandidatesNeeded(params, false), 0);
}

// Draws follow the reference distribution, for each filter and for all of them.
TEST(SamplerTest, FrequenciesFollowTheFilteredDistribution) {
  const std::vector<float> logits = {0.0f, 2.0f, 1.0f, -1.0f, 2.0f, 0.5f, -3.0f, 1.5f};
  std::vector<SamplingParams> cases(6);
  cases[1].temperature = 0.5f;
  cases[2].top_k = 3;
  cases[3].top_p = 0.7f;
  cases[4].min_p = 0.3f;
  cases[5] = {.temperature = 1.7f, .top_p = 0.9f, .top_k = 6, .min_p = 0.1f, .seed = 0, .logit_bias = {}};
  for (size_t c = 0; c < cases.size(); ++c) {
    cases[c].seed = 1000 + c;
    const std::vector<double> p = ReferenceProbabilities(logits, cases[c]);
    constexpr int kDraws = 20000;
    std::vector<int> counts(logits.size());
    for (int i = 0; i < kDraws; ++i) ++counts[SampleId(logits, cases[c], i)];
    double chi_square = 0;
    for (size_t id = 0; id < p.size(); ++id) {
      if (p[id] == 0) {
        EXPECT_EQ(counts[id], 0) << "case " << c << " id " << id;
      } else {
        chi_square += std::pow(counts[id] - kDraws * p[id], 2) / (kDraws * p[id]);
      }
    }
    EXPECT_LT(chi_square, 24.3) << "case " << c;  // 7 degrees of freedom, p = 0.001.
  }
}

// One draw, done by hand with the generator's number: by id, or by probability where a filter has sorted.
TEST(SamplerTest, DrawInvertsTheCumulativeDistribution) {
  const std::vector<float> logits = {0.0f, std::log(3.0f), std::log(2.0f), std::log(2.0f)};  // 1 : 3 : 2 : 2
  SamplingParams by_id, by_probability;
  by_id.seed = by_probability.seed = 7;
  by_probability.top_k = 4;
  for (uint32_t position = 0; position < 200; ++position) {
    const double u = UniformDraw(7, position, 0) * 8;
    EXPECT_EQ(SampleId(logits, by_id, position), u < 1 ? 0 : u < 4 ? 1 : u < 6 ? 2 : 3) << position;
    EXPECT_EQ(SampleId(logits, by_probability, position), u < 3 ? 1 : u < 5 ? 2 : u < 7 ? 3 : 0) << position;
  }
}

// Far more candidates than one round of sorting looks at.
TEST(SamplerTest, TopPOfAFlatDistributionKeepsTheRightPart) {
  std::vector<float> logits(20000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 100) * 1e-3f;
  SamplingParams params;
  params.seed = 3;
  params.top_p = 0.5f;
  const std::vector<double> p = ReferenceProbabilities(logits, params);
  for (uint32_t position = 0; position < 300; ++position) {
    EXPECT_GT(p[SampleId(logits, params, position)], 0) << position;
  }
}

TEST(SamplerTest, CandidatesAndAllLogitsGiveTheSameToken) {
  std::mt19937 random(5);
  for (int i = 0; i < 5000; ++i) {
    const std::vector<float> logits = RandomLogits(random, 1 + random() % 300);
    SamplingParams params;
    params.temperature = random() % 4 == 0 ? 0.0f : 0.1f + static_cast<float>(random() % 30) / 10;
    params.top_k = 1 + random() % kCandidatesMax;
    params.top_p = random() % 2 == 0 ? 1.0f : static_cast<float>(1 + random() % 100) / 100;
    params.min_p = random() % 2 == 0 ? 0.0f : static_cast<float>(random() % 100) / 100;
    params.seed = random();
    const int needed = CandidatesNeeded(params, false);
    ASSERT_GT(needed, 0);
    const TokenHistory history;
    const SampleInput input{
        .params = params, .history = history, .banned_ids = {}, .position = static_cast<uint32_t>(i)};
    const auto whole = Sample(AllLogits(logits), logits.size(), input);
    const auto few = Sample(Candidates(logits, needed), logits.size(), input);
    const auto more = Sample(Candidates(logits, needed + 7), logits.size(), input);
    ASSERT_TRUE(whole.ok() && few.ok() && more.ok());
    ASSERT_EQ(whole->id, few->id);
    ASSERT_EQ(whole->id, more->id);
    ASSERT_GT(params.temperature == 0 ? 1 : ReferenceProbabilities(logits, params)[whole->id], 0);
  }
}

TEST(SamplerTest, PenaltiesFollowTheirFormulas) {
  SamplingParams params;
  params.temperature = 0;
  TokenHistory history;
  history.prompt_ids = {0};
  history.output_counts = {{1, 3}};
  // Repetition: positive logits are divided, negative ones multiplied; prompt and output.
  params.repetition_penalty = 2;
  EXPECT_EQ(SampleId({4, 4.2f, 2.2f}, params, 0, history), 2);
  EXPECT_EQ(SampleId({-1, -1.1f, -1.9f}, params, 0, history), 2);
  EXPECT_EQ(SampleId({4.5f, 4.2f, 2.2f}, params, 0, history), 0);
  params.repetition_penalty = 1;
  // Presence and frequency: output only; frequency by count.
  params.presence_penalty = 1;
  EXPECT_EQ(SampleId({0, 2.0f, 0.9f}, params, 0, history), 1);
  EXPECT_EQ(SampleId({0, 1.8f, 0.9f}, params, 0, history), 2);
  params.presence_penalty = 0;
  params.frequency_penalty = 1;
  EXPECT_EQ(SampleId({0, 4.0f, 0.9f}, params, 0, history), 1);
  EXPECT_EQ(SampleId({0, 3.8f, 0.9f}, params, 0, history), 2);
  EXPECT_EQ(SampleId({1.0f, 3.8f, 0.9f}, params, 0, history), 0);
}

TEST(SamplerTest, BiasAndBansChangeTheToken) {
  SamplingParams params;
  params.temperature = 0;
  EXPECT_EQ(SampleId({1, 3, 2}, params, 0, {}, {1}), 2);
  params.logit_bias = {{0, 100.0f}, {2, -100.0f}};
  EXPECT_EQ(SampleId({1, 3, 2}, params), 0);
  EXPECT_EQ(SampleId({1, 3, 2}, params, 0, {}, {0}), 1);  // A bias does not lift a ban.
  const TokenHistory history;
  const std::vector<int32_t> all = {0, 1, 2};
  const auto none =
      Sample(AllLogits({1, 3, 2}), 3, {.params = params, .history = history, .banned_ids = all, .position = 0});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SamplerTest, LogprobsAreOfTheRawDistribution) {
  SamplingParams params;
  params.temperature = 0;
  params.top_logprobs = 2;
  params.logit_bias = {{0, 50.0f}};
  const std::vector<float> logits = {0.0f, std::log(5.0f), std::log(2.0f)};  // 1 : 5 : 2
  const TokenHistory history;
  const auto token =
      Sample(AllLogits(logits), 3, {.params = params, .history = history, .banned_ids = {}, .position = 0});
  ASSERT_TRUE(token.ok());
  ASSERT_EQ(token->logprobs.size(), 3u);
  EXPECT_EQ(token->logprobs[0].id, 0);
  EXPECT_NEAR(token->logprobs[0].logprob, std::log(1.0 / 8), 1e-6);
  EXPECT_EQ(token->logprobs[1].id, 1);
  EXPECT_NEAR(token->logprobs[1].logprob, std::log(5.0 / 8), 1e-6);
  EXPECT_EQ(token->logprobs[2].id, 2);
  EXPECT_NEAR(token->logprobs[2].logprob, std::log(2.0 / 8), 1e-6);
}

TEST(SamplerTest, BrokenRowsAreErrors) {
  SamplingParams params;
  params.top_k = 2;
  const TokenHistory history;
  const SampleInput input{.params = params, .history = history, .banned_ids = {}, .position = 0};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto status = Sample(AllLogits({1, nan, 2}), 3, input).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("token 1"));
  EXPECT_FALSE(Sample(AllLogits({1, std::numeric_limits<float>::infinity()}), 2, input).ok());
  EXPECT_FALSE(Sample(AllLogits({1, 2}), 3, input).ok());
  EXPECT_FALSE(Sample({.logits = {1, 0}, .ids = {0, 3}}, 3, input).ok());
  EXPECT_FALSE(Sample({.logits = {1}, .ids = {0, 1}}, 3, input).ok());
  EXPECT_FALSE(Sample({.logits = {1}, .ids = {0}}, 3, input).ok());  // Needs two.
  EXPECT_FALSE(Sample({}, 3, input).ok());
  // A row of NaN comes out of a top-k as -infinity.
  const float never = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(Sample({.logits = {never, never}, .ids = {0, 1}}, 3, input).status().code(), absl::StatusCode::kInternal);
}

TEST(SamplerTest, ExtremeParametersStayFinite) {
  SamplingParams params;
  params.temperature = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(SampleId({1, 3, 2}, params), 1);
  params.temperature = 1e-3f;
  params.top_p = 1e-7f;
  EXPECT_EQ(SampleId({1, 3, 2}, params), 1);
  params = {};
  params.repetition_penalty = std::numeric_limits<float>::denorm_min();
  TokenHistory history;
  history.prompt_ids = {0, 2};
  const int32_t id = SampleId({1, 3, 2}, params, 0, history);
  EXPECT_TRUE(id == 0 || id == 2);
}

}  // namespace
}  // namespace shoal
