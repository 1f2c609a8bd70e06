#include "engine/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace shoal {
namespace {

using ::testing::HasSubstr;

// The worked example of step_plan.h.
StepPlan Example() {
  StepPlan plan;
  plan.step = 77;
  plan.ids = {104, 105, 106, 209};
  plan.positions = {4, 5, 6, 9};
  plan.kv_slots = {8, 9, 10, 21};
  plan.query_start = {0, 3, 4};
  plan.context_len = {7, 10};
  plan.blocks = {7, 2, 1, 3, 5};
  plan.block_start = {0, 2, 5};
  plan.sample_rows = {3};
  plan.candidates = 20;
  return plan;
}

StepResult ExampleResult() {
  StepResult result;
  result.step = 77;
  result.rank = 3;
  result.busy_ns = 123456789012;
  result.wall_ns = 223456789012;
  result.vocab_begin = 1000;
  result.columns = 2;
  result.values = {3.5f, -1.0f, 0.25f, -7.0f};
  result.ids = {1003, 1001, 1000, 1007};
  return result;
}

void ExpectSame(const StepPlan& a, const StepPlan& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.shutdown, b.shutdown);
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.positions, b.positions);
  EXPECT_EQ(a.kv_slots, b.kv_slots);
  EXPECT_EQ(a.query_start, b.query_start);
  EXPECT_EQ(a.context_len, b.context_len);
  EXPECT_EQ(a.blocks, b.blocks);
  EXPECT_EQ(a.block_start, b.block_start);
  EXPECT_EQ(a.sample_rows, b.sample_rows);
  EXPECT_EQ(a.candidates, b.candidates);
}

StepPlan RandomPlan(std::mt19937& random) {
  StepPlan plan;
  plan.step = random();
  plan.query_start = {0};
  plan.block_start = {0};
  const int sequences = random() % 9;
  for (int s = 0; s < sequences; ++s) {
    const int tokens = 1 + random() % 20;
    const int blocks = 1 + random() % 5;
    for (int t = 0; t < tokens; ++t) {
      plan.ids.push_back(random() % 150000);
      plan.positions.push_back(random() % 4096);
      plan.kv_slots.push_back(random() % 100000);
      if (random() % 4 == 0) plan.sample_rows.push_back(plan.num_tokens() - 1);
    }
    for (int b = 0; b < blocks; ++b) plan.blocks.push_back(random() % 1000);
    plan.query_start.push_back(plan.num_tokens());
    plan.context_len.push_back(tokens + random() % 100);
    plan.block_start.push_back(static_cast<int32_t>(plan.blocks.size()));
  }
  plan.candidates = random() % 65;
  return plan;
}

TEST(StepPlanTest, DecodeGivesBackWhatWasEncoded) {
  const auto decoded = DecodeStepPlan(EncodeStepPlan(Example()));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ExpectSame(*decoded, Example());
  std::mt19937 random(2);
  for (int i = 0; i < 500; ++i) {
    const StepPlan plan = RandomPlan(random);
    const auto again = DecodeStepPlan(EncodeStepPlan(plan));
    ASSERT_TRUE(again.ok()) << again.status();
    ExpectSame(*again, plan);
  }
}

TEST(StepPlanTest, ShutdownCarriesNothingElse) {
  StepPlan plan;
  plan.shutdown = true;
  const auto decoded = DecodeStepPlan(EncodeStepPlan(plan));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_TRUE(decoded->shutdown);
  StepPlan work = Example();
  work.shutdown = true;
  EXPECT_THAT(DecodeStepPlan(EncodeStepPlan(work)).status().message(), HasSubstr("shutdown"));
}

TEST(StepPlanTest, LengthsThatDisagreeAreRefusedWithTheField) {
  const auto expect_refused = [](void (*change)(StepPlan&), const std::string& field) {
    StepPlan plan = Example();
    change(plan);
    const auto decoded = DecodeStepPlan(EncodeStepPlan(plan));
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(decoded.status().message()), HasSubstr(field));
  };
  expect_refused([](StepPlan& p) { p.positions.pop_back(); }, "positions");
  expect_refused([](StepPlan& p) { p.kv_slots.push_back(1); }, "kv_slots");
  expect_refused([](StepPlan& p) { p.ids[0] = -1; }, "ids");
  expect_refused([](StepPlan& p) { p.kv_slots[1] = -9; }, "kv_slots");
  expect_refused([](StepPlan& p) { p.query_start.clear(); }, "query_start");
  expect_refused([](StepPlan& p) { p.query_start = {0, 4, 4}; }, "query_start");
  expect_refused([](StepPlan& p) { p.query_start = {1, 3, 4}; }, "query_start");
  expect_refused([](StepPlan& p) { p.query_start.back() = 1 << 30; }, "query_start");
  expect_refused([](StepPlan& p) { p.context_len[1] = 0; }, "context_len");
  expect_refused([](StepPlan& p) { p.block_start = {0, 5, 2}; }, "block_start");
  expect_refused([](StepPlan& p) { p.blocks.pop_back(); }, "block_start");
  expect_refused([](StepPlan& p) { p.sample_rows = {4}; }, "sample_rows");
  expect_refused([](StepPlan& p) { p.sample_rows = {2, 2}; }, "sample_rows");
  expect_refused([](StepPlan& p) { p.sample_rows = {-1}; }, "sample_rows");
  expect_refused([](StepPlan& p) { p.candidates = -1; }, "candidates");
}

