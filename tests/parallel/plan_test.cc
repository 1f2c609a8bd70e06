#include "parallel/plan.h"

#include <algorithm>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "parallel/activation_layout.h"
#include "parallel/communicator.h"
#include "parallel/memory_model.h"
#include "parallel/plan_text.h"
#include "parallel/planner.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kGiB = int64_t{1} << 30;

// DeepSeek-R1-Distill-Qwen, as their config.json say.
ModelShape Qwen1p5B() { return {28, 1536, 12, 2, 128, 8960, 151936, true, false}; }
ModelShape Qwen7B() { return {28, 3584, 28, 4, 128, 18944, 152064, true, false}; }
ModelShape Qwen14B() { return {48, 5120, 40, 8, 128, 13824, 152064, true, false}; }
ModelShape Demo() { return {6, 384, 12, 2, 32, 640, 1024, true, false}; }

FormatPlan All(WeightFormat format) {
  FormatPlan formats;
  formats.qkv = formats.attention_out = formats.gate_up = formats.down = formats.lm_head = format;
  return formats;
}

TEST(FormatPlanTest, TheEmbeddingIsWideOnlyBesideWideMatrices) {
  EXPECT_EQ(EmbeddingFormatBeside(WeightFormat::kF32), WeightFormat::kF32);
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    EXPECT_EQ(EmbeddingFormatBeside(format), WeightFormat::kBF16);
  }
}

PlanRequest Request(const ModelShape& shape, int ranks, std::vector<int64_t> budget, WeightFormat format) {
  PlanRequest request;
  request.shape = shape;
  request.formats = All(format);
  request.ranks = ranks;
  request.memory_budget = std::move(budget);
  request.max_context = 2048;
  request.max_sequences = 16;
  return request;
}

// What must hold of every plan, whatever the request.
void ExpectSound(const PlanRequest& request, const Plan& plan) {
  const ModelShape& shape = plan.shape;
  ASSERT_EQ(static_cast<int>(plan.ranks.size()), request.ranks);
  int64_t layer = 0;
  int rank_number = 0;
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    int64_t head = 0;
    int64_t column = 0;
    int64_t row = 0;
    const Range layers = plan.ranks[plan.stages[s][0]].layers;
    EXPECT_EQ(layers.begin, layer);
    EXPECT_GT(layers.size(), 0);
    for (size_t i = 0; i < plan.stages[s].size(); ++i) {
      const RankPlan& rank = plan.ranks[plan.stages[s][i]];
      EXPECT_EQ(rank.rank, rank_number++);
      EXPECT_EQ(rank.stage, static_cast<int>(s));
      EXPECT_EQ(rank.tp_rank, static_cast<int>(i));
      EXPECT_EQ(rank.tp_size, static_cast<int>(plan.stages[s].size()));
      EXPECT_EQ(rank.layers, layers);
      EXPECT_EQ(rank.heads.begin, head);
      EXPECT_EQ(rank.ffn.begin, column);
      EXPECT_EQ(rank.has_embedding, s == 0);
      if (s + 1 == plan.stages.size()) {
        EXPECT_EQ(rank.vocab.begin, row);
        EXPECT_GT(rank.vocab.size(), 0);
      } else {
        EXPECT_EQ(rank.vocab.size(), 0);
      }
      head = rank.heads.end;
      column = rank.ffn.end;
      row = rank.vocab.end;
      const RankMemory& m = rank.memory;
      EXPECT_EQ(m.weights, TotalWeightBytes(shape, plan.formats, rank));
      EXPECT_EQ(m.kv, KvBytes(shape, plan.formats, rank, plan.kv_block_tokens, plan.kv_blocks));
      EXPECT_EQ(m.budget, BudgetOf(request, rank.rank));
      EXPECT_EQ(m.reserved, request.reserved_bytes);
      EXPECT_GT(rank.cost, 0);
      if (m.budget > 0) {
        EXPECT_LE(m.total(), m.budget);
      }
    }
    EXPECT_EQ(head, shape.heads);
    EXPECT_EQ(column, shape.ffn);
    EXPECT_EQ(row, s + 1 == plan.stages.size() ? shape.vocab : 0);
    layer = layers.end;
  }
  EXPECT_EQ(layer, shape.layers);
  EXPECT_GE(plan.kv_tokens(), plan.max_context);
}

