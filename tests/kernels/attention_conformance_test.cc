// Paged attention of every implementation: against double, and the same bits for any chunking and batch.
#include <numeric>

#include "gmock/gmock.h"
#include "tests/kernels/kernels_testing.h"

namespace shoal {
namespace {

using testing::ElementsAreArray;

// One sequence with its queries and paged keys; blocks are scattered.
struct Scene {
  HeadMap heads;
  int64_t block = 16;
  DType kv = DType::kF32;
  std::vector<int> lengths;  // Tokens of each sequence.
};

// All sequences' tokens in order, stored in the cache of one device.
class Cache {
 public:
  Cache(Rig& rig, const Scene& s, uint32_t seed) : rig_(rig), setup_(s) {
    Random random(seed);
    const int64_t total = std::accumulate(s.lengths.begin(), s.lengths.end(), int64_t{0});
    const int64_t kv_width = s.heads.kv_heads * s.heads.head_dim, width = s.heads.heads * s.heads.head_dim;
    for (int n : s.lengths) max_blocks_ = std::max<int64_t>(max_blocks_, (n + s.block - 1) / s.block);
    const int64_t sequences = static_cast<int64_t>(s.lengths.size());
    const int64_t num_blocks = max_blocks_ * sequences + 1;
    std::vector<int32_t> free(num_blocks);
    std::iota(free.begin(), free.end(), 0);
    for (int64_t i = num_blocks - 1; i > 0; --i) std::swap(free[i], free[random.Int(0, static_cast<int>(i))]);
    std::vector<int32_t> slots;
    for (int64_t q = 0; q < sequences; ++q) {
      std::vector<int32_t> table(max_blocks_, -1);  // Past the end: never read.
      for (int64_t b = 0; b * s.block < s.lengths[q]; ++b) table[b] = free[q * max_blocks_ + b];
      for (int i = 0; i < s.lengths[q]; ++i) {
        slots.push_back(static_cast<int32_t>(table[i / s.block] * s.block + i % s.block));
      }
      tables_.push_back(table);
    }
    view_.k = rig.New(s.kv, {num_blocks, s.heads.kv_heads, s.block, s.heads.head_dim});
    view_.v = rig.New(s.kv, {num_blocks, s.heads.kv_heads, s.block, s.heads.head_dim});
    q_ = rig.Floats(random.Normal(total * width), {total, width});
    const Tensor k = rig.Floats(random.Normal(total * kv_width), {total, kv_width});
    const Tensor v = rig.Floats(random.Normal(total * kv_width), {total, kv_width});
    rig.ops().StoreKv(k, v, rig.Ints(slots), view_);
  }

  struct Chunk {
    int sequence, begin, end;  // Tokens of the sequence.
  };

  // Attention of these chunks as one step; rows in their order.
  Activation Attend(const std::vector<Chunk>& chunks, int64_t group = 0, bool dense = true) {
    std::vector<int32_t> start = {0}, context, rows, table;
    for (const Chunk& c : chunks) {
      int first = 0;
      for (int q = 0; q < c.sequence; ++q) first += setup_.lengths[q];
      for (int i = c.begin; i < c.end; ++i) rows.push_back(first + i);
      start.push_back(static_cast<int32_t>(rows.size()));
      context.push_back(c.end);
      table.insert(table.end(), tables_[c.sequence].begin(), tables_[c.sequence].end());
    }
    const int64_t tokens = static_cast<int64_t>(rows.size());
    const Tensor q = rig_.New(DType::kF32, {tokens, q_.cols()});
    rig_.ops().GatherRows(q_, rig_.Ints(rows), q);
    AttentionPlan plan;
    plan.query_start = rig_.Ints(start);
    plan.context_len = rig_.Ints(context);
    plan.block_table = rig_.In(table, DType::kI32, {static_cast<int64_t>(chunks.size()), max_blocks_});
    const Activation out = rig_.NewActivation(tokens, q_.cols(), group, dense);
    rig_.ops().Attention(q, view_, plan, setup_.heads, out);
    return out;
  }

  std::vector<Chunk> Everything() const {
    std::vector<Chunk> chunks;
    for (size_t q = 0; q < setup_.lengths.size(); ++q) chunks.push_back({static_cast<int>(q), 0, setup_.lengths[q]});
    return chunks;
  }

 private:
  Rig& rig_;
  Scene setup_;
  KvView view_;
  Tensor q_;
  std::vector<std::vector<int32_t>> tables_;
  int64_t max_blocks_ = 0;
};

HeadMap Heads(int heads, int kv_heads, int per_kv, int head_dim, int first = 0, int kv_first = 0) {
  HeadMap map;
  map.heads = heads;
  map.kv_heads = kv_heads;
  map.heads_per_kv = per_kv;
  map.head_dim = head_dim;
  map.first = first;
  map.kv_first = kv_first;
  return map;
}

class AttentionConformanceTest : public ImplementationTest {};

TEST_P(AttentionConformanceTest, MatchesSoftmaxInDouble) {
  const std::vector<Scene> setups = {
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
  for (const Scene& s : setups) {
    Cache cache(rig(), s, 11), oracle_cache(oracle(), s, 11);
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
    const Scene s{Heads(6, 2, 3, 32), 16, kv, {45, 20, 3}};
    Cache cache(rig(), s, 12);
    const int64_t width = 6 * 32;
    const std::vector<float> whole = rig().Out<float>(cache.Attend(cache.Everything()).dense);
    const auto expect_rows = [&](const std::vector<Cache::Chunk>& chunks) {
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
  const Scene s{Heads(4, 2, 2, 32), 16, DType::kF32, {21}};
  Cache cache(rig(), s, 13);
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

SHOAL_FOR_ALL_IMPLEMENTATIONS(AttentionConformanceTest);

}  // namespace
}  // namespace shoal
