#include "engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <vector>

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Request MakeRequest(int prompt_tokens, int max_tokens, int priority = 0) {
  Request request;
  for (int i = 0; i < prompt_tokens; ++i) request.prompt.push_back(i);
  request.max_tokens = max_tokens;
  request.priority = priority;
  request.sampling.temperature = 0;
  return request;
}

// Runs steps without a model: every sampled token is 7. Ends a sequence at its max_tokens.
class Driver {
 public:
  explicit Driver(const SchedulerOptions& options) : scheduler(options), options_(options) {}

  // Schedules one step; false if none can run.
  bool Submit() {
    auto step = scheduler.Schedule();
    if (!step.has_value()) return false;
    plans.push_back(step->plan);
    for (const RequestId id : step->admitted) admitted.push_back(id);
    in_flight.push_back(step->plan.step);
    return true;
  }

  // Brings the oldest step back.
  void Return() {
    const uint64_t step = in_flight.front();
    in_flight.pop_front();
    for (Sequence* sequence : scheduler.Complete(step)) {
      if (sequence == nullptr) continue;
      scheduler.Append(*sequence, 7);
      if (sequence->output_tokens() == sequence->request.max_tokens) {
        finished.push_back(sequence->id);
        scheduler.End(sequence->id);
      }
    }
  }

  // Keeps the pipeline full until all is done; the number of steps. Fails when nothing can run.
  int RunAll(int steps_max) {
    int steps = 0;
    while (!scheduler.empty() && steps < steps_max) {
      while (static_cast<int>(in_flight.size()) < options_.depth && Submit()) ++steps;
      if (in_flight.empty()) {
        ADD_FAILURE() << "nothing can run";
        return steps;
      }
      Return();
    }
    EXPECT_TRUE(scheduler.empty());
    return steps;
  }

  Scheduler scheduler;
  std::vector<StepPlan> plans;
  std::deque<uint64_t> in_flight;
  std::vector<RequestId> admitted;
  std::vector<RequestId> finished;

 private:
  SchedulerOptions options_;
};

SchedulerOptions Options(int kv_blocks = 100, int depth = 1) {
  return {.kv_blocks = kv_blocks,
          .kv_block_tokens = 4,
          .max_sequences = 64,
          .max_step_tokens = 512,
          .prefill_chunk_tokens = 256,
          .depth = depth};
}