TEST(StepPlanTest, EveryTruncationIsRefused) {
  std::vector<std::byte> bytes = EncodeStepPlan(Example());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(DecodeStepPlan(std::span(bytes).first(size)).status().code(), absl::StatusCode::kInvalidArgument) << size;
  }
  bytes.push_back(std::byte{0});
  EXPECT_THAT(DecodeStepPlan(bytes).status().message(), HasSubstr("too many"));
}

TEST(StepPlanTest, AHugeCountIsRefusedBeforeItIsAllocated) {
  std::vector<std::byte> bytes = EncodeStepPlan(Example());
  const uint32_t huge = 0xffffffff;
  std::memcpy(bytes.data() + 4 + 8 + 1, &huge, sizeof(huge));  // After magic, step and shutdown: the count of `ids`.
  EXPECT_THAT(DecodeStepPlan(bytes).status().message(), HasSubstr("ids: says 4294967295 entries"));
}

// Whatever decodes must be consistent, so that it encodes to the very bytes it came from.
TEST(StepPlanTest, CorruptBytesAreRefusedOrDecodeToAConsistentPlan) {
  std::mt19937 random(3);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> bytes = EncodeStepPlan(RandomPlan(random));
    const int changes = 1 + random() % 4;
    for (int c = 0; c < changes; ++c) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    const auto decoded = DecodeStepPlan(bytes);
    if (decoded.ok()) {
      ASSERT_EQ(EncodeStepPlan(*decoded), bytes);
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(StepResultTest, DecodeGivesBackWhatWasEncoded) {
  StepResult result = ExampleResult();
  auto decoded = DecodeStepResult(EncodeStepResult(result));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->step, 77u);
  EXPECT_EQ(decoded->rank, 3);
  EXPECT_EQ(decoded->busy_ns, 123456789012);
  EXPECT_EQ(decoded->wall_ns, 223456789012);
  EXPECT_TRUE(decoded->status.ok());
  EXPECT_EQ(decoded->vocab_begin, 1000);
  EXPECT_EQ(decoded->columns, 2);
  EXPECT_EQ(decoded->values, result.values);
  EXPECT_EQ(decoded->ids, result.ids);

  result.status = absl::UnavailableError("rank 2 went away");
  result.ids.clear();
  decoded = DecodeStepResult(EncodeStepResult(result));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->status, result.status);
  EXPECT_TRUE(decoded->ids.empty());
}

TEST(StepResultTest, BadBytesAreRefused) {
  const std::vector<std::byte> bytes = EncodeStepResult(ExampleResult());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(DecodeStepResult(std::span(bytes).first(size)).status().code(), absl::StatusCode::kInvalidArgument)
        << size;
  }
  StepResult odd = ExampleResult();
  odd.columns = 3;
  EXPECT_THAT(DecodeStepResult(EncodeStepResult(odd)).status().message(), HasSubstr("values"));
  odd.columns = 0;
  EXPECT_THAT(DecodeStepResult(EncodeStepResult(odd)).status().message(), HasSubstr("values"));
  odd = ExampleResult();
  odd.ids.pop_back();
  EXPECT_THAT(DecodeStepResult(EncodeStepResult(odd)).status().message(), HasSubstr("ids"));
  EXPECT_THAT(DecodeStepResult(EncodeStepPlan(Example())).status().message(), HasSubstr("magic"));

  std::mt19937 random(4);
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> corrupt = bytes;
    corrupt[random() % corrupt.size()] = static_cast<std::byte>(random());
    const auto decoded = DecodeStepResult(corrupt);
    if (decoded.ok() && decoded->status.ok()) {
      ASSERT_EQ(EncodeStepResult(*decoded).size(), bytes.size());
    }
  }
}

}  // namespace
}  // namespace shoal