Plan Make(const PlanRequest& request) {
  const absl::StatusOr<Plan> plan = MakePlan(request);
  EXPECT_TRUE(plan.ok()) << plan.status();
  if (!plan.ok()) return {};
  ExpectSound(request, *plan);
  return *plan;
}

std::vector<int> StageSizes(const Plan& plan) {
  std::vector<int> sizes;
  for (const auto& stage : plan.stages) sizes.push_back(static_cast<int>(stage.size()));
  return sizes;
}

std::vector<int64_t> Layers(const Plan& plan) {
  std::vector<int64_t> layers;
  for (const auto& stage : plan.stages) layers.push_back(plan.ranks[stage[0]].layers.size());
  return layers;
}

std::vector<int64_t> Heads(const Plan& plan) {
  std::vector<int64_t> heads;
  for (const RankPlan& rank : plan.ranks) heads.push_back(rank.heads.size());
  return heads;
}

std::string Refusal(const PlanRequest& request, absl::StatusCode code) {
  const absl::StatusOr<Plan> plan = MakePlan(request);
  EXPECT_EQ(plan.status().code(), code) << plan.status();
  return std::string(plan.status().message());
}

TEST(PlanTest, Qwen1p5BOnTwoCardsOf4GiB) {
  const Plan plan = Make(Request(Qwen1p5B(), 2, {4 * kGiB}, WeightFormat::kInt8));
  EXPECT_TRUE(plan.automatic);
  EXPECT_THAT(StageSizes(plan), ElementsAre(2));
  EXPECT_THAT(Heads(plan), ElementsAre(6, 6));
  EXPECT_EQ(plan.ranks[0].kv_heads, (Range{0, 1}));
  EXPECT_EQ(plan.ranks[1].kv_heads, (Range{1, 2}));
  EXPECT_EQ(plan.ranks[0].ffn.size(), 18 * 256);  // Of 35 groups.
  EXPECT_EQ(plan.ranks[1].ffn.size(), 17 * 256);
  EXPECT_EQ(plan.kv_tokens(), 16 * 2048) << "memory for more than all sequences can use is not taken";
}

TEST(PlanTest, WeightBytesAreTheSumOverTensors) {
  const Plan plan = Make(Request(Qwen1p5B(), 1, {}, WeightFormat::kInt8));
  // By hand: int8 rows (multiples of 16) plus a float per row, float biases and gains, bf16 embedding, 64 frequencies.
  const int64_t qkv = 2048 * 1536 + 2048 * 4 + 2048 * 4;
  const int64_t out = 1536 * 1536 + 1536 * 4;
  const int64_t gate_up = 17920 * int64_t{1536} + 17920 * 4;
  const int64_t down = 1536 * int64_t{8960} + 1536 * 4;
  const int64_t layer = qkv + out + gate_up + down + 2 * 1536 * 4;
  const int64_t head = 151936 * int64_t{1536} + 151936 * 4 + 1536 * 4;
  EXPECT_EQ(plan.ranks[0].memory.weights, 28 * layer + head + 151936 * int64_t{1536} * 2 + 64 * 4);
  EXPECT_EQ(plan.ranks[0].cost, static_cast<double>(28 * layer + head));
  // 28 layers, k and v, 2 heads of 128 in f16.
  EXPECT_EQ(plan.ranks[0].memory.kv, plan.kv_tokens() * 28 * 2 * 2 * 128 * 2);
  EXPECT_EQ(plan.kv_tokens(), 16384) << "the default without a budget";
  EXPECT_EQ(plan.ranks[0].memory.communication, 0);
}

TEST(PlanTest, Qwen7BOnFourCardsOf4GiB) {
  const Plan plan = Make(Request(Qwen7B(), 4, {4 * kGiB}, WeightFormat::kInt4));
  EXPECT_THAT(StageSizes(plan), ElementsAre(4));
  EXPECT_THAT(Heads(plan), ElementsAre(7, 7, 7, 7));
  for (const RankPlan& rank : plan.ranks) EXPECT_EQ(rank.kv_heads.size(), 1);
  EXPECT_THAT((std::vector<int64_t>{plan.ranks[0].ffn.size(), plan.ranks[3].ffn.size()}),
              ElementsAre(19 * 256, 18 * 256));  // 74 groups.
}

