// The 8-bit KV cache of every implementation: what is stored is the reference's bit for bit, and attention over it is
// close to double and the same for any chunking.
#include <numeric>

#include "gmock/gmock.h"
#include "tests/kernels/kernels_testing.h"

namespace shoal {
namespace {

using testing::ElementsAreArray;

KvView NewCache(Rig& rig, int64_t blocks, int64_t heads, int64_t block, int64_t head_dim) {
  KvView view;
  view.k = rig.New(DType::kI8, {blocks, heads, block, head_dim});
  view.v = rig.New(DType::kI8, {blocks, heads, block, head_dim});
  view.k_scale = rig.New(DType::kF16, {blocks, heads, block, head_dim / kKvGroup});
  view.v_scale = rig.New(DType::kF16, {blocks, heads, block, head_dim / kKvGroup});
  return view;
}

class Int8KvConformanceTest : public ImplementationTest {};

TEST_P(Int8KvConformanceTest, StoreKvIsTheReferenceBitForBit) {
  Random random(21);
  const int64_t heads = 2, dim = 96, rows = 6;
  std::vector<float> k = random.Normal(rows * heads * dim, 3.0f), v = random.Normal(rows * heads * dim);
  std::fill_n(k.begin(), 32, 0.0f);
  k[40] = 1e-9f;                           // A scale below the smallest half: 0.
  std::fill_n(k.begin() + 64, 32, 3e-6f);  // A subnormal scale, whose rounding shows.
  k[100] = std::numeric_limits<float>::infinity();
  k[140] = std::nanf("");
  v[0] = 1e30f;  // A scale beyond the largest half.
  for (int64_t j = 33; j < 64; ++j) k[j] = k[j] * 1e-12f;
  std::vector<std::vector<int8_t>> q;
  std::vector<std::vector<uint16_t>> scales;
  for (Rig* r : {&rig(), &oracle()}) {
    const KvView cache = NewCache(*r, 3, heads, 4, dim);
    r->ops().StoreKv(r->Floats(k, {rows, heads * dim}), r->Floats(v, {rows, heads * dim}),
                     r->Ints({3, -1, 0, 11, 7, 4}), cache);
    for (const Tensor& t : {cache.k, cache.v}) q.push_back(r->Out<int8_t>(t));
    for (const Tensor& t : {cache.k_scale, cache.v_scale}) scales.push_back(r->Out<uint16_t>(t));
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(q[i], ElementsAreArray(q[i + 2]));
    EXPECT_THAT(scales[i], ElementsAreArray(scales[i + 2]));
  }
}

TEST_P(Int8KvConformanceTest, ValuesComeBackWithinHalfAStep) {
  Random random(22);
  const std::vector<float> k = random.Normal(64), v = random.Normal(64);
  const KvView cache = NewCache(rig(), 1, 1, 4, 64);
  rig().ops().StoreKv(rig().Floats(k, {1, 64}), rig().Floats(v, {1, 64}), rig().Ints({2}), cache);
  const std::vector<int8_t> q = rig().Out<int8_t>(cache.k);
  const std::vector<uint16_t> scale = rig().Out<uint16_t>(cache.k_scale);
  for (int j = 0; j < 64; ++j) {
    const float step = HalfToFloat(scale[2 * 2 + j / 32]);
    EXPECT_NEAR(q[2 * 64 + j] * step, k[j], step * 0.501f + std::fabs(k[j]) * 0x1p-11f);  // The scale is a half.
  }
}

TEST_P(Int8KvConformanceTest, AttentionMatchesDoubleAndDoesNotDependOnTheChunk) {
  Random random(23);
  for (const int64_t dim : {32, 64, 128}) {
    const HeadMap map{
        .heads = 6, .kv_heads = 2, .first = 0, .kv_first = 0, .heads_per_kv = 3, .head_dim = static_cast<int>(dim)};
    const int64_t tokens = 150, block = 16, blocks = 10;
    const std::vector<float> q = random.Normal(tokens * 6 * dim), k = random.Normal(tokens * 2 * dim),
                             v = random.Normal(tokens * 2 * dim);
    std::vector<int32_t> slots(tokens), table(blocks);
    for (int64_t b = 0; b < blocks; ++b) table[b] = static_cast<int32_t>((b * 7 + 3) % blocks);
    for (int64_t i = 0; i < tokens; ++i) slots[i] = static_cast<int32_t>(table[i / block] * block + i % block);
    const auto attend = [&](Rig& r, const KvView& cache, int64_t begin, int64_t end) {
      const Tensor all = r.Floats(q, {tokens, 6 * dim});
      AttentionPlan plan{r.Ints({0, static_cast<int32_t>(end - begin)}), r.Ints({static_cast<int32_t>(end)}),
                         r.In(table, DType::kI32, {1, blocks})};
      const Activation out = r.NewActivation(end - begin, 6 * dim, 0);
      r.ops().Attention(all.Slice(begin, end - begin), cache, plan, map, out);
      return r.Out<float>(out.dense);
    };
    std::vector<std::vector<float>> whole;
    std::vector<KvView> caches;
    for (Rig* r : {&rig(), &oracle()}) {
      caches.push_back(NewCache(*r, blocks, 2, block, dim));
      r->ops().StoreKv(r->Floats(k, {tokens, 2 * dim}), r->Floats(v, {tokens, 2 * dim}), r->Ints(slots), caches.back());
      whole.push_back(attend(*r, caches.back(), 0, tokens));
    }
    // As for 16 bits: scores err by about 8 D units for these inputs; the values are below 5.
    const double bound = 5 * (8 * static_cast<double>(dim) + 100) * 0x1p-24;
    for (size_t i = 0; i < whole[0].size(); ++i) ASSERT_NEAR(whole[0][i], whole[1][i], bound) << dim;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{149, 150}, {128, 129}, {5, 77}, {100, 150}}) {
      const std::vector<float> expected(whole[0].begin() + begin * 6 * dim, whole[0].begin() + end * 6 * dim);
      EXPECT_THAT(attend(rig(), caches[0], begin, end), ElementsAreArray(expected)) << begin << ".." << end;
    }
  }
}

SHOAL_FOR_ALL_WITHOUT_PATHS(Int8KvConformanceTest);

}  // namespace
}  // namespace shoal
