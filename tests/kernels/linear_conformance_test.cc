// Matrix products of every implementation: against the reference, and the same bits whatever the batch or the shards.
#include <limits>
#include <numeric>
#include <tuple>

#include "gmock/gmock.h"
#include "tests/kernels/kernels_testing.h"

namespace shoal {
namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4};

struct Shape {
  int64_t rows, cols, group, tokens;
};

// Every group width, odd group counts, row counts around the blocks of 16 and 32, token counts around every tile.
constexpr Shape kShapes[] = {{1, 32, 32, 1},     {31, 96, 32, 2},     {257, 160, 32, 3},  {48, 320, 64, 4},
                             {33, 192, 64, 7},   {257, 384, 128, 8},  {16, 640, 128, 9},  {31, 640, 128, 16},
                             {65, 768, 256, 17}, {257, 256, 256, 33}, {40, 896, 128, 70}, {17, 160, 32, 131}};

// More groups than a panel of the CUDA kernels has (64), and than their sums take between two carries (256).
constexpr Shape kManyGroups[] = {{9, 2080, 32, 6}, {17, 8320, 128, 3}, {5, 8352, 32, 10}, {33, 4160, 64, 1}};

// Around every tile of every kernel.
constexpr int64_t kTokenCounts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129, 257};

class LinearConformanceTest : public ImplementationTest {
 protected:
  std::vector<float> RunLinear(Rig& r, const WeightData& w, const HostActivation& x) {
    const Weight weight = r.device().LoadWeight(w.host()).value();
    const Tensor out = r.New(DType::kF32, {x.rows, w.rows});
    r.ops().Linear(Upload(r, x), weight, out);
    return r.Out<float>(out);
  }
  std::vector<double> RunPartial(Rig& r, const WeightData& w, const HostActivation& x) {
    const Weight weight = r.device().LoadWeight(w.host()).value();
    const Tensor out = r.New(DType::kF64, {x.rows, w.rows});
    r.ops().LinearPartial(Upload(r, x), weight, out);
    return r.Out<double>(out);
  }
};

// The first `n` tokens.
HostActivation FirstRows(const HostActivation& x, int64_t n) {
  HostActivation some = x;
  some.rows = n;
  some.dense.resize(n * x.cols);
  some.q.resize(n * x.cols);
  some.scale.resize(n * x.cols / x.group);
  some.sum.resize(n * x.cols / kWeightGroup);
  return some;
}

// Dense products: n additions of rounded terms in any order err by at most about n * 2^-24 * sum |w x|.
double DenseBound(const WeightData& w, const HostActivation& x, int64_t token, int64_t row) {
  const std::vector<double> weights = WeightRow(w, row);
  double magnitude = 0;
  for (int64_t k = 0; k < w.cols; ++k) magnitude += std::fabs(weights[k] * x.dense[token * x.cols + k]);
  return (magnitude + 1) * static_cast<double>(w.cols + 4) * 0x1p-24;
}

TEST_P(LinearConformanceTest, QuantizedLinearIsTheReferenceBitForBit) {
  Random random(1);
  std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
  shapes.insert(shapes.end(), std::begin(kManyGroups), std::end(kManyGroups));
  for (const Shape& s : shapes) {
    for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
      const WeightData w = RandomWeight(random, format, s.rows, s.cols, s.group, s.rows % 2 == 1);
      const HostActivation x = RandomActivation(random, s.tokens, s.cols, s.group);
      EXPECT_TRUE(SameValues(RunLinear(rig(), w, x), RunLinear(oracle(), w, x)))
          << WeightFormatName(format) << " " << s.rows << "x" << s.cols << " group " << s.group << " T " << s.tokens;
    }
  }
}

TEST_P(LinearConformanceTest, QuantizedLinearIsCloseToTheProductInDouble) {
  Random random(2);
  const WeightData w = RandomWeight(random, WeightFormat::kInt4, 31, 640, 128, true);
  const HostActivation x = RandomActivation(random, 5, 640, 128);
  const std::vector<float> y = RunLinear(rig(), w, x);
  for (int64_t row = 0; row < w.rows; ++row) {
    const std::vector<double> weights = WeightRow(w, row);
    for (int64_t t = 0; t < x.rows; ++t) {
      double expected = w.bias[row], magnitude = std::fabs(w.bias[row]);
      for (int64_t k = 0; k < w.cols; ++k) {
        const double term = weights[k] * x.q[t * w.cols + k] * x.scale[t * w.cols / w.group + k / w.group];
        expected += term;
        magnitude += std::fabs(term);
      }
      // 5 groups: 5 conversions, 5 fma, 2 more operations, each within 2^-24 of a part of the magnitude.
      EXPECT_NEAR(y[t * w.rows + row], expected, magnitude * 12 * 0x1p-24);
    }
  }
}