TEST(SchedulerTest, PlanHoldsThePromptThenTheSampledToken) {
  Driver driver(Options());
  driver.scheduler.Add(1, MakeRequest(6, 2));
  ASSERT_TRUE(driver.Submit());
  const StepPlan prefill = driver.plans[0];
  EXPECT_EQ(prefill.step, 1u);
  EXPECT_THAT(prefill.ids, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(prefill.positions, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(prefill.query_start, ElementsAre(0, 6));
  EXPECT_THAT(prefill.context_len, ElementsAre(6));
  EXPECT_THAT(prefill.sample_rows, ElementsAre(5));
  EXPECT_EQ(prefill.candidates, 1);
  ASSERT_EQ(prefill.blocks.size(), 2u);
  EXPECT_EQ(prefill.kv_slots[5], prefill.blocks[1] * 4 + 1);

  EXPECT_FALSE(driver.Submit());  // Its token is in flight.
  driver.Return();
  ASSERT_TRUE(driver.Submit());
  EXPECT_THAT(driver.plans[1].ids, ElementsAre(7));
  EXPECT_THAT(driver.plans[1].positions, ElementsAre(6));
  driver.Return();
  EXPECT_THAT(driver.finished, ElementsAre(1));
  EXPECT_EQ(driver.scheduler.blocks().num_free(), 100);
  EXPECT_TRUE(driver.scheduler.empty());
}

TEST(SchedulerTest, PromptsGoInChunksBesideDecodes) {
  SchedulerOptions options = Options(200);
  options.prefill_chunk_tokens = 32;
  Driver driver(options);
  driver.scheduler.Add(1, MakeRequest(8, 20));
  driver.Submit();
  driver.Return();
  driver.scheduler.Add(2, MakeRequest(70, 2));
  std::vector<int> tokens;
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(driver.Submit());
    tokens.push_back(driver.plans.back().num_tokens());
    EXPECT_EQ(driver.plans.back().ids[0], 7);  // The decode comes first.
    driver.Return();
  }
  EXPECT_THAT(tokens, ElementsAre(33, 33, 7, 2));
  EXPECT_THAT(driver.plans[1].sample_rows, ElementsAre(0));     // The prompt is not finished.
  EXPECT_THAT(driver.plans[3].sample_rows, ElementsAre(0, 6));  // Now it is.
}

TEST(SchedulerTest, ChunksOfOnePromptAreInFlightTogetherAndShareThePipeline) {
  SchedulerOptions options = Options(200, /*depth=*/3);
  Driver driver(options);
  driver.scheduler.Add(1, MakeRequest(120, 1));
  std::vector<int> tokens;
  while (driver.Submit()) tokens.push_back(driver.plans.back().num_tokens());
  EXPECT_THAT(tokens, ElementsAre(40, 40, 40));
  EXPECT_EQ(driver.plans[2].positions.front(), 80);
  EXPECT_THAT(driver.plans[1].sample_rows, IsEmpty());
  for (int i = 0; i < 3; ++i) driver.Return();
  EXPECT_THAT(driver.finished, ElementsAre(1));
}

TEST(SchedulerTest, DecodesAreDealtEvenlyOverTheMicroBatches) {
  for (const int depth : {1, 2, 3, 4}) {
    for (const int sequences : {1, 2, 5, 8, 11}) {
      Driver driver(Options(1000, depth));
      for (int i = 0; i < sequences; ++i) driver.scheduler.Add(i, MakeRequest(4, 60));
      for (int i = 0; i < 20; ++i) {
        while (driver.Submit()) {
        }
        driver.Return();
      }
      const int share = (sequences + depth - 1) / depth;
      for (size_t i = driver.plans.size() - 2 * depth; i < driver.plans.size(); ++i) {
        EXPECT_LE(driver.plans[i].num_sequences(), share) << depth << " " << sequences;
        EXPECT_GE(driver.plans[i].num_sequences(), 1);
      }
      while (driver.Submit()) {
      }
      EXPECT_EQ(driver.in_flight.size(), std::min<size_t>(depth, (sequences + share - 1) / share));
    }
  }
}

TEST(SchedulerTest, DecodesThatCouldFillTheStepLeaveRoomForPrompts) {
  SchedulerOptions options = Options(2000);
  options.max_step_tokens = 40;
  Driver driver(options);
  for (int i = 0; i < 40; ++i) driver.scheduler.Add(i, MakeRequest(1, 500));
  for (int i = 0; i < 5; ++i) {
    driver.Submit();
    driver.Return();
  }
  ASSERT_EQ(driver.plans.back().num_sequences(), 40);
  driver.scheduler.Add(100, MakeRequest(70, 2));
  // 20 tokens of its prompt in each step; then 41 decodes share steps of 40.
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(driver.Submit());
    driver.Return();
  }
  EXPECT_THAT(driver.finished, ElementsAre(100));
}

TEST(SchedulerTest, StepTokensStayWithinTheirBound) {
  SchedulerOptions options = Options(2000, 2);
  options.max_step_tokens = 50;
  Driver driver(options);
  for (int i = 0; i < 40; ++i) driver.scheduler.Add(i, MakeRequest(1 + i * 3 % 90, 5 + i % 7));
  driver.RunAll(10000);
  for (const StepPlan& plan : driver.plans) EXPECT_LE(plan.num_tokens(), 50);
  EXPECT_EQ(driver.finished.size(), 40u);
}

