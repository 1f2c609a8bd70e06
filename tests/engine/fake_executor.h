// An Executor without a model: logits are a hash of the whole context as it stands in a paged cache, so that a mixed-up
// block, position or order of steps changes the tokens.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "engine/engine.h"
#include "engine/executor.h"
#include "engine/sequence.h"

namespace shoal {

struct FakeOptions {
  int vocab = 97;
  int kv_blocks = 64;
  int block_tokens = 4;
  int depth = 1;
  uint64_t fail_submit_at = 0;  // Step; 0: never.
  uint64_t fail_wait_at = 0;
  int32_t nan_token = -1;  // A context that ends in this token gets NaN.
  double step_seconds = 0;
};

inline uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15ull;
  return hash ^ (hash >> 29);
}

// All logits after a context. Coarse values, so that ties happen.
inline std::vector<float> ToyLogits(const std::vector<int32_t>& context, int vocab) {
  uint64_t hash = 12345;
  for (const int32_t token : context) hash = Mix(hash, token);
  std::vector<float> logits(vocab);
  for (int id = 0; id < vocab; ++id) logits[id] = static_cast<float>(Mix(hash, id) % 256) / 32.0f - 4.0f;
  return logits;
}

class FakeExecutor final : public Executor {
 public:
  explicit FakeExecutor(const FakeOptions& options)
      : options_(options), cache_(options.kv_blocks * options.block_tokens, {-1, -1}) {}

  absl::Status Submit(const StepPlan& plan) override {
    SHOAL_CHECK_LT(in_flight(), depth());
    if (plan.step == options_.fail_submit_at) return absl::UnavailableError("rank 1 went away");
    const auto decoded = DecodeStepPlan(EncodeStepPlan(plan));
    SHOAL_CHECK(decoded.ok());
    SHOAL_CHECK_EQ(plan.step, ++last_step_);
    steps_.push_back(*decoded);
    plans.push_back(*decoded);
    return absl::OkStatus();
  }

  absl::StatusOr<StepOutput> Wait() override {
    SHOAL_CHECK(!steps_.empty());
    const StepPlan plan = std::move(steps_.front());
    steps_.pop_front();
    if (options_.step_seconds > 0) std::this_thread::sleep_for(std::chrono::duration<double>(options_.step_seconds));
    if (plan.step == options_.fail_wait_at) return absl::DataLossError("rank 2 read garbage");
    return Execute(plan);
  }

  int in_flight() const override { return static_cast<int>(steps_.size()); }
  int depth() const override { return options_.depth; }
  std::vector<StageLoad> stage_loads() const override { return {}; }
  absl::Status Shutdown() override {
    SHOAL_CHECK(steps_.empty());
    ++shutdowns;
    return absl::OkStatus();
  }

  std::vector<StepPlan> plans;  // All, in order.
  int shutdowns = 0;

 private:
  StepOutput Execute(const StepPlan& plan) {
    const int block_tokens = options_.block_tokens;
    std::set<int32_t> seen_blocks;
    for (const int32_t block : plan.blocks) {
      SHOAL_CHECK_LT(block, options_.kv_blocks);
      SHOAL_CHECK(seen_blocks.insert(block).second);  // No block in two sequences.
    }
    StepOutput output;
    output.step = plan.step;
    for (int s = 0; s < plan.num_sequences(); ++s) {
      const int32_t* blocks = plan.blocks.data() + plan.block_start[s];
      SHOAL_CHECK_EQ(plan.block_start[s + 1] - plan.block_start[s],
                     (plan.context_len[s] + block_tokens - 1) / block_tokens);
      for (int t = plan.query_start[s]; t < plan.query_start[s + 1]; ++t) {
        const int position = plan.positions[t];
        SHOAL_CHECK_EQ(position, plan.context_len[s] - (plan.query_start[s + 1] - t));
        SHOAL_CHECK_EQ(plan.kv_slots[t], blocks[position / block_tokens] * block_tokens + position % block_tokens);
        cache_[plan.kv_slots[t]] = {position, plan.ids[t]};
        if (std::binary_search(plan.sample_rows.begin(), plan.sample_rows.end(), t)) {
          output.rows.push_back(MakeRow(blocks, position, plan.candidates));
        }
      }
    }
    return output;
  }

  StepOutput::Row MakeRow(const int32_t* blocks, int position, int candidates) const {
    std::vector<int32_t> context;
    for (int p = 0; p <= position; ++p) {
      const auto& [cached_position, token] =
          cache_[blocks[p / options_.block_tokens] * options_.block_tokens + p % options_.block_tokens];
      SHOAL_CHECK_EQ(cached_position, p);
      context.push_back(token);
    }
    StepOutput::Row row{.logits = ToyLogits(context, options_.vocab), .ids = {}};
    if (context.back() == options_.nan_token) {
      std::fill(row.logits.begin(), row.logits.end(), std::numeric_limits<float>::quiet_NaN());
    }
    if (candidates == 0) return row;
    std::vector<int32_t> ids(row.logits.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return row.logits[a] > row.logits[b]; });
    ids.resize(std::min<size_t>(candidates, ids.size()));
    std::vector<float> best;
    for (const int32_t id : ids) best.push_back(row.logits[id]);
    return {.logits = std::move(best), .ids = std::move(ids)};
  }

  const FakeOptions options_;
  std::vector<std::pair<int, int32_t>> cache_;  // (position, token) by KV slot.
  std::deque<StepPlan> steps_;
  uint64_t last_step_ = 0;
};

// The output of a request by itself, without engine, scheduler or cache. The prefix comes first.
inline std::vector<int32_t> ExpectedOutput(const Request& request, int vocab) {
  const std::unique_ptr<Sequence> sequence = MakeSequence(1, 0, request);
  while (sequence->output_tokens() < request.max_tokens) {
    const auto token =
        Sample({.logits = ToyLogits(sequence->tokens, vocab), .ids = {}}, vocab, sequence->sample_input());
    SHOAL_CHECK(token.ok());
    sequence->Append(token->id);
    const bool stop = std::find(request.stop_ids.begin(), request.stop_ids.end(), token->id) != request.stop_ids.end();
    if (stop && sequence->output_tokens() >= request.min_tokens) break;
  }
  return {sequence->tokens.begin() + sequence->prompt_tokens, sequence->tokens.end()};
}

}  // namespace shoal
