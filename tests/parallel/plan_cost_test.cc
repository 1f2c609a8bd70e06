#include "parallel/plan_cost.h"

#include "gtest/gtest.h"
#include "parallel/memory_model.h"

namespace shoal {
namespace {

// The numbers of a small model, by hand: 2 layers, E 64, 4 query heads and 2 KV heads of 32, F 128, V 160.
Plan SmallPlan(DType kv) {
  PlanRequest request;
  request.shape = {.layers = 2, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 32, .ffn = 128, .vocab = 160};
  request.formats.kv = kv;
  request.max_context = 64;
  return MakePlan(request).value();
}

StepCost Cost(const Plan& plan, int64_t sequences, int64_t tokens, int64_t context, int64_t sampled) {
  return CostOfStep(plan.shape, plan.formats, plan.ranks[0], sequences, tokens, context, sampled);
}

TEST(PlanCostTest, CountsTwoOperationsPerWeightAndToken) {
  const Plan plan = SmallPlan(DType::kF16);
  // q 128, k 64 and v 64 rows of 64; the output 64 x 128; gate, up and down 128 x 64.
  const int64_t layer = (128 + 64 + 64) * 64 + 64 * 128 + 3 * 128 * 64;
  EXPECT_EQ(Cost(plan, 1, 1, 0, 0).ops, 2 * 2 * layer);
  EXPECT_EQ(Cost(plan, 3, 5, 10, 0).ops, 15 * 2 * 2 * layer);
  EXPECT_EQ(Cost(plan, 1, 1, 0, 1).ops, 2 * 2 * layer + 2 * 160 * 64);
}

TEST(PlanCostTest, ReadsEveryWeightOnceHoweverManyTokens) {
  const Plan plan = SmallPlan(DType::kF16);
  const int64_t layers = 2 * LayerWeightBytes(plan.shape, plan.formats, plan.ranks[0]);
  const int64_t head = HeadWeightBytes(plan.shape, plan.formats, plan.ranks[0]);
  const int64_t kv_token = 2 * 2 * 2 * 32 * 2;  // Layers, k and v, heads, head size, bytes.
  EXPECT_EQ(Cost(plan, 1, 1, 0, 0).bytes, layers + kv_token);
  EXPECT_EQ(Cost(plan, 4, 1, 9, 4).bytes, layers + head + 4 * 10 * kv_token);
  EXPECT_EQ(Cost(plan, 1, 16, 16, 1).bytes, layers + head + 32 * kv_token);
}

TEST(PlanCostTest, AnInt8CacheHasItsScales) {
  const Plan int8 = SmallPlan(DType::kI8), f16 = SmallPlan(DType::kF16);
  const int64_t token_int8 = Cost(int8, 1, 1, 1, 0).bytes - Cost(int8, 1, 1, 0, 0).bytes;
  const int64_t token_f16 = Cost(f16, 1, 1, 1, 0).bytes - Cost(f16, 1, 1, 0, 0).bytes;
  EXPECT_EQ(token_f16, 512);
  EXPECT_EQ(token_int8, 256 + 2 * 8);  // An f16 scale per 32 values.
}

}  // namespace
}  // namespace shoal