TEST(PlanTest, Qwen14BOnSixCardsOf6GiB) {
  const Plan plan = Make(Request(Qwen14B(), 6, {6 * kGiB}, WeightFormat::kInt8));
  EXPECT_THAT(StageSizes(plan), ElementsAre(6));
  EXPECT_THAT(Heads(plan), ElementsAre(6, 7, 7, 6, 7, 7));
  for (const RankPlan& rank : plan.ranks) EXPECT_EQ(rank.kv_heads.size(), 2);
}

TEST(PlanTest, UnevenCardsGetSharesInProportion) {
  const Plan plan = Make(Request(Qwen7B(), 3, {8 * kGiB, 6 * kGiB, 4 * kGiB}, WeightFormat::kInt8));
  EXPECT_THAT(StageSizes(plan), ElementsAre(3));
  EXPECT_GT(plan.ranks[0].heads.size(), plan.ranks[1].heads.size());
  EXPECT_GT(plan.ranks[1].heads.size(), plan.ranks[2].heads.size());
  EXPECT_GT(plan.ranks[0].memory.weights, plan.ranks[2].memory.weights * 5 / 4);
}

TEST(PlanTest, UnevenStagesGetLayersInProportion) {
  PlanRequest request = Request(Qwen7B(), 3, {8 * kGiB, 6 * kGiB, 4 * kGiB}, WeightFormat::kInt8);
  request.stages = {{.ranks = 1, .layers = 0, .shares = {}},
                    {.ranks = 1, .layers = 0, .shares = {}},
                    {.ranks = 1, .layers = 0, .shares = {}}};
  const Plan plan = Make(request);
  EXPECT_FALSE(plan.automatic);
  // 28 layers and, in the last stage, a head worth 2.3 of them: layers per GiB are 14 / 8 = 1.75, 10 / 6 = 1.67 and
  // 6.3 / 4 = 1.58. With one layer more the last would have 1.83, the most of all.
  EXPECT_THAT(Layers(plan), ElementsAre(14, 10, 4));
}

TEST(PlanTest, TheStageWithTheHeadGetsFewerLayers) {
  PlanRequest request = Request(Qwen1p5B(), 2, {}, WeightFormat::kInt8);
  request.stages.resize(2);
  const Plan plan = Make(request);
  // The head is worth 5 layers of 47 MB: 16.5 + (11.5 + 5).
  EXPECT_THAT(Layers(plan), AnyOf(ElementsAre(16, 12), ElementsAre(17, 11)));
  const double slowest = std::max(plan.ranks[0].cost, plan.ranks[1].cost);
  for (int first = 1; first < 28; ++first) {
    request.stages[0].layers = first;
    request.stages[1].layers = 28 - first;
    const Plan other = Make(request);
    EXPECT_GE(std::max(other.ranks[0].cost, other.ranks[1].cost), slowest) << first;
  }
}

TEST(PlanTest, DemoOnAnyNumberOfRanks) {
  EXPECT_THAT(StageSizes(Make(Request(Demo(), 1, {}, WeightFormat::kInt8))), ElementsAre(1));
  EXPECT_THAT(StageSizes(Make(Request(Demo(), 2, {}, WeightFormat::kInt8))), ElementsAre(2));
  EXPECT_THAT(Heads(Make(Request(Demo(), 3, {}, WeightFormat::kInt8))), ElementsAre(4, 4, 4));
  const Plan five = Make(Request(Demo(), 5, {}, WeightFormat::kInt8));
  EXPECT_THAT(Heads(five), ElementsAre(3, 3, 2, 2, 2));
  for (const RankPlan& rank : five.ranks) EXPECT_EQ(rank.ffn.size(), 128);
  // 5 groups of FFN columns: 7 ranks cannot be one stage.
  const Plan seven = Make(Request(Demo(), 7, {}, WeightFormat::kInt8));
  EXPECT_EQ(seven.stages.size(), 2u);
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt4}) {
    for (int ranks = 1; ranks <= 16; ++ranks) Make(Request(Demo(), ranks, {}, format));
  }
}