TEST_P(LinearConformanceTest, DenseLinearIsCloseToTheReference) {
  Random random(3);
  for (const Shape& s : kShapes) {
    for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {
      const WeightData w = RandomWeight(random, format, s.rows, s.cols, s.group, s.rows % 2 == 0);
      const HostActivation x = RandomActivation(random, s.tokens, s.cols, s.group);
      const std::vector<float> y = RunLinear(rig(), w, x), expected = RunLinear(oracle(), w, x);
      for (size_t i = 0; i < y.size(); i += 7) {
        ASSERT_NEAR(y[i], expected[i], DenseBound(w, x, i / s.rows, i % s.rows)) << s.rows << "x" << s.cols;
      }
    }
  }
}

TEST_P(LinearConformanceTest, DenseLinearTakesAnyWidth) {
  Random random(4);
  for (const auto& [cols, group] : {std::pair<int64_t, int64_t>{172, 4}, {8, 8}, {1, 1}, {7, 1}, {288, 32}}) {
    for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {
      const WeightData w = RandomWeight(random, format, 19, cols, group, true);
      const std::vector<float> x = random.Normal(3 * cols);
      std::vector<std::vector<float>> results;
      for (Rig* r : {&rig(), &oracle()}) {
        Activation a;
        a.dense = r->Floats(x, {3, cols});
        const Weight weight = r->device().LoadWeight(w.host()).value();
        const Tensor out = r->New(DType::kF32, {3, 19});
        r->ops().Linear(a, weight, out);
        results.push_back(r->Out<float>(out));
      }
      for (size_t i = 0; i < results[0].size(); ++i) {
        EXPECT_NEAR(results[0][i], results[1][i], static_cast<double>(cols + 4) * 0x1p-24 * (1 + cols));
      }
    }
  }
}

TEST_P(LinearConformanceTest, QuantizedLinearPartialIsTheReferenceBitForBit) {
  Random random(5);
  std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
  shapes.insert(shapes.end(), std::begin(kManyGroups), std::end(kManyGroups));
  for (const Shape& s : shapes) {
    for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
      const WeightData w = RandomWeight(random, format, s.rows, s.cols, s.group, false);
      const HostActivation x = RandomActivation(random, s.tokens, s.cols, s.group);
      EXPECT_TRUE(SameValues(RunPartial(rig(), w, x), RunPartial(oracle(), w, x))) << s.rows << "x" << s.cols;
    }
  }
}

TEST_P(LinearConformanceTest, DenseLinearPartialIsCloseToTheReferenceAndOnTheGrid) {
  Random random(6);
  const WeightData w = RandomWeight(random, WeightFormat::kBF16, 31, 640, 128, false);
  const HostActivation x = RandomActivation(random, 9, 640, 128);
  const std::vector<double> y = RunPartial(rig(), w, x), expected = RunPartial(oracle(), w, x);
  for (size_t i = 0; i < y.size(); ++i) {
    EXPECT_NEAR(y[i], expected[i], DenseBound(w, x, i / w.rows, i % w.rows) + 5 * kExactQuantum);
    EXPECT_EQ(y[i], RoundToQuantum(y[i]));
  }
}

