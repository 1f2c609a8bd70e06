// Norms, quantization, RoPE, embedding, storage and top-k of every implementation.
#include <limits>

#include "gmock/gmock.h"
#include "tests/kernels/kernels_testing.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

constexpr float kInf = std::numeric_limits<float>::infinity();

class RowOpsConformanceTest : public ImplementationTest {};

// n squares are summed in 16 lanes and 4 halvings; the root halves the error; 4 more roundings.
double NormBound(int64_t n) { return (static_cast<double>(n) / 32 + 8) * 0x1p-24; }

TEST_P(RowOpsConformanceTest, RmsNormMatchesReference) {
  Random random(1);
  for (int64_t cols : {1, 8, 31, 64, 257, 1536}) {
    for (int64_t rows : {1, 31}) {
      const std::vector<float> x = random.Normal(rows * cols, 3.0f), gain = random.Normal(cols);
      std::vector<std::vector<float>> y;
      for (Rig* r : {&rig(), &oracle()}) {
        const Activation out = r->NewActivation(rows, cols, 0);
        r->ops().RmsNorm(r->Floats(x, {rows, cols}), r->Floats(gain, {cols}), 1e-6f, out);
        y.push_back(r->Out<float>(out.dense));
      }
      for (size_t i = 0; i < y[0].size(); ++i) ASSERT_NEAR(y[0][i], y[1][i], std::fabs(y[1][i]) * NormBound(cols));
    }
  }
}

TEST_P(RowOpsConformanceTest, AddRmsNormUpdatesTheResidualAndNormalizesIt) {
  Random random(2);
  const int64_t rows = 7, cols = 160;
  const std::vector<float> x = random.Normal(rows * cols), gain = random.Normal(cols), d = random.Normal(rows * cols);
  const std::vector<double> delta(d.begin(), d.end());
  const Tensor residual = rig().Floats(x, {rows, cols});
  const Tensor g = rig().Floats(gain, {cols});
  const Activation out = rig().NewActivation(rows, cols, 32), again = rig().NewActivation(rows, cols, 32);
  rig().ops().AddRmsNorm(rig().In(delta, DType::kF64, {rows, cols}), g, 1e-5f, residual, out);
  const std::vector<float> sum = rig().Out<float>(residual);
  for (size_t i = 0; i < sum.size(); ++i) ASSERT_EQ(sum[i], x[i] + d[i]);
  rig().ops().RmsNorm(residual, g, 1e-5f, again);
  EXPECT_THAT(rig().Out<float>(out.dense), ElementsAreArray(rig().Out<float>(again.dense)));
  EXPECT_THAT(rig().Out<int8_t>(out.q), ElementsAreArray(rig().Out<int8_t>(again.q)));

  const Tensor twice = rig().Floats(x, {rows, cols});
  rig().ops().AddResidual(rig().In(delta, DType::kF64, {rows, cols}), twice);
  EXPECT_THAT(rig().Out<float>(twice), ElementsAreArray(sum));
}

TEST_P(RowOpsConformanceTest, ARowIsNormalizedToTheSameBitsAloneAndInABatch) {
  Random random(3);
  const std::vector<float> x = random.Normal(40 * 416), gain = random.Normal(416);
  const Tensor all = rig().Floats(x, {40, 416}), g = rig().Floats(gain, {416});
  const Activation out = rig().NewActivation(40, 416, 32);
  rig().ops().RmsNorm(all, g, 1e-6f, out);
  const std::vector<float> whole = rig().Out<float>(out.dense);
  const Activation one = rig().NewActivation(1, 416, 32);
  for (int64_t i = 0; i < 40; ++i) {
    rig().ops().RmsNorm(all.Slice(i, 1), g, 1e-6f, one);
    const std::vector<float> row(whole.begin() + i * 416, whole.begin() + (i + 1) * 416);
    ASSERT_THAT(rig().Out<float>(one.dense), ElementsAreArray(row));
  }
}

TEST_P(RowOpsConformanceTest, QuantizationOfGivenValuesIsTheReferenceBitForBit) {
  // Normalizing rows of +-1 with gain x gives exactly x, up to the same factor everywhere: the quantizer sees equal
  // bits.
  Random random(4);
  for (const auto& [cols, group] : {std::pair<int64_t, int64_t>{32, 32}, {96, 32}, {320, 64}, {640, 128}, {512, 256}}) {
    const std::vector<float> gain = random.Normal(cols, 5.0f);
    const std::vector<float> ones(3 * cols, 1.0f);
    const Activation out = rig().NewActivation(3, cols, group), expected = oracle().NewActivation(3, cols, group);
    const Activation hidden = rig().NewActivation(3, cols, group, false);
    rig().ops().RmsNorm(rig().Floats(ones, {3, cols}), rig().Floats(gain, {cols}), 0.0f, out);
    rig().ops().RmsNorm(rig().Floats(ones, {3, cols}), rig().Floats(gain, {cols}), 0.0f, hidden);
    oracle().ops().RmsNorm(oracle().Floats(ones, {3, cols}), oracle().Floats(gain, {cols}), 0.0f, expected);
    ASSERT_THAT(rig().Out<float>(out.dense), ElementsAreArray(oracle().Out<float>(expected.dense)));
    EXPECT_THAT(rig().Out<int8_t>(out.q), ElementsAreArray(oracle().Out<int8_t>(expected.q)));
    EXPECT_THAT(rig().Out<float>(out.scale), ElementsAreArray(oracle().Out<float>(expected.scale)));
    EXPECT_THAT(rig().Out<int32_t>(out.sum), ElementsAreArray(oracle().Out<int32_t>(expected.sum)));
    EXPECT_THAT(rig().Out<int8_t>(hidden.q), ElementsAreArray(rig().Out<int8_t>(out.q)));
    EXPECT_THAT(rig().Out<float>(hidden.scale), ElementsAreArray(rig().Out<float>(out.scale)));
  }
}

