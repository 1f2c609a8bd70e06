// Every CPU path and every CUDA path computes the same bits, so that a cluster of unlike machines agrees: the
// operations and their order are those of the plainest path.
#include <limits>
#include <tuple>

#include "kernels/attention_partition.h"
#include "tests/kernels/attention_testing.h"
#include "tests/kernels/same_bits_testing.h"

namespace shoal {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class SameBitsOfProductsTest : public SameBitsTest {};

TEST_P(SameBitsTest, SiluOverTheWholeRangeOfExp) {
  // Gate = x and up = 1 through an identity matrix.
  WeightData w;
  w.format = WeightFormat::kF32;
  w.rows = 64;
  w.cols = w.group = 32;
  w.f32.assign(64 * 32, 0.0f);
  for (int64_t i = 0; i < 32; ++i) w.f32[i * 32 + i] = w.f32[(32 + i) * 32 + i] = 1.0f;
  Random random(1);
  std::vector<float> values = random.Normal(50 * 32, 30.0f);
  for (const auto& [at, value] : {std::pair<int, float>{0, 1e30f}, {32, -1e30f}, {64, kInf}, {96, std::nanf("")}}) {
    values[at] = value;
  }
  ExpectSameBits([&](Rig& rig) {
    Activation x;
    x.dense = rig.Floats(values, {50, 32});
    const Activation y = rig.NewActivation(50, 32, 0);
    rig.ops().LinearSiluMul(x, rig.device().LoadWeight(w.host()).value(), rig.New(DType::kF32, {50, 64}), y);
    return Results{rig.Out<float>(y.dense)};
  });
}

TEST_P(SameBitsTest, DenseProducts) {
  for (const auto& [rows, cols, group, tokens] : {std::tuple<int64_t, int64_t, int64_t, int64_t>{50, 32, 32, 50},
                                                  {1, 172, 4, 1},
                                                  {31, 640, 128, 9},
                                                  {257, 96, 32, 17}}) {
    for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {
      Random random(2);
      const WeightData w = RandomWeight(random, format, rows, cols, group, rows % 2 == 1);
      const std::vector<float> values = random.Normal(tokens * cols, 3.0f);
      ExpectSameBits([&](Rig& rig) {
        Activation x;
        x.dense = rig.Floats(values, {tokens, cols});
        const Weight weight = rig.device().LoadWeight(w.host()).value();
        const Tensor y = rig.New(DType::kF32, {tokens, rows}), z = rig.New(DType::kF64, {tokens, rows});
        rig.ops().Linear(x, weight, y);
        rig.ops().LinearPartial(x, weight, z);
        const std::vector<double> partial = rig.Out<double>(z);
        // Multiples of 2^-30 below 2^20: two floats hold them.
        std::vector<float> high(partial.begin(), partial.end()), low;
        for (size_t i = 0; i < partial.size(); ++i) low.push_back(static_cast<float>(partial[i] - high[i]));
        return Results{rig.Out<float>(y), high, low};
      });
    }
  }
}

TEST_P(SameBitsOfProductsTest, LinearSiluMulOfEveryFormat) {
  // 31 columns of the result: gate and up end within a tile.
  for (const auto& [format, cols, group, half] :
       {std::tuple<WeightFormat, int64_t, int64_t, int64_t>{WeightFormat::kInt4, 160, 32, 96},
        {WeightFormat::kInt8, 256, 128, 64},
        {WeightFormat::kInt8, 192, 64, 31},
        {WeightFormat::kInt4, 256, 256, 1},
        {WeightFormat::kBF16, 64, 32, 31},
        {WeightFormat::kF32, 64, 32, 96}}) {
    Random random(3);
    const WeightData w = RandomWeight(random, format, 2 * half, cols, group, false);
    const HostActivation x = RandomActivation(random, 65, cols, group);
    ExpectSameBits([&](Rig& rig) {
      const Weight weight = rig.device().LoadWeight(w.host()).value();
      const Activation all = Upload(rig, x);
      Results results;
      for (const int64_t tokens : {1, 2, 3, 8, 9, 33, 65}) {
        const Activation y = rig.NewActivation(tokens, half, half % 32 == 0 ? 32 : 0);
        const Activation hidden = half % 32 == 0 ? rig.NewActivation(tokens, half, 32, false) : y;
        const Tensor scratch = rig.New(DType::kF32, {tokens, 2 * half});
        rig.ops().LinearSiluMul(all.Rows(tokens), weight, scratch, y);
        rig.ops().LinearSiluMul(all.Rows(tokens), weight, scratch, hidden);
        Append(rig, y, results);
        Append(rig, hidden, results);
      }
      return results;
    });
  }
}

TEST_P(SameBitsTest, NormsOfEveryWidth) {
  // The last two are longer than the row that the CUDA kernel stages in shared memory.
  for (const int64_t cols : {1, 31, 64, 257, 1536, 10241, 12000}) {
    Random random(4);
    const std::vector<float> x = random.Normal(3 * cols, 3.0f), gain = random.Normal(cols), d = random.Normal(3 * cols);
    const std::vector<double> delta(d.begin(), d.end());
    const int64_t group = cols % 256 == 0 ? 256 : cols % 32 == 0 ? 32 : 0;
    ExpectSameBits([&](Rig& rig) {
      Results results;
      const Tensor rows = rig.Floats(x, {3, cols}), g = rig.Floats(gain, {cols});
      const Activation y = rig.NewActivation(3, cols, group), z = rig.NewActivation(3, cols, group);
      rig.ops().RmsNorm(rows, g, 1e-6f, y);
      Append(rig, y, results);
      rig.ops().AddRmsNorm(rig.In(delta, DType::kF64, {3, cols}), g, 1e-5f, rows, z);
      Append(rig, z, results);
      results.push_back(rig.Out<float>(rows));
      return results;
    });
  }
}

TEST_P(SameBitsTest, HeadNormsAndRope) {
  for (const int64_t head_dim : {2, 8, 64, 80, 96, 128, 256}) {
    Random random(5);
    const std::vector<float> x = random.Normal(5 * 7 * head_dim, 2.0f), gain = random.Normal(head_dim);
    std::vector<float> inv_freq(head_dim / 2);
    for (size_t j = 0; j < inv_freq.size(); ++j) {
      inv_freq[j] = std::pow(1e6f, -2.0f * static_cast<float>(j) / static_cast<float>(head_dim));
    }
    ExpectSameBits([&](Rig& rig) {
      const Tensor heads = rig.Floats(x, {5, 7 * head_dim}), table = rig.New(DType::kF32, {5, head_dim});
      rig.ops().HeadRmsNorm(rig.Floats(gain, {head_dim}), 1e-6f, heads);
      Results results{rig.Out<float>(heads)};
      rig.ops().RopeTable(rig.Ints({0, 1, 77, 40959, 131071}), rig.Floats(inv_freq, {head_dim / 2}), 1.2f, table);
      rig.ops().Rope(table, heads);
      results.push_back(rig.Out<float>(table));
      results.push_back(rig.Out<float>(heads));
      return results;
    });
  }
}

TEST_P(SameBitsTest, QuantizationOfEveryGroupAndOfBrokenValues) {
  for (const int64_t group : {32, 64, 128, 256}) {
    Random random(6);
    std::vector<float> gain = random.Normal(8 * 256, 40.0f);
    for (int64_t i = 0; i < 256; ++i) gain[i] = static_cast<float>(i % 129 - 64) * 0.5f;  // Ties.
    for (int64_t i = 256; i < 512; ++i) gain[i] *= 0x1p-106f;  // Around the smallest that is quantized.
    for (int64_t i = 512; i < 768; ++i) gain[i] *= 0x1p+121f;  // Some groups infinite.
    gain[768] = std::nanf("");
    gain[1024] = -kInf;
    for (int64_t i = 1280; i < 1536; ++i) gain[i] *= 0x1p-130f;  // Subnormal.
    ExpectSameBits([&](Rig& rig) {
      const Activation y = rig.NewActivation(2, 2048, group);
      // Rows of one value: the norm is 1 up to its rounding.
      rig.ops().RmsNorm(rig.Floats(std::vector<float>(2 * 2048, 1.0f), {2, 2048}), rig.Floats(gain, {2048}), 0.0f, y);
      Results results;
      Append(rig, y, results);
      return results;
    });
  }
}

TEST_P(SameBitsTest, TopKOfAWholeVocabulary) {
  constexpr int64_t kVocabulary = 152064;
  Random random(7);
  std::vector<float> logits = random.Normal(kVocabulary, 3.0f);
  for (float& x : logits) x = std::nearbyint(x * 64) / 64;  // Many ties.
  for (int64_t i = 0; i < kVocabulary; i += 1000) logits[i] = i % 2000 == 0 ? std::nanf("") : -kInf;
  ExpectSameBits([&](Rig& rig) {
    Results results;
    const Tensor rows = rig.Floats(logits, {1, kVocabulary});
    const Tensor values = rig.New(DType::kF32, {1, 64}), ids = rig.New(DType::kI32, {1, 64});
    rig.ops().TopK(rows, values, ids);
    const std::vector<int32_t> chosen = rig.Out<int32_t>(ids);
    results.push_back(rig.Out<float>(values));
    results.emplace_back(chosen.begin(), chosen.end());
    return results;
  });
}

// Steps over contexts of several partitions: decode alone, decode next to prefill, and prefill across the end of a
// partition. Lengths sit around the ends of partitions and tiles of 16 keys.
TEST_P(SameBitsTest, AttentionOverSeveralPartitions) {
  const std::vector<AttentionScene> scenes = {
      {Heads(2, 2, 1, 64), 8, DType::kF16, {301, 128, 1}},
      {Heads(6, 1, 6, 80), 16, DType::kF32, {257, 129, 2}},
      {Heads(14, 2, 7, 96), 24, DType::kF16, {270, 121}},
      {Heads(8, 1, 8, 128), 32, DType::kF32, {385, 127}},
      {Heads(12, 1, 12, 64), 128, DType::kF16, {300, 256}},
      {Heads(3, 1, 3, 256), 256, DType::kF32, {513, 256}},
      {Heads(12, 1, 12, 132), 256, DType::kF16, {258}},
      {Heads(7, 1, 7, 96), 16, DType::kI8, {270, 129}},
      {Heads(2, 2, 1, 128), 32, DType::kI8, {140, 31}},
      // More partitions than the two blocks that share them out for eight sequences.
      {Heads(1, 1, 1, 32), 16, DType::kF32, {400, 3, 140, 1, 17, 16, 15, 260}},
      // A shard that begins and ends inside groups of query heads.
      {Heads(5, 2, 6, 32, 4, 0), 16, DType::kF16, {270, 140}}};
  for (const AttentionScene& s : scenes) {
    SCOPED_TRACE(testing::Message() << "head size " << s.heads.head_dim << ", blocks of " << s.block);
    ExpectSameBits([&](Rig& rig) {
      AttentionCache cache(rig, s, 8);
      Results results;
      using Chunks = std::vector<AttentionCache::Chunk>;
      Chunks decode, mixed;
      for (int q = 0; q < static_cast<int>(s.lengths.size()); ++q) {
        const int n = s.lengths[q];
        decode.push_back({q, n - 1, n});
        mixed.push_back({q, q % 2 == 0 ? std::max(0, n - 5) : n - 1, n});
      }
      const int boundary = BlocksPerPartition(static_cast<int>(s.block)) * static_cast<int>(s.block);
      for (const Chunks& chunks : {decode, mixed, Chunks{{0, boundary - 3, std::min(boundary + 4, s.lengths[0])}},
                                   Chunks{{0, boundary - 1, boundary}}, Chunks{{0, boundary, boundary + 1}}}) {
        const int64_t width = s.heads.heads * s.heads.head_dim;
        Append(rig, cache.Attend(chunks, width % 32 == 0 ? 32 : 0), results);
      }
      return results;
    });
  }
}

SHOAL_FOR_ALL_IMPLEMENTATIONS(SameBitsOfProductsTest);
SHOAL_FOR_ALL_WITHOUT_PATHS(SameBitsTest);

}  // namespace
}  // namespace shoal
