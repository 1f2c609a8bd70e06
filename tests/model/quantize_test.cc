#include "model/quantize.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "gtest/gtest.h"
#include "model/loader_check.h"

namespace shoal {
namespace {

// Memory of one quantized row.
struct Row {
  explicit Row(int64_t cols) : values(cols), n(cols / kWeightGroup), m(cols / kWeightGroup) {}
  QuantizedRow view() { return {values.data(), &scale, n.data(), m.data()}; }
  bool operator==(const Row&) const = default;
  std::vector<uint8_t> values;
  std::vector<uint8_t> n;
  std::vector<int8_t> m;
  float scale = -1;
};

enum class Kind { kNormal, kStudentT, kSpread };

std::vector<float> Weights(Kind kind, int64_t count, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::student_t_distribution<float> student(4);
  std::vector<float> weights(count);
  float spread = 1;
  for (int64_t i = 0; i < count; ++i) {
    if (kind == Kind::kSpread && i % kWeightGroup == 0) spread = std::exp(0.3f * normal(random));
    weights[i] = 0.02f * spread * (kind == Kind::kStudentT ? student(random) : normal(random));
  }
  return weights;
}

double RelativeError(WeightFormat format, Kind kind) {
  constexpr int64_t kRows = 64, kCols = 1536;
  QuantizationError reported;
  double lost = 0, energy = 0;
  for (int row = 0; row < kRows; ++row) {
    const std::vector<float> weights = Weights(kind, kCols, row);
    Row out(kCols);
    const auto quantize = format == WeightFormat::kInt8 ? QuantizeRowInt8 : QuantizeRowInt4;
    EXPECT_TRUE(quantize(weights, out.view(), &reported));
    std::vector<float> back(kCols);
    DequantizeRow(format, out.view(), back);
    for (int64_t k = 0; k < kCols; ++k) {
      lost += std::pow(static_cast<double>(weights[k]) - back[k], 2);
      energy += std::pow(static_cast<double>(weights[k]), 2);
    }
  }
  // The report is the error of the weights that are really stored; sums are partly in float.
  EXPECT_NEAR(reported.relative(), lost / energy, 1e-3 * lost / energy);
  return lost / energy;
}

// Bounds: a little above what was measured; docs/formats.md has the figures and those of other formats.
TEST(QuantizeTest, Int8ErrorIsSmall) {
  EXPECT_LT(RelativeError(WeightFormat::kInt8, Kind::kNormal), 8e-5);
  EXPECT_LT(RelativeError(WeightFormat::kInt8, Kind::kStudentT), 6e-4);
}

TEST(QuantizeTest, Int4ErrorIsSmall) {
  EXPECT_LT(RelativeError(WeightFormat::kInt4, Kind::kNormal), 0.0055);
  EXPECT_LT(RelativeError(WeightFormat::kInt4, Kind::kSpread), 0.0058);
  EXPECT_LT(RelativeError(WeightFormat::kInt4, Kind::kStudentT), 0.0095);
}

TEST(QuantizeTest, Int8FollowsItsFormula) {
  for (int64_t cols : {1, 15, 16, 17, 32, 513, 1536}) {
    const std::vector<float> weights = Weights(Kind::kNormal, cols, 7);
    Row out(cols);
    ASSERT_TRUE(QuantizeRowInt8(weights, out.view(), nullptr));
    float top = 0;
    for (float w : weights) top = std::max(top, std::fabs(w));
    EXPECT_EQ(out.scale, top / 127.0f);
    for (int64_t k = 0; k < cols; ++k) {
      EXPECT_EQ(static_cast<int8_t>(out.values[k]), std::nearbyint(weights[k] * (127.0f / top))) << k << " of " << cols;
    }
  }
}

TEST(QuantizeTest, EveryBuildGivesTheSameBits) {
  const auto paths = internal::QuantizerPaths();
  ASSERT_FALSE(paths.empty());
  for (const auto& path : paths) {
    for (Kind kind : {Kind::kNormal, Kind::kStudentT, Kind::kSpread}) {
      for (int64_t cols : {32, 96, 1536}) {
        const std::vector<float> weights = Weights(kind, cols, 11);
        Row first(cols), other(cols);
        paths[0].int8(weights.data(), cols, first.view(), nullptr);
        path.int8(weights.data(), cols, other.view(), nullptr);
        EXPECT_TRUE(first == other) << path.name;
        paths[0].int4(weights.data(), cols, first.view(), nullptr);
        path.int4(weights.data(), cols, other.view(), nullptr);
        EXPECT_TRUE(first == other) << path.name;
      }
    }
  }
}

// Rows that are hard in one way each.
std::vector<std::vector<float>> HardRows() {
  std::vector<std::vector<float>> rows(12, std::vector<float>(96, 0.0f));
  for (int k = 0; k < 96; ++k) {
    rows[1][k] = 1.0f;
    rows[2][k] = -3e38f;
    rows[3][k] = k % 2 == 0 ? 1.0f : -1.0f;
    rows[4][k] = k == 50 ? 1000.0f : 1e-3f * static_cast<float>(k % 7);
    rows[5][k] = std::numeric_limits<float>::denorm_min() * static_cast<float>(k);
    rows[6][k] = static_cast<float>(k - 48);
    rows[7][k] = k < 32 ? 0.0f : 5.0f;
    rows[8][k] = k == 0 ? 3.4e38f : 0.0f;
    rows[9][k] = 1e-30f * static_cast<float>(k);
    rows[10][k] = 100.0f + 0.01f * static_cast<float>(k % 32);
    rows[11][k] = -100.0f - 0.01f * static_cast<float>(k % 32);
  }
  return rows;
}

TEST(QuantizeTest, IntegersStayInRangeOnHardRows) {
  std::vector<std::vector<float>> rows = HardRows();
  for (int seed = 0; seed < 50; ++seed) rows.push_back(Weights(static_cast<Kind>(seed % 3), 96, 100 + seed));
  for (size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(i);
    Row out(96);
    QuantizationError error;
    ASSERT_TRUE(QuantizeRowInt4(rows[i], out.view(), &error));
    EXPECT_TRUE(std::isfinite(out.scale));
    for (int g = 0; g < 3; ++g) {
      EXPECT_GE(out.n[g], 1);
      EXPECT_LE(out.n[g], 16);
      EXPECT_GE(out.m[g], -127);
      EXPECT_LE(out.m[g] + 15 * out.n[g], 127);
    }
    ASSERT_TRUE(QuantizeRowInt8(rows[i], out.view(), nullptr));
    for (uint8_t value : out.values) EXPECT_NE(static_cast<int8_t>(value), -128);
    EXPECT_TRUE(std::isfinite(out.scale));
  }
}

TEST(QuantizeTest, ConstantRowsAreNearlyExact) {
  for (size_t i : {1, 3, 7}) {
    const std::vector<float> row = HardRows()[i];
    Row out(96);
    std::vector<float> back(96);
    ASSERT_TRUE(QuantizeRowInt4(row, out.view(), nullptr));
    DequantizeRow(WeightFormat::kInt4, out.view(), back);
    for (int k = 0; k < 96; ++k) EXPECT_NEAR(back[k], row[k], 0.01f * std::fabs(row[k]) + 1e-6f) << i << " " << k;
  }
}

TEST(QuantizeTest, NotANumberIsRefusedWhereverItIs) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
                    std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    for (int at : {0, 17, 63, 95}) {
      std::vector<float> row(96, 0.5f);
      row[at] = bad;
      Row out(96);
      EXPECT_FALSE(QuantizeRowInt8(row, out.view(), nullptr));
      EXPECT_FALSE(QuantizeRowInt4(row, out.view(), nullptr));
      EXPECT_EQ(out.scale, -1);
      EXPECT_FALSE(AllFinite(row));
    }
  }
  EXPECT_TRUE(AllFinite(std::vector<float>(33, -3e38f)));
}

}  // namespace
}  // namespace shoal
