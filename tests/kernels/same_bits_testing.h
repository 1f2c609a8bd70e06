// Base of the suites that compare an implementation with the plainest CPU path bit for bit.
#pragma once

#include <memory>
#include <vector>

#include "tests/kernels/kernels_testing.h"

namespace shoal {

class SameBitsTest : public ImplementationTest {
 protected:
  // What an implementation computed: tensors of floats, or of integers that floats hold.
  using Results = std::vector<std::vector<float>>;

  void SetUp() override {
    if (GetParam() == "reference") GTEST_SKIP() << "computes in double";
    ImplementationTest::SetUp();
    plain_ = std::make_unique<Rig>(MakeImplementation("portable", 1).value());
  }

  // `run` must give the implementation's rig what it gives the plainest path.
  template <typename Run>
  void ExpectSameBits(Run run) {
    const Results results = run(rig()), expected = run(*plain_);
    ASSERT_EQ(results.size(), expected.size());
    for (size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(SameValues(results[i], expected[i])) << "result " << i;
  }

  static void Append(Rig& rig, const Activation& a, Results& results) {
    if (!a.dense.empty()) results.push_back(rig.Out<float>(a.dense));
    if (a.q.empty()) return;
    const std::vector<int8_t> q = rig.Out<int8_t>(a.q);
    const std::vector<int32_t> sum = rig.Out<int32_t>(a.sum);
    results.emplace_back(q.begin(), q.end());
    results.emplace_back(sum.begin(), sum.end());
    results.push_back(rig.Out<float>(a.scale));
  }

 private:
  std::unique_ptr<Rig> plain_;
};

}  // namespace shoal