TEST(SchedulerTest, AdmitsByPriorityThenArrivalAndNobodyOvertakes) {
  SchedulerOptions options = Options();
  options.max_sequences = 1;
  Driver driver(options);
  driver.scheduler.Add(1, MakeRequest(4, 2, /*priority=*/5));
  driver.scheduler.Add(2, MakeRequest(4, 2, 5));
  driver.scheduler.Add(3, MakeRequest(4, 2, 1));
  driver.scheduler.Add(4, MakeRequest(4, 2, 9));
  driver.RunAll(100);
  EXPECT_THAT(driver.admitted, ElementsAre(3, 1, 2, 4));

  Driver small(Options(/*kv_blocks=*/10));
  small.scheduler.Add(1, MakeRequest(20, 2));
  small.scheduler.Add(2, MakeRequest(30, 2));  // Does not fit beside 1.
  small.scheduler.Add(3, MakeRequest(4, 2));   // Would, but came later.
  ASSERT_TRUE(small.Submit());
  EXPECT_THAT(small.admitted, ElementsAre(1));
  small.RunAll(100);
  EXPECT_THAT(small.admitted, ElementsAre(1, 2, 3));
}

TEST(SchedulerTest, AnUrgentPromptGoesBeforeTheRestOfALongOne) {
  SchedulerOptions options = Options(1000);
  options.prefill_chunk_tokens = 32;
  Driver driver(options);
  driver.scheduler.Add(1, MakeRequest(500, 1, 5));
  driver.Submit();
  driver.Return();
  driver.scheduler.Add(2, MakeRequest(20, 1, 0));
  driver.Submit();
  EXPECT_THAT(driver.admitted, ElementsAre(1, 2));
  EXPECT_THAT(driver.plans[1].context_len, ElementsAre(20, 32 + 12));
}

TEST(SchedulerTest, PreemptsTheYoungestSequenceAndRecomputesTheSameTokens) {
  // Each sequence starts with 2 blocks of 4; both need a third at token 9: only one gets it.
  Driver driver(Options(/*kv_blocks=*/5));
  driver.scheduler.Add(1, MakeRequest(7, 8));
  driver.scheduler.Add(2, MakeRequest(7, 8));
  driver.RunAll(100);
  EXPECT_THAT(driver.finished, ElementsAre(1, 2));
  EXPECT_EQ(driver.scheduler.preemptions(), 1u);
  EXPECT_THAT(driver.admitted, ElementsAre(1, 2, 2));
  const auto again = std::find_if(driver.plans.begin() + 1, driver.plans.end(),
                                  [](const StepPlan& plan) { return plan.num_tokens() > 2; });
  ASSERT_NE(again, driver.plans.end());
  EXPECT_THAT(again->ids, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 7));
  EXPECT_EQ(driver.scheduler.blocks().num_free(), 5);
}

TEST(SchedulerTest, PreemptsByPriorityBeforeAge) {
  Driver driver(Options(/*kv_blocks=*/5));
  driver.scheduler.Add(1, MakeRequest(7, 8, /*priority=*/2));
  driver.scheduler.Add(2, MakeRequest(7, 8, /*priority=*/1));
  driver.RunAll(100);
  EXPECT_THAT(driver.finished, ElementsAre(2, 1));
  EXPECT_THAT(driver.admitted, ElementsAre(2, 1, 1));
}

TEST(SchedulerTest, ASequenceWithAStepInFlightIsNotPreempted) {
  Driver driver(Options(/*kv_blocks=*/5, /*depth=*/2));
  driver.scheduler.Add(1, MakeRequest(7, 8));
  driver.scheduler.Add(2, MakeRequest(7, 8));
  std::map<uint64_t, StepPlan> flying;
  int guard = 0;
  while (!driver.scheduler.empty() && ++guard < 100) {
    while (driver.Submit()) {
      const StepPlan& plan = driver.plans.back();
      // A block of a plan in flight has not gone to another sequence's new slots.
      for (const auto& [step, other] : flying) {
        for (const int32_t slot : plan.kv_slots)
          EXPECT_EQ(std::count(other.kv_slots.begin(), other.kv_slots.end(), slot), 0);
      }
      flying[plan.step] = plan;
    }
    ASSERT_FALSE(driver.in_flight.empty());
    flying.erase(driver.in_flight.front());
    driver.Return();
  }
  EXPECT_EQ(driver.finished.size(), 2u);
  EXPECT_GE(driver.scheduler.preemptions(), 1u);
}

