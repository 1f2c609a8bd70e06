// Small steps through every CUDA kernel and each of its barriers, compared with the CPU bit for bit. ThreadSanitizer
// runs them (tests/run.sh), and most bugs that tests/emulation/mutations.py plants must fail them.
#include <tuple>

#include "tests/kernels/attention_testing.h"
#include "tests/kernels/same_bits_testing.h"

namespace shoal {
namespace {

class CudaRacesTest : public SameBitsTest {
 protected:
  struct Product {
    WeightFormat format;
    int64_t rows, cols, group;
  };

  // Linear, LinearPartial and, of an even number of rows, LinearSiluMul for each number of tokens.
  void ExpectProducts(const Product& p, const std::vector<int64_t>& token_counts) {
    Random random(1);
    const WeightData w = RandomWeight(random, p.format, p.rows, p.cols, p.group, false);
    const HostActivation x = RandomActivation(random, token_counts.back(), p.cols, p.group);
    ExpectSameBits([&](Rig& rig) {
      const Weight weight = rig.device().LoadWeight(w.host()).value();
      const Activation all = Upload(rig, x);
      Results results;
      for (const int64_t tokens : token_counts) {
        const Tensor y = rig.New(DType::kF32, {tokens, p.rows}), z = rig.New(DType::kF64, {tokens, p.rows});
        rig.ops().Linear(all.Rows(tokens), weight, y);
        rig.ops().LinearPartial(all.Rows(tokens), weight, z);
        results.push_back(rig.Out<float>(y));
        const std::vector<double> partial = rig.Out<double>(z);
        results.emplace_back(partial.begin(), partial.end());
        if (p.rows % 2 != 0) continue;
        const Activation silu = rig.NewActivation(tokens, p.rows / 2, 0);
        rig.ops().LinearSiluMul(all.Rows(tokens), weight, y, silu);
        Append(rig, silu, results);
      }
      return results;
    });
  }
};

TEST_P(CudaRacesTest, LinearDecode) {
  ExpectProducts({WeightFormat::kInt4, 34, 65 * 32, 32}, {1, 2, 4, 8});  // Two panels of groups.
  ExpectProducts({WeightFormat::kInt8, 17, 384, 128}, {3});
  ExpectProducts({WeightFormat::kInt8, 16, 512, 256}, {7});
}

TEST_P(CudaRacesTest, LinearSkinny) {
  ExpectProducts({WeightFormat::kInt4, 34, 160, 32}, {9, 33});  // More groups than one round of four.
  ExpectProducts({WeightFormat::kInt8, 33, 640, 128}, {16, 17});
}

TEST_P(CudaRacesTest, LinearWide) {
  ExpectProducts({WeightFormat::kInt8, 34, 800, 32}, {66});  // Four stages of 256 columns, the last one short.
  ExpectProducts({WeightFormat::kInt4, 130, 896, 128}, {65});
}

TEST_P(CudaRacesTest, LinearDense) { ExpectProducts({WeightFormat::kBF16, 34, 96, 32}, {9}); }

TEST_P(CudaRacesTest, RmsNorm) {
  Random random(2);
  const std::vector<float> x = random.Normal(2 * 512), gain = random.Normal(512), d = random.Normal(2 * 512);
  const std::vector<double> delta(d.begin(), d.end());
  ExpectSameBits([&](Rig& rig) {
    const Tensor rows = rig.Floats(x, {2, 512}), g = rig.Floats(gain, {512});
    const Activation y = rig.NewActivation(2, 512, 128);
    rig.ops().AddRmsNorm(rig.In(delta, DType::kF64, {2, 512}), g, 1e-5f, rows, y);
    Results results{rig.Out<float>(rows)};
    Append(rig, y, results);
    return results;
  });
}

TEST_P(CudaRacesTest, HeadsAndCopies) {
  Random random(3);
  const std::vector<float> x = random.Normal(3 * 4 * 64), gain = random.Normal(64), inv_freq = random.Normal(32);
  ExpectSameBits([&](Rig& rig) {
    const Tensor rows = rig.Floats(x, {3, 256}), table = rig.New(DType::kF32, {3, 64});
    const Tensor chosen = rig.New(DType::kF32, {2, 256}), embedded = rig.New(DType::kF32, {2, 256});
    rig.ops().HeadRmsNorm(rig.Floats(gain, {64}), 1e-6f, rows);
    rig.ops().RopeTable(rig.Ints({0, 9, 500}), rig.Floats(inv_freq, {32}), 1.0f, table);
    rig.ops().Rope(table, rows);
    rig.ops().GatherRows(rows, rig.Ints({2, 0}), chosen);
    rig.ops().Embed(rows, rig.Ints({1, 1}), embedded);
    return Results{rig.Out<float>(rows), rig.Out<float>(chosen), rig.Out<float>(embedded)};
  });
}

TEST_P(CudaRacesTest, Attention) {
  for (const AttentionScene& s : {AttentionScene{Heads(6, 2, 3, 32), 16, DType::kF16, {250, 20}},
                                  AttentionScene{Heads(2, 1, 2, 160), 32, DType::kF32, {133, 3}}}) {
    ExpectSameBits([&](Rig& rig) {
      AttentionCache cache(rig, s, 4);
      Results results;
      const int a = s.lengths[0], b = s.lengths[1];
      Append(rig, cache.Attend({{0, a - 1, a}, {1, b - 1, b}}, 64), results);
      Append(rig, cache.Attend({{0, a - 9, a}, {1, 0, b}}, 64), results);
      Append(rig, cache.Attend({{0, 126, 131}, {1, b - 1, b}}, 64), results);
      return results;
    });
  }
}

TEST_P(CudaRacesTest, TopK) {
  Random random(5);
  std::vector<float> logits = random.Normal(2500);
  for (float& x : logits) x = std::nearbyint(x * 16) / 16;  // Many ties.
  ExpectSameBits([&](Rig& rig) {
    const Tensor values = rig.New(DType::kF32, {1, 40}), ids = rig.New(DType::kI32, {1, 40});
    rig.ops().TopK(rig.Floats(logits, {1, 2500}), values, ids);
    const std::vector<int32_t> chosen = rig.Out<int32_t>(ids);
    return Results{rig.Out<float>(values), {chosen.begin(), chosen.end()}};
  });
}

INSTANTIATE_TEST_SUITE_P(All, CudaRacesTest, testing::ValuesIn(CudaVariants()), TestName);

}  // namespace
}  // namespace shoal