TEST_P(RowOpsConformanceTest, QuantizationOfZerosTinyAndBrokenValuesIsDefined) {
  std::vector<float> gain(5 * 32, 0.0f);
  gain[32] = 1e-38f;
  gain[64] = 1.0f;
  gain[65] = -0.5f / 127;  // Ties go to even: 0.
  gain[66] = 1.5f / 127;   // And 2.
  gain[97] = kInf;
  gain[130] = std::nanf("");
  const Activation out = rig().NewActivation(1, 160, 32);
  rig().ops().RmsNorm(rig().Floats(std::vector<float>(160, 1.0f), {1, 160}), rig().Floats(gain, {160}), 0.0f, out);
  const std::vector<int8_t> q = rig().Out<int8_t>(out.q);
  const std::vector<float> scale = rig().Out<float>(out.scale);
  EXPECT_EQ(scale[0], 0.0f);
  EXPECT_EQ(scale[1], 0.0f);
  EXPECT_EQ(q[32], 0);
  EXPECT_EQ(scale[2], 1.0f * (1 / 127.0f));
  EXPECT_EQ(q[64], 127);
  EXPECT_EQ(q[65], 0);
  EXPECT_EQ(q[66], 2);
  EXPECT_TRUE(std::isnan(scale[3]));
  EXPECT_TRUE(std::isnan(scale[4]));
  EXPECT_EQ(q[97], 0);
  EXPECT_THAT(rig().Out<int32_t>(out.sum), ElementsAre(0, 0, 129, 0, 0));
}

TEST_P(RowOpsConformanceTest, HeadRmsNormMatchesReference) {
  Random random(5);
  for (int64_t head_dim : {8, 32, 80, 128}) {
    const std::vector<float> x = random.Normal(5 * 3 * head_dim), gain = random.Normal(head_dim);
    const Tensor a = rig().Floats(x, {5, 3 * head_dim}), b = oracle().Floats(x, {5, 3 * head_dim});
    // Only the middle head's columns: the others must stay.
    rig().ops().HeadRmsNorm(rig().Floats(gain, {head_dim}), 1e-6f, a.Cols(head_dim, head_dim));
    oracle().ops().HeadRmsNorm(oracle().Floats(gain, {head_dim}), 1e-6f, b.Cols(head_dim, head_dim));
    const std::vector<float> y = rig().Out<float>(a), expected = oracle().Out<float>(b);
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_NEAR(y[i], expected[i], std::fabs(expected[i]) * NormBound(head_dim));
      if (static_cast<int64_t>(i) % (3 * head_dim) < head_dim) {
        ASSERT_EQ(y[i], x[i]);
      }
    }
  }
}

TEST_P(RowOpsConformanceTest, RopeMatchesReference) {
  Random random(6);
  for (int64_t head_dim : {2, 8, 64, 128}) {
    const std::vector<int32_t> positions = {0, 1, 77, 4095, 131071};
    std::vector<float> inv_freq(head_dim / 2);
    for (size_t j = 0; j < inv_freq.size(); ++j) {
      inv_freq[j] = std::pow(10000.0f, -2.0f * static_cast<float>(j) / static_cast<float>(head_dim));
    }
    const std::vector<float> x = random.Normal(5 * 3 * head_dim);
    std::vector<std::vector<float>> tables, y;
    for (Rig* r : {&rig(), &oracle()}) {
      const Tensor table = r->New(DType::kF32, {5, head_dim});
      r->ops().RopeTable(r->Ints(positions), r->Floats(inv_freq, {head_dim / 2}), 1.25f, table);
      const Tensor heads = r->Floats(x, {5, 3 * head_dim});
      r->ops().Rope(table, heads);
      tables.push_back(r->Out<float>(table));
      y.push_back(r->Out<float>(heads));
    }
    for (size_t i = 0; i < tables[0].size(); ++i) ASSERT_NEAR(tables[0][i], tables[1][i], 2 * 0x1p-24);
    for (size_t i = 0; i < y[0].size(); ++i) ASSERT_NEAR(y[0][i], y[1][i], 5 * 1.25 * 8 * 0x1p-24);
    for (int64_t j = 0; j < 3 * head_dim; ++j) ASSERT_EQ(y[0][j], x[j] * 1.25f);  // Position 0 only scales.
  }
}