TEST(SchedulerTest, ALoneSequenceThatFillsEveryBlockFinishes) {
  Driver driver(Options(/*kv_blocks=*/5));
  driver.scheduler.Add(1, MakeRequest(1, 20));  // 20 tokens in the cache; the 21st is never computed on.
  driver.scheduler.Add(2, MakeRequest(20, 1));
  driver.RunAll(100);
  EXPECT_EQ(driver.finished.size(), 2u);
}

TEST(SchedulerTest, EndFreesBlocksAtOnceOrWhenTheStepIsBack) {
  Driver driver(Options(/*kv_blocks=*/20, /*depth=*/2));
  driver.scheduler.Add(1, MakeRequest(8, 10));
  driver.scheduler.Add(2, MakeRequest(8, 10));
  driver.scheduler.End(2);  // Still waiting.
  EXPECT_EQ(driver.scheduler.num_waiting(), 1);
  driver.Submit();
  driver.scheduler.End(1);
  EXPECT_EQ(driver.scheduler.Find(1), nullptr);
  EXPECT_EQ(driver.scheduler.blocks().num_free(), 18);
  EXPECT_FALSE(driver.Submit());
  driver.Return();
  EXPECT_EQ(driver.scheduler.blocks().num_free(), 20);
  EXPECT_TRUE(driver.scheduler.empty());
}

TEST(SchedulerTest, CandidatesAreTheMostThatAnyRowNeeds) {
  const auto candidates = [](std::vector<int> top_ks) {
    Driver driver(Options());
    RequestId id = 1;
    for (const int top_k : top_ks) {
      Request request = MakeRequest(4, 2);
      if (top_k >= 0) request.sampling.temperature = 1;
      request.sampling.top_k = std::max(top_k, 0);
      driver.scheduler.Add(id++, request);
    }
    driver.Submit();
    return driver.plans[0].candidates;
  };
  EXPECT_EQ(candidates({-1}), 1);
  EXPECT_EQ(candidates({-1, 20, 8}), 20);
  EXPECT_EQ(candidates({40, -1}), 40);
  EXPECT_EQ(candidates({20, 0, 8}), 0);
  EXPECT_EQ(candidates({0, 20}), 0);
}

// Anything may come and go in any order: nothing starves, nothing leaks, the pipeline never stands still.
TEST(SchedulerTest, RandomLoadsAlwaysFinish) {
  std::mt19937 random(11);
  for (int round = 0; round < 150; ++round) {
    SchedulerOptions options = Options(4 + random() % 30, 1 + random() % 4);
    options.max_sequences = 1 + random() % 12;
    options.max_step_tokens = 1 + random() % 64;
    options.prefill_chunk_tokens = 1 + random() % 40;
    const int cache_tokens = static_cast<int>(options.kv_blocks) * options.kv_block_tokens;
    Driver driver(options);
    const int requests = 1 + random() % 40;
    int64_t work = 0;
    size_t ended = 0;
    for (int i = 0; i < requests; ++i) {
      const int prompt = 1 + random() % (cache_tokens - 1);
      const int output = 1 + random() % (cache_tokens - prompt);
      work += prompt + output;
      driver.scheduler.Add(i, MakeRequest(prompt, output, random() % 3));
      for (int s = random() % 4; s > 0 && driver.Submit(); --s) {
      }
      if (!driver.in_flight.empty()) driver.Return();
      const RequestId victim = random() % (i + 1);
      if (random() % 5 == 0 && driver.scheduler.Find(victim) != nullptr) {
        driver.scheduler.End(victim);
        ++ended;
      }
    }
    // Generous: preemption recomputes, but only a bounded share of the work.
    driver.RunAll(static_cast<int>(work * 40));
    EXPECT_EQ(driver.finished.size() + ended, static_cast<size_t>(requests));
    EXPECT_EQ(driver.scheduler.blocks().num_free(), options.kv_blocks);
    for (const StepPlan& plan : driver.plans) ASSERT_LE(plan.num_tokens(), options.max_step_tokens);
  }
}

}  // namespace
}  // namespace shoal