TEST_P(LinearConformanceTest, ShardsOfLinearPartialSumToTheSameBitsInAnyOrder) {
  Random random(7);
  const int64_t groups = 11, group = 64;
  for (WeightFormat format : kFormats) {
    const WeightData w = RandomWeight(random, format, 37, groups * group, group, false);
    const HostActivation x = RandomActivation(random, 10, groups * group, group);
    const std::vector<double> whole = RunPartial(rig(), w, x);
    for (const std::vector<int64_t>& shares :
         {std::vector<int64_t>{11}, {6, 5}, {4, 4, 3}, {3, 3, 3, 2}, {1, 5, 2, 2, 1}}) {
      const Activation full = Upload(rig(), x);
      std::vector<std::vector<double>> parts;
      int64_t first = 0;
      for (int64_t share : shares) {
        const int64_t begin = first * group, n = share * group;
        const Weight weight = rig().device().LoadWeight(SliceColumns(w, begin, n).host()).value();
        Activation part = full;  // A column range of the whole activation, so that strides are exercised.
        part.dense = full.dense.Cols(begin, n);
        part.q = full.q.Cols(begin, n);
        part.scale = full.scale.Cols(first, share);
        part.sum = full.sum.Cols(begin / kWeightGroup, n / kWeightGroup);
        const Tensor out = rig().New(DType::kF64, {x.rows, w.rows});
        rig().ops().LinearPartial(part, weight, out);
        parts.push_back(rig().Out<double>(out));
        first += share;
      }
      std::vector<double> forward(whole.size()), backward(whole.size());
      for (size_t p = 0; p < parts.size(); ++p) {
        for (size_t i = 0; i < whole.size(); ++i) {
          forward[i] += parts[p][i];
          backward[i] += parts[parts.size() - 1 - p][i];
        }
      }
      EXPECT_TRUE(SameValues(forward, whole)) << WeightFormatName(format) << " over " << shares.size();
      EXPECT_TRUE(SameValues(backward, whole)) << WeightFormatName(format) << " over " << shares.size();
    }
  }
}

TEST_P(LinearConformanceTest, ARowHasTheSameBitsAloneAndInAnyBatch) {
  Random random(8);
  for (WeightFormat format : kFormats) {
    const WeightData w = RandomWeight(random, format, 75, 384, 128, true);
    const HostActivation x = RandomActivation(random, 70, 384, 128);
    const Weight weight = rig().device().LoadWeight(w.host()).value();
    const Activation all = Upload(rig(), x);
    const Tensor out = rig().New(DType::kF32, {70, 75});
    const Tensor partial = rig().New(DType::kF64, {70, 75});
    rig().ops().Linear(all, weight, out);
    rig().ops().LinearPartial(all, weight, partial);
    const std::vector<float> whole = rig().Out<float>(out);
    const std::vector<double> whole_partial = rig().Out<double>(partial);
    for (int64_t batch : {1, 2, 3, 5, 8, 13, 32, 64}) {
      const int64_t begin = batch % 2 * 6;
      Activation some = all;
      some.dense = all.dense.Slice(begin, batch);
      some.q = all.q.Slice(begin, batch);
      some.scale = all.scale.Slice(begin, batch);
      some.sum = all.sum.Slice(begin, batch);
      const Tensor y = rig().New(DType::kF32, {batch, 75});
      const Tensor z = rig().New(DType::kF64, {batch, 75});
      rig().ops().Linear(some, weight, y);
      rig().ops().LinearPartial(some, weight, z);
      const auto at = begin * 75, end = (begin + batch) * 75;
      EXPECT_TRUE(SameValues(rig().Out<float>(y), {whole.begin() + at, whole.begin() + end}));
      EXPECT_TRUE(SameValues(rig().Out<double>(z), {whole_partial.begin() + at, whole_partial.begin() + end}));
    }
  }
}

TEST_P(LinearConformanceTest, LinearWritesOnlyItsOwnColumns) {
  Random random(9);
  for (WeightFormat format : kFormats) {
    const WeightData w = RandomWeight(random, format, 21, 64, 32, false);
    const HostActivation x = RandomActivation(random, 6, 64, 32);
    const Weight weight = rig().device().LoadWeight(w.host()).value();
    const Tensor wide = rig().Floats(std::vector<float>(6 * 30, -7.0f), {6, 30});
    rig().ops().Linear(Upload(rig(), x), weight, wide.Cols(4, 21));
    const std::vector<float> out = rig().Out<float>(wide);
    const std::vector<float> expected = RunLinear(rig(), w, x);
    for (int64_t t = 0; t < 6; ++t) {
      for (int64_t j = 0; j < 30; ++j) {
        const bool inside = j >= 4 && j < 25;
        EXPECT_EQ(out[t * 30 + j], inside ? expected[t * 21 + j - 4] : -7.0f) << t << " " << j;
      }
    }
  }
}