TEST(PlanTest, ModelsThatDoNotFitOneCardAreSpreadOverThreeFiveAndSeven) {
  for (const int ranks : {3, 5, 7}) {
    Make(Request(Qwen1p5B(), ranks, {2 * kGiB}, WeightFormat::kInt8));
    Make(Request(Qwen7B(), ranks, {5 * kGiB}, WeightFormat::kInt8));
    Make(Request(Qwen14B(), ranks, {8 * kGiB}, WeightFormat::kInt8));
  }
}

TEST(PlanTest, StagesAreUsedWhereTheEmbeddingOnEveryRankWouldNotFit) {
  // The table alone is 1.04 GiB; only a first stage of its own, or with few others, leaves room for the layers.
  const Plan plan = Make(Request(Qwen7B(), 4, {1792 * kMiB}, WeightFormat::kInt4));
  EXPECT_GT(plan.stages.size(), 1u);
}

TEST(PlanTest, ExplicitStagesAndSharesAreFollowed) {
  PlanRequest request = Request(Demo(), 3, {}, WeightFormat::kInt8);
  request.stages = {{.ranks = 2, .layers = 2, .shares = {2, 1}}, {.ranks = 1, .layers = 4, .shares = {}}};
  const Plan plan = Make(request);
  EXPECT_THAT(StageSizes(plan), ElementsAre(2, 1));
  EXPECT_THAT(Layers(plan), ElementsAre(2, 4));
  EXPECT_THAT(Heads(plan), ElementsAre(8, 4, 12));
  EXPECT_EQ(plan.ranks[0].ffn.size(), 384);  // 5 groups: 3 + 2.
}

TEST(PlanTest, TheSmallestRankDecidesTheKvBlocks) {
  PlanRequest request = Request(Qwen1p5B(), 2, {4 * kGiB, 2 * kGiB}, WeightFormat::kInt8);
  request.max_sequences = 400;
  request.stages.resize(1);
  request.stages[0].ranks = 2;
  const Plan plan = Make(request);
  const RankPlan& small = plan.ranks[1];
  const int64_t block = KvBytes(plan.shape, plan.formats, small, plan.kv_block_tokens, 1);
  EXPECT_GT(small.memory.total() + block, small.memory.budget) << "one more block would have fitted";
  EXPECT_LT(plan.ranks[0].memory.total() + block, plan.ranks[0].memory.budget);
}

TEST(PlanTest, PlansAreDeterministic) {
  const PlanRequest request = Request(Qwen7B(), 4, {8 * kGiB, 6 * kGiB, 4 * kGiB, 4 * kGiB}, WeightFormat::kInt4);
  EXPECT_EQ(PlanToJson(Make(request)).dump(), PlanToJson(Make(request)).dump());
}

TEST(PlanTest, EverySplitOfAModelHoldsEveryWeightOnce) {
  // The bytes of matrices do not depend on the cut, apart from copied KV heads, replicated gains and padding: int8 rows
  // of whole heads, groups and blocks need none.
  const Plan one = Make(Request(Qwen1p5B(), 1, {}, WeightFormat::kInt8));
  const Plan two = Make(Request(Qwen1p5B(), 2, {}, WeightFormat::kInt8));
  const auto matrices = [](const Plan& plan) {
    int64_t sum = 0;
    for (const RankPlan& rank : plan.ranks) {
      sum += rank.memory.weights - EmbeddingBytes(plan.shape, plan.formats, rank) - 64 * 4;
      sum -= rank.layers.size() * (2 * 1536 * 4) + 1536 * 4;  // Gains.
      sum -= rank.layers.size() * (2 * 1536 * 4);             // Row scales of attention_out and down.
    }
    return sum;
  };
  EXPECT_EQ(matrices(one), matrices(two));
}

TEST(PlanRefusalTest, TooManyRanks) {
  EXPECT_THAT(Refusal(Request(Demo(), 80, {}, WeightFormat::kInt8), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("80 ranks are too many"), HasSubstr("12 query heads"), HasSubstr("only 6 layers")));
  PlanRequest request = Request(Demo(), 13, {}, WeightFormat::kInt8);
  request.stages = {{.ranks = 13, .layers = 6, .shares = {}}};
  EXPECT_EQ(Refusal(request, absl::StatusCode::kInvalidArgument),
            "cannot cut 12 query heads over 13 tensor-parallel ranks; use at most 12 or add pipeline stages");
  request.ranks = request.stages[0].ranks = 7;
  EXPECT_EQ(
      Refusal(request, absl::StatusCode::kInvalidArgument),
      "cannot cut 5 groups of 128 FFN columns over 7 tensor-parallel ranks; use at most 5 or add pipeline stages");
}