TEST_P(RowOpsConformanceTest, EmbedAndGatherRowsCopyTheChosenRows) {
  Random random(7);
  const std::vector<float> values = random.Normal(9 * 37);
  std::vector<uint16_t> bf16;
  for (float x : values) bf16.push_back(FloatToBf16(x));
  const Tensor f32_table = rig().Floats(values, {9, 37}), bf16_table = rig().In(bf16, DType::kBF16, {9, 37});
  const std::vector<int32_t> ids = {8, 0, 3, 3};
  const Tensor a = rig().New(DType::kF32, {4, 37}), b = rig().New(DType::kF32, {4, 37});
  const Tensor c = rig().New(DType::kBF16, {4, 37});
  rig().ops().Embed(f32_table, rig().Ints(ids), a);
  rig().ops().Embed(bf16_table, rig().Ints(ids), b);
  rig().ops().GatherRows(bf16_table, rig().Ints(ids), c);
  const std::vector<float> x = rig().Out<float>(a), y = rig().Out<float>(b);
  const std::vector<uint16_t> z = rig().Out<uint16_t>(c);
  for (size_t i = 0; i < 4; ++i) {
    for (size_t j = 0; j < 37; ++j) {
      EXPECT_EQ(x[i * 37 + j], values[ids[i] * 37 + j]);
      EXPECT_EQ(y[i * 37 + j], Bf16ToFloat(bf16[ids[i] * 37 + j]));
      EXPECT_EQ(z[i * 37 + j], bf16[ids[i] * 37 + j]);
    }
  }
}

TEST_P(RowOpsConformanceTest, StoreKvIsTheReferenceBitForBit) {
  Random random(8);
  for (DType type : {DType::kF32, DType::kF16}) {
    std::vector<float> k = random.Normal(6 * 2 * 20, 3.0f), v = random.Normal(6 * 2 * 20);
    k[0] = 1e9f;  // Infinity in f16.
    k[1] = 1e-7f;
    k[2] = -65519.0f;
    k[3] = 2049.0f;
    std::vector<std::vector<uint16_t>> caches;
    for (Rig* r : {&rig(), &oracle()}) {
      KvView cache{r->New(type, {3, 2, 4, 20}), r->New(type, {3, 2, 4, 20})};
      r->ops().StoreKv(r->Floats(k, {6, 40}), r->Floats(v, {6, 40}), r->Ints({3, -1, 0, 11, 7, 4}), cache);
      caches.push_back(r->Out<uint16_t>(cache.k));
      caches.push_back(r->Out<uint16_t>(cache.v));
    }
    EXPECT_THAT(caches[0], ElementsAreArray(caches[2]));
    EXPECT_THAT(caches[1], ElementsAreArray(caches[3]));
  }
}

TEST_P(RowOpsConformanceTest, TopKIsTheReferenceForRandomAndSortedRows) {
  Random random(9);
  for (int64_t n : {1, 16, 31, 257, 5000}) {
    for (int64_t k : {int64_t{1}, int64_t{40}}) {
      if (k > n) continue;
      std::vector<float> logits = random.Normal(3 * n);
      for (int64_t i = 0; i < n; ++i) logits[n + i] = static_cast<float>(i / 3);  // Ascending, with ties.
      for (int64_t i = 0; i < n; ++i) logits[2 * n + i] = i % 5 ? -kInf : std::nanf("");
      std::vector<std::vector<float>> values;
      std::vector<std::vector<int32_t>> ids;
      for (Rig* r : {&rig(), &oracle()}) {
        const Tensor value = r->New(DType::kF32, {3, k}), id = r->New(DType::kI32, {3, k});
        r->ops().TopK(r->Floats(logits, {3, n}), value, id);
        values.push_back(r->Out<float>(value));
        ids.push_back(r->Out<int32_t>(id));
      }
      EXPECT_THAT(values[0], ElementsAreArray(values[1])) << n << " " << k;
      EXPECT_THAT(ids[0], ElementsAreArray(ids[1])) << n << " " << k;
    }
  }
}

TEST_P(RowOpsConformanceTest, TopKTiesGoToTheLowestIdAndNanCountsAsMinusInfinity) {
  const Tensor values = rig().New(DType::kF32, {1, 5}), ids = rig().New(DType::kI32, {1, 5});
  std::vector<float> row(20, -kInf);
  row[0] = std::nanf("");
  row[18] = row[3] = row[7] = 2.0f;
  row[19] = 5.0f;
  rig().ops().TopK(rig().Floats(row, {1, 20}), values, ids);
  EXPECT_THAT(rig().Out<int32_t>(ids), ElementsAre(19, 3, 7, 18, 0));
  EXPECT_THAT(rig().Out<float>(values), ElementsAre(5.0f, 2.0f, 2.0f, 2.0f, -kInf));
}

SHOAL_FOR_ALL_WITHOUT_PATHS(RowOpsConformanceTest);

}  // namespace
}  // namespace shoal
