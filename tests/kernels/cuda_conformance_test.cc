// What only the CUDA back end has: ops whose workspace is too small for their fast form, with the bits of the others.
#include "tests/kernels/attention_testing.h"
#include "tests/kernels/same_bits_testing.h"

namespace shoal {
namespace {

class CudaWorkspaceTest : public testing::TestWithParam<std::string> {
 protected:
  using Results = std::vector<std::vector<float>>;

  // `run` must give a device with `bytes` of workspace what it gives one with plenty.
  template <typename Run>
  void ExpectSameBitsWith(int64_t bytes, Run run) {
    Results all[2];
    for (int i = 0; i < 2; ++i) {
      CudaDeviceOptions options;
      if (i == 1) options.workspace_bytes = bytes;
      auto device = MakeCudaVariant(GetParam(), options);
      if (device.status().code() == absl::StatusCode::kFailedPrecondition) GTEST_SKIP() << device.status().message();
      ASSERT_TRUE(device.ok()) << device.status();
      Rig rig(*std::move(device));
      all[i] = run(rig);
    }
    ASSERT_EQ(all[0].size(), all[1].size());
    for (size_t i = 0; i < all[0].size(); ++i) EXPECT_TRUE(SameValues(all[1][i], all[0][i])) << "result " << i;
  }
};

// Without room for the states of the partitions prefill takes the sequences of one token, too.
TEST_P(CudaWorkspaceTest, AttentionFallsBackToPrefill) {
  for (const AttentionScene& s : {AttentionScene{Heads(6, 1, 6, 64), 16, DType::kF16, {270, 129, 1}},
                                  AttentionScene{Heads(12, 1, 12, 256), 32, DType::kF32, {140, 7}}}) {
    ExpectSameBitsWith(1024, [&](Rig& rig) {
      AttentionCache cache(rig, s, 1);
      Results results;
      const int a = s.lengths[0], b = s.lengths[1];
      results.push_back(rig.Out<float>(cache.Attend({{0, a - 1, a}, {1, b - 1, b}}).dense));
      results.push_back(rig.Out<float>(cache.Attend({{1, b - 1, b}, {0, a - 4, a}}).dense));
      return results;
    });
  }
}

// With room for two rows at a time the five take turns.
TEST_P(CudaWorkspaceTest, TopKWorksInTurns) {
  Random random(2);
  const std::vector<float> logits = random.Normal(5 * 9000);
  for (const int64_t k : {1, 64, 1024}) {
    // Five chunks leave their k best, and so do those of what is left.
    const int64_t bytes = (5 * k + (5 * k + 2047) / 2048 * k) * 8;
    ExpectSameBitsWith(2 * bytes, [&](Rig& rig) {
      const Tensor values = rig.New(DType::kF32, {5, k}), ids = rig.New(DType::kI32, {5, k});
      rig.ops().TopK(rig.Floats(logits, {5, 9000}), values, ids);
      const std::vector<int32_t> chosen = rig.Out<int32_t>(ids);
      return Results{rig.Out<float>(values), {chosen.begin(), chosen.end()}};
    });
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaWorkspaceTest, testing::ValuesIn(WithoutPaths(CudaVariants())), TestName);

// More k than any sampler asks for, against the CPU.
class CudaTopKTest : public SameBitsTest {};

TEST_P(CudaTopKTest, EveryKUpToTheLargest) {
  Random random(3);
  const std::vector<float> logits = random.Normal(2 * 4097);
  ExpectSameBits([&](Rig& rig) {
    Results results;
    for (const auto& [n, k] :
         {std::pair<int64_t, int64_t>{1, 1}, {64, 64}, {2048, 3}, {2049, 64}, {4097, 64}, {4097, 1024}}) {
      const Tensor values = rig.New(DType::kF32, {2, k}), ids = rig.New(DType::kI32, {2, k});
      const Tensor rows = rig.Floats(logits, {2, 4097});  // Rows longer than what is looked at.
      rig.ops().TopK(rows.Cols(0, n), values, ids);
      const std::vector<int32_t> chosen = rig.Out<int32_t>(ids);
      results.push_back(rig.Out<float>(values));
      results.emplace_back(chosen.begin(), chosen.end());
    }
    return results;
  });
}

INSTANTIATE_TEST_SUITE_P(All, CudaTopKTest, testing::ValuesIn(WithoutPaths(CudaVariants())), TestName);

}  // namespace
}  // namespace shoal