TEST(PlanRefusalTest, StagesThatDoNotAddUp) {
  PlanRequest request = Request(Demo(), 4, {}, WeightFormat::kInt8);
  request.stages = {{.ranks = 2, .layers = 3, .shares = {}}, {.ranks = 1, .layers = 3, .shares = {}}};
  EXPECT_EQ(Refusal(request, absl::StatusCode::kInvalidArgument),
            "the stages have 3 ranks but the job has 4; start mpirun with -n 3 or change the stages");
  request.ranks = 3;
  request.stages[1].layers = 4;
  EXPECT_EQ(Refusal(request, absl::StatusCode::kInvalidArgument),
            "the stages have 7 layers but the model has 6; make them add up");
  request.stages[0].layers = 6;
  request.stages[1].layers = 0;
  EXPECT_EQ(Refusal(request, absl::StatusCode::kInvalidArgument),
            "the stages take 6 of 6 layers and leave too few for 1 stages without a number");
  request.ranks = 7;
  request.stages.assign(7, StageSpec{});
  EXPECT_EQ(Refusal(request, absl::StatusCode::kInvalidArgument),
            "7 stages cannot share 6 layers; use at most 6 stages");
  request.ranks = 2;
  request.stages = {{.ranks = 2, .layers = 0, .shares = {1}}};
  EXPECT_EQ(Refusal(request, absl::StatusCode::kInvalidArgument),
            "stage 0 has 1 shares for 2 ranks; give one per rank");
  request.stages[0].shares = {1, -1};
  EXPECT_THAT(Refusal(request, absl::StatusCode::kInvalidArgument), HasSubstr("stage 0: share -1"));
  request.stages[0] = {.ranks = 0, .layers = 6, .shares = {}};
  EXPECT_THAT(Refusal(request, absl::StatusCode::kInvalidArgument), HasSubstr("stage 0: ranks is 0"));
}