TEST_P(LinearConformanceTest, ExtremeIntegersDoNotOverflow) {
  WeightData w;
  w.format = WeightFormat::kInt8;
  w.rows = 17;
  w.cols = w.group = 256;
  w.i8.assign(17 * 256, -127);
  w.scales.assign(17, 1.0f);
  HostActivation x{12,
                   256,
                   256,
                   std::vector<float>(12 * 256),
                   std::vector<float>(12, 1.0f),
                   std::vector<int8_t>(12 * 256, -127),
                   std::vector<int32_t>(12 * 8, -127 * 32)};
  EXPECT_THAT(RunLinear(rig(), w, x), testing::Each(127.0f * 127.0f * 256.0f));
}

TEST_P(LinearConformanceTest, ExtremeIntegersOfFourBitWeightsDoNotOverflow) {
  // Every weight is -127 or 127, by the largest and the smallest n, and so is every activation.
  for (const int64_t group : {32, 64, 256}) {
    WeightData w;
    w.format = WeightFormat::kInt4;
    w.rows = 33;
    w.cols = 512;
    w.group = group;
    w.scales.assign(33, 1.0f);
    for (int64_t i = 0; i < 33 * 16; ++i) {
      const int kind = static_cast<int>(i / 16 % 3);
      w.group_scales.push_back(kind == 0 ? 16 : 1);
      w.group_offsets.push_back(static_cast<int8_t>(kind == 0 ? -113 : kind == 1 ? -127 : 112));
      w.q4.insert(w.q4.end(), 16, kind == 1 ? 0x00 : 0xff);
    }
    HostActivation x{9, 512, group, std::vector<float>(9 * 512), std::vector<float>(9 * 512 / group, 1.0f), {}, {}};
    for (int64_t t = 0; t < 9; ++t) {
      x.q.insert(x.q.end(), 512, t % 2 == 0 ? 127 : -127);
      x.sum.insert(x.sum.end(), 16, (t % 2 == 0 ? 127 : -127) * 32);
    }
    for (const int64_t tokens : {1, 2, 4, 8, 9}) {
      const HostActivation some = FirstRows(x, tokens);
      const std::vector<float> y = RunLinear(rig(), w, some);
      for (int64_t i = 0; i < tokens * 33; ++i) {
        const int sign = (i % 33 % 3 == 1 ? -1 : 1) * (i / 33 % 2 == 0 ? 1 : -1);
        ASSERT_EQ(y[i], static_cast<float>(sign * 127 * 127 * 512)) << group << " " << i;
      }
    }
  }
}

TEST_P(LinearConformanceTest, EveryNumberOfTokensGivesTheBitsOfTheReference) {
  Random random(11);
  for (const auto& [format, cols, group] : {std::tuple<WeightFormat, int64_t, int64_t>{WeightFormat::kInt4, 96, 32},
                                            {WeightFormat::kInt8, 256, 128},
                                            {WeightFormat::kInt8, 192, 64}}) {
    const WeightData w = RandomWeight(random, format, 31, cols, group, false);
    const HostActivation x = RandomActivation(random, 257, cols, group);
    const std::vector<float> expected = RunLinear(oracle(), w, x);
    const std::vector<double> expected_partial = RunPartial(oracle(), w, x);
    const Weight weight = rig().device().LoadWeight(w.host()).value();
    const Activation all = Upload(rig(), x);
    for (const int64_t tokens : kTokenCounts) {
      const Tensor out = rig().New(DType::kF32, {tokens, 31}), partial = rig().New(DType::kF64, {tokens, 31});
      rig().ops().Linear(all.Rows(tokens), weight, out);
      rig().ops().LinearPartial(all.Rows(tokens), weight, partial);
      const auto n = tokens * 31;
      EXPECT_TRUE(SameValues(rig().Out<float>(out), {expected.begin(), expected.begin() + n})) << tokens;
      EXPECT_TRUE(SameValues(rig().Out<double>(partial), {expected_partial.begin(), expected_partial.begin() + n}))
          << tokens;
    }
  }
}

