// Paged attention of every implementation: against double, and the same bits for any chunking and batch.
#include "gmock/gmock.h"
#include "tests/kernels/attention_testing.h"

namespace shoal {
namespace {

using testing::ElementsAreArray;

class AttentionConformanceTest : public ImplementationTest {};

TEST_P(AttentionConformanceTest, MatchesSoftmaxInDouble) {
  const std::vector<AttentionScene> setups = {
      {Heads(2, 2, 1, 8), 16, DType::kF32, {1}},
      {Heads(4, 2, 2, 32), 16, DType::kF32, {1, 40, 16, 17}},
      {Heads(6, 1, 6, 64), 32, DType::kF32, {70, 33}},
      {Heads(12, 2, 6, 128), 16, DType::kF16, {19, 5}},
      {Heads(3, 3, 1, 80), 8, DType::kF16, {50}},
      {Heads(4, 1, 4, 12), 24, DType::kF32, {61}},
      {Heads(2, 1, 2, 256), 16, DType::kF32, {20}},
      // A shard of 12 heads in groups of 6 that starts at head 4: two heads of KV head 0, three of KV head 1.
      {Heads(5, 2, 6, 32, 4, 0), 16, DType::kF32, {31}},
      {Heads(4, 1, 6, 32, 7, 1), 16, DType::kF32, {9}}};
  for (const AttentionScene& s : setups) {
    AttentionCache cache(rig(), s, 11), oracle_cache(oracle(), s, 11);
    const auto chunks = cache.Everything();
    const std::vector<float> y = rig().Out<float>(cache.Attend(chunks).dense);
    const std::vector<float> expected = oracle().Out<float>(oracle_cache.Attend(chunks).dense);
    // Scores err by D * 2^-24 * |q||k| / sqrt(D), about 8 D units for these inputs; the values are below 5.
    const double bound = 5 * (8 * s.heads.head_dim + 100) * 0x1p-24;
    for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], bound) << "head size " << s.heads.head_dim;
  }
}

TEST_P(AttentionConformanceTest, ATokenHasTheSameBitsInAnyChunkAndBatch) {
  for (DType kv : {DType::kF32, DType::kF16}) {
    const AttentionScene s{Heads(6, 2, 3, 32), 16, kv, {45, 20, 3}};
    AttentionCache cache(rig(), s, 12);
    const int64_t width = 6 * 32;
    const std::vector<float> whole = rig().Out<float>(cache.Attend(cache.Everything()).dense);
    const auto expect_rows = [&](const std::vector<AttentionCache::Chunk>& chunks) {
      const std::vector<float> part = rig().Out<float>(cache.Attend(chunks).dense);
      int64_t row = 0;
      for (const auto& c : chunks) {
        const int64_t first = c.sequence == 0 ? 0 : c.sequence == 1 ? 45 : 65;
        for (int i = c.begin; i < c.end; ++i, ++row) {
          for (int64_t j = 0; j < width; ++j) {
            ASSERT_EQ(part[row * width + j], whole[(first + i) * width + j]) << c.sequence << ":" << i;
          }
        }
      }
    };
    for (int i = 0; i < 45; ++i) expect_rows({{0, i, i + 1}});  // Decode, alone.
    expect_rows({{2, 2, 3}, {0, 44, 45}, {1, 19, 20}});         // Decode, batched.
    expect_rows({{0, 0, 7}, {1, 5, 20}});                       // Chunks of several sequences.
    expect_rows({{0, 7, 40}});
    expect_rows({{1, 19, 20}, {0, 40, 45}, {2, 0, 3}});  // Decode and prefill in one step.
  }
}

TEST_P(AttentionConformanceTest, QuantizesTheSameValuesWithOrWithoutTheDenseForm) {
  const AttentionScene s{Heads(4, 2, 2, 32), 16, DType::kF32, {21}};
  AttentionCache cache(rig(), s, 13);
  const Activation both = cache.Attend(cache.Everything(), 64), only = cache.Attend(cache.Everything(), 64, false);
  EXPECT_THAT(rig().Out<int8_t>(only.q), ElementsAreArray(rig().Out<int8_t>(both.q)));
  EXPECT_THAT(rig().Out<float>(only.scale), ElementsAreArray(rig().Out<float>(both.scale)));
  EXPECT_THAT(rig().Out<int32_t>(only.sum), ElementsAreArray(rig().Out<int32_t>(both.sum)));
  const std::vector<float> dense = rig().Out<float>(both.dense), scale = rig().Out<float>(both.scale);
  const std::vector<int8_t> q = rig().Out<int8_t>(both.q);
  for (size_t i = 0; i < dense.size(); ++i) EXPECT_NEAR(q[i] * scale[i / 64], dense[i], scale[i / 64] * 0.5001f);
}

TEST_P(AttentionConformanceTest, StaleKeysPastTheEndOfASequenceAreNotSeen) {
  const HeadMap heads = Heads(2, 1, 2, 32);
  std::vector<std::vector<float>> results;
  for (const float stale : {0.0f, std::nanf("")}) {
    Random random(14);
    KvView view{rig().Floats(std::vector<float>(2 * 16 * 32, stale), {2, 1, 16, 32}),
                rig().Floats(std::vector<float>(2 * 16 * 32, stale), {2, 1, 16, 32})};
    const Tensor k = rig().Floats(random.Normal(5 * 32), {5, 32}), v = rig().Floats(random.Normal(5 * 32), {5, 32});
    rig().ops().StoreKv(k, v, rig().Ints({16, 17, -1, 18, 19}), view);
    const Tensor q = rig().Floats(random.Normal(64), {1, 64});
    AttentionPlan plan{rig().Ints({0, 1}), rig().Ints({4}), rig().In<int32_t>({1, -1}, DType::kI32, {1, 2})};
    const Activation out = rig().NewActivation(1, 64, 0);
    rig().ops().Attention(q, view, plan, heads, out);
    results.push_back(rig().Out<float>(out.dense));
  }
  EXPECT_THAT(results[1], ElementsAreArray(results[0]));
  EXPECT_FALSE(std::isnan(results[0][0]));
}

TEST_P(AttentionConformanceTest, LargeScoresDoNotOverflow) {
  const HeadMap heads = Heads(1, 1, 1, 16);
  KvView view{rig().New(DType::kF32, {3, 1, 16, 16}), rig().New(DType::kF32, {3, 1, 16, 16})};
  std::vector<float> k(40 * 16), v(40 * 16);
  std::vector<int32_t> slots(40);
  for (int i = 0; i < 40; ++i) {
    slots[i] = i;
    for (int d = 0; d < 16; ++d) {
      k[i * 16 + d] = i == 20 ? 100.0f : -100.0f;  // Scores of 40,000 and -40,000.
      v[i * 16 + d] = static_cast<float>(i);
    }
  }
  rig().ops().StoreKv(rig().Floats(k, {40, 16}), rig().Floats(v, {40, 16}), rig().Ints(slots), view);
  AttentionPlan plan{rig().Ints({0, 1}), rig().Ints({40}), rig().In<int32_t>({0, 1, 2}, DType::kI32, {1, 3})};
  const Activation out = rig().NewActivation(1, 16, 0);
  rig().ops().Attention(rig().Floats(std::vector<float>(16, 100.0f), {1, 16}), view, plan, heads, out);
  EXPECT_THAT(rig().Out<float>(out.dense), testing::Each(testing::FloatEq(20.0f)));
}

SHOAL_FOR_ALL_WITHOUT_PATHS(AttentionConformanceTest);

}  // namespace
}  // namespace shoal