TEST(PlanRefusalTest, WeightsThatDoNotFitNameTheRankTheNumbersAndARemedyThatWorks) {
  PlanRequest request = Request(Qwen7B(), 2, {4 * kGiB}, WeightFormat::kInt8);
  const std::string text = Refusal(request, absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(text, AllOf(HasSubstr("rank "), HasSubstr(" needs "), HasSubstr(" of 4.00 GiB: weights "),
                          HasSubstr("; use 3 ranks, or use int4 weights")));
  request.formats = All(WeightFormat::kInt4);
  Make(request);
  request.formats = All(WeightFormat::kInt8);
  request.ranks = 3;
  Make(request);
}

TEST(PlanRefusalTest, NothingHelpsAModelFarTooLarge) {
  EXPECT_THAT(Refusal(Request(Qwen14B(), 2, {100 * kMiB}, WeightFormat::kInt4), absl::StatusCode::kResourceExhausted),
              HasSubstr("no single setting makes it fit"));
}

TEST(PlanRefusalTest, KvThatDoesNotFit) {
  PlanRequest request = Request(Qwen1p5B(), 1, {4 * kGiB}, WeightFormat::kInt8);
  request.kv_blocks = 10'000;  // 8.5 GiB
  EXPECT_THAT(Refusal(request, absl::StatusCode::kResourceExhausted),
              AllOf(HasSubstr("320000 tokens of KV"), HasSubstr("lower kv_blocks to ")));
  request.kv_blocks = 63;
  EXPECT_EQ(
      Refusal(request, absl::StatusCode::kInvalidArgument),
      "kv_blocks is 63 (2016 tokens), less than one sequence of max_context 2048 tokens; use at least 64 or lower "
      "max_context");
  request.kv_blocks = 0;
  request.max_context = 131072;  // 3.5 GiB for one sequence
  EXPECT_THAT(Refusal(request, absl::StatusCode::kResourceExhausted), HasSubstr("lower max_context to "));
}

TEST(PlanRefusalTest, ActivationsThatDoNotFit) {
  PlanRequest request = Request(Qwen1p5B(), 1, {3 * kGiB}, WeightFormat::kInt8);
  request.max_step_tokens = 16384;
  EXPECT_THAT(Refusal(request, absl::StatusCode::kResourceExhausted), HasSubstr("lower max_step_tokens to "));
}

TEST(PlanRefusalTest, NumbersOutOfRangeNameTheirField) {
  const PlanRequest good = Request(Demo(), 2, {}, WeightFormat::kInt8);
  const auto expect = [&](auto change, const std::string& text) {
    PlanRequest bad = good;
    change(bad);
    EXPECT_THAT(Refusal(bad, absl::StatusCode::kInvalidArgument), HasSubstr(text));
  };
  expect([](PlanRequest& r) { r.ranks = 0; }, "ranks is 0");
  expect([](PlanRequest& r) { r.shape.layers = -1; }, "layers is -1");
  expect([](PlanRequest& r) { r.shape.hidden = int64_t{1} << 40; }, "hidden size is");
  expect([](PlanRequest& r) { r.shape.heads = 13; }, "13 query heads are not a multiple of 2 KV heads");
  expect([](PlanRequest& r) { r.shape.kv_heads = 13; }, "KV heads is 13");
  expect([](PlanRequest& r) { r.shape.head_dim = 31; }, "head size 31 is odd");
  expect([](PlanRequest& r) { r.shape.vocab = 0; }, "vocabulary is 0");
  expect([](PlanRequest& r) { r.shape.ffn = 172; }, "down cannot be int8");
  expect([](PlanRequest& r) { r.shape.hidden = 360; }, "qkv cannot be int8");
  expect([](PlanRequest& r) { r.shape.head_dim = 16; }, "attention_out cannot be int8");
  expect([](PlanRequest& r) { r.formats.embedding = WeightFormat::kInt8; }, "embedding cannot be int8");
  expect([](PlanRequest& r) { r.formats.kv = DType::kBF16; }, "KV cache must be int8, f16 or f32");
  expect([](PlanRequest& r) { r.max_context = 0; }, "max_context is 0");
  expect([](PlanRequest& r) { r.max_step_tokens = 0; }, "max_step_tokens is 0");
  expect([](PlanRequest& r) { r.max_sequences = 0; }, "max_sequences is 0");
  expect(
      [](PlanRequest& r) {
        r.shape.vocab = 152064;
        r.max_sequences = 900;
      },
      "several ranks can serve at most 439");
  expect([](PlanRequest& r) { r.kv_block_tokens = 0; }, "kv_block_tokens is 0");
  expect([](PlanRequest& r) { r.kv_blocks = int64_t{1} << 40; }, "kv_blocks is");
  expect([](PlanRequest& r) { r.memory_budget = {1, 2, 3}; }, "memory_budget has 3 entries for 2 ranks");
  expect([](PlanRequest& r) { r.memory_budget = {-1}; }, "memory_budget is -1");
  expect([](PlanRequest& r) { r.reserved_bytes = -1; }, "reserved_bytes is -1");
}

TEST(PlanTest, DenseModelsWithAnyWidthsArePlanned) {
  PlanRequest request = Request({5, 64, 8, 4, 8, 172, 512, false, false}, 2, {}, WeightFormat::kF32);  // stories260K
  request.formats.embedding = WeightFormat::kF32;
  Make(request);
}

TEST(ActivationLayoutTest, BuffersFollowTheFormatsAndTheStage) {
  const auto names = [](const Plan& plan, int rank) {
    std::vector<std::string> names;
    int64_t bytes = 0;
    for (const BufferSpec& buffer : ActivationBuffers(plan.shape, plan.formats, plan.ranks[rank], plan.max_step_tokens,
                                                      plan.max_sequences, plan.max_context, plan.kv_block_tokens)) {
      names.push_back(buffer.name);
      EXPECT_GE(buffer.bytes(), buffer.rows * buffer.cols * SizeOf(buffer.dtype));
      EXPECT_EQ(buffer.bytes() % 64, 0);
      bytes += buffer.bytes();
    }
    EXPECT_EQ(bytes, plan.ranks[rank].memory.activations);
    return names;
  };
  PlanRequest request = Request(Demo(), 2, {}, WeightFormat::kInt8);
  request.stages.resize(2);
  const Plan quantized = Make(request);
  EXPECT_THAT(names(quantized, 0),
              AllOf(Contains("h.q"), Contains("ffn.sum"), Not(Contains("h.dense")), Not(Contains("logits"))));
  EXPECT_THAT(names(quantized, 1), AllOf(Contains("logits"), Contains("last_h.q"), Contains("candidate_ids")));
  request.formats = All(WeightFormat::kBF16);
  request.formats.down = WeightFormat::kInt4;
  EXPECT_THAT(names(Make(request), 1), AllOf(Contains("h.dense"), Not(Contains("h.q")), Contains("attended.dense"),
                                             Contains("ffn.q"), Not(Contains("ffn.dense")), Contains("last_h.dense")));
}

TEST(MemoryModelTest, CommunicationCountsTheBuffersOfTheCommunicators) {
  PlanRequest request = Request(Qwen1p5B(), 4, {}, WeightFormat::kInt8);
  request.stages = {{.ranks = 2, .layers = 0, .shares = {}}, {.ranks = 2, .layers = 0, .shares = {}}};
  const Plan plan = Make(request);
  const int64_t sums = 2 * (kAllReduceChunkBytes + 128);  // Of shared memory: two slots and their flags.
  // 48 pieces of 64 KiB each, an entry of 16 bytes for each, and two counters.
  const int64_t hop = kSendsInFlight * (int64_t{512} * 1536 * 4 + 48 * 16) + 256;
  EXPECT_EQ(plan.ranks[0].memory.communication, sums + hop);
  EXPECT_EQ(plan.ranks[3].memory.communication, sums);
  // Ranks 0 and 2 of a stage of three take from rank 0 of a stage of two, rank 1 from rank 1.
  request.ranks = 5;
  request.stages[1].ranks = 3;
  const Plan wider = Make(request);
  EXPECT_EQ(wider.ranks[0].memory.communication, sums + 2 * hop);
  EXPECT_EQ(wider.ranks[1].memory.communication, sums + hop);
  using Hops = std::vector<std::pair<int, int>>;
  EXPECT_EQ(PipelineHops(plan), (Hops{{0, 2}, {1, 3}}));
  EXPECT_EQ(PipelineHops(wider), (Hops{{0, 2}, {1, 3}, {0, 4}}));
}

TEST(PlanTextTest, BytesHaveThreeDigits) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(999), "999 B");
  EXPECT_EQ(BytesText(1023), "1.00 KiB");
  EXPECT_EQ(BytesText(3 * kGiB / 2), "1.50 GiB");
  EXPECT_EQ(BytesText(100 * kMiB), "100 MiB");
  EXPECT_EQ(BytesText(kMiB * 25 / 2), "12.5 MiB");
}