// Parts that 32-bit sums cannot hold, and what is not a number, must come out as in double.
TEST_P(LinearConformanceTest, PartialsTooLargeInfiniteOrNotANumberAreTheReferences) {
  Random random(12);
  for (const int64_t tokens : {8, 16, 70}) {
    const WeightData w = RandomWeight(random, WeightFormat::kInt8, 31, 384, 32, false);
    HostActivation x = RandomActivation(random, tokens, 384, 32);
    // Scales of rows are at most 0.0099 and sums of groups below 2^19: the first three rows of x have parts around
    // 2^21, parts far above it, and sums above 2^23 of parts that are below 2^21.
    for (int64_t g = 0; g < 12; ++g) {
      x.scale[g] *= 1e4f;
      x.scale[12 + g] *= 1e15f;
      x.scale[24 + g] = 4.0f;
    }
    for (int64_t i = 0; i < 384; ++i) x.q[2 * 384 + i] = 127;
    for (int64_t i = 0; i < 12; ++i) x.sum[2 * 12 + i] = 127 * 32;
    x.scale[3 * 12 + 1] = std::numeric_limits<float>::infinity();
    x.scale[4 * 12 + 5] = std::nanf("");
    x.scale[5 * 12] = std::numeric_limits<float>::infinity();
    x.scale[5 * 12 + 11] = -std::numeric_limits<float>::infinity();
    EXPECT_TRUE(SameValues(RunPartial(rig(), w, x), RunPartial(oracle(), w, x))) << tokens;
    EXPECT_TRUE(SameValues(RunLinear(rig(), w, x), RunLinear(oracle(), w, x))) << tokens;
    WeightData positive = w;
    for (int8_t& value : positive.i8) value = 127;
    positive.scales.assign(31, 1.0f);
    const std::vector<double> y = RunPartial(rig(), positive, x);
    EXPECT_TRUE(SameValues(y, RunPartial(oracle(), positive, x))) << tokens;
    EXPECT_EQ(y[2 * 31], 12 * 127.0 * 127 * 32 * 4);
  }
}

// Each part is 2^-8 - 2^-30: its low half is as large as can be, and 520 of them exceed 32 bits unless they are
// carried.
TEST_P(LinearConformanceTest, ManyPartsOfLargeLowHalvesAreExact) {
  const bool wide = GetParam() == "cuda-sm80" || GetParam() == "cuda-dp4a";  // Half a second: in one order only.
  WeightData w;
  w.format = WeightFormat::kInt8;
  w.rows = 3;
  w.cols = 544 * 32;
  w.group = 32;
  w.i8.assign(w.rows * w.cols, 0);
  for (int64_t i = 0; i < w.rows * w.cols; i += 32) w.i8[i] = 1;
  w.scales.assign(w.rows, 0x1p-8f);
  for (const int64_t tokens : {1, 9, 65}) {
    if (tokens == 65 && !wide) continue;
    HostActivation x{tokens, w.cols, 32, std::vector<float>(tokens * w.cols), {}, {}, {}};
    x.scale.assign(tokens * 544, 1.0f - 0x1p-22f);
    x.q.assign(tokens * w.cols, 1);
    x.sum.assign(tokens * 544, 32);
    EXPECT_THAT(RunPartial(rig(), w, x), testing::Each(544 * (0x1p-8 - 0x1p-30))) << tokens;
  }
}

TEST_P(LinearConformanceTest, LinearSiluMulMatchesTheReference) {
  Random random(10);
  for (int64_t tokens : {1, 5, 40}) {
    const WeightData w = RandomWeight(random, WeightFormat::kInt4, 2 * 96, 128, 128, false);
    const HostActivation x = RandomActivation(random, tokens, 128, 128);
    std::vector<std::vector<float>> dense;
    std::vector<std::vector<int8_t>> q;
    for (Rig* r : {&rig(), &oracle()}) {
      const Weight weight = r->device().LoadWeight(w.host()).value();
      const Activation out = r->NewActivation(tokens, 96, 32);
      r->ops().LinearSiluMul(Upload(*r, x), weight, r->New(DType::kF32, {tokens, 192}), out);
      dense.push_back(r->Out<float>(out.dense));
      q.push_back(r->Out<int8_t>(out.q));
    }
    for (size_t i = 0; i < dense[0].size(); ++i) {
      // exp: 2 units; subtraction, sum, quotient, product: 1/2 each. The gate itself has the same bits.
      EXPECT_NEAR(dense[0][i], dense[1][i], std::fabs(dense[1][i]) * 8 * 0x1p-24 + 1e-30);
      EXPECT_NEAR(q[0][i], q[1][i], 1);
    }
  }
}

SHOAL_FOR_ALL_IMPLEMENTATIONS(LinearConformanceTest);

}  // namespace
}  // namespace shoal