TEST(PlanTextTest, TextAndJsonShowEveryRank) {
  PlanRequest request = Request(Demo(), 3, {64 * kMiB}, WeightFormat::kInt8);
  request.stages = {{.ranks = 2, .layers = 4, .shares = {}}, {.ranks = 1, .layers = 2, .shares = {}}};
  const Plan plan = Make(request);
  const std::string text = PlanToText(plan);
  EXPECT_THAT(text,
              AllOf(HasSubstr("plan: 3 ranks, 2 stages (2 + 1 tensor-parallel), as configured"), HasSubstr("0-3 (4)"),
                    HasSubstr("4-5 (2)"), HasSubstr("64.0 MiB"), HasSubstr("KV capacity: ")));
  const Json json = PlanToJson(plan);
  EXPECT_EQ(json["stages"], Json::parse("[[0, 1], [2]]"));
  ASSERT_EQ(json["ranks"].size(), 3u);
  EXPECT_EQ(json["ranks"][2]["layers"], Json::parse("[4, 6]"));
  EXPECT_EQ(json["ranks"][2]["vocab"], Json::parse("[0, 1024]"));
  EXPECT_EQ(json["ranks"][1]["heads"], Json::parse("[6, 12]"));
  EXPECT_EQ(json["ranks"][0]["memory"]["total"], plan.ranks[0].memory.total());
  EXPECT_EQ(json["kv"]["tokens"], plan.kv_tokens());
}

}  // namespace
}  // namespace shoal
