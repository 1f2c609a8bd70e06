// Real trained weights of the shared test data: their golden text and their published loss.
#include "tests/integration/real_model.h"

namespace shoal {
namespace {

TEST_F(RealModelTest, Stories260KWritesItsGoldenTextAndHasItsPublishedLoss) {
  const LocalClusterOptions options = Convert("stories260K/stories260K.bin");
  const auto tokenizer = LoadTokenizer("stories260K/tok512.bin", 512);
  ExpectGoldenText("stories260K.json", options, *tokenizer);
  int64_t tokens = 0;
  const double loss = MeanLoss(options, *tokenizer, 100, &tokens);
  std::printf("  stories260K: mean loss %.6f over %lld tokens\n", loss, static_cast<long long>(tokens));
  EXPECT_EQ(tokens, 9618);
  EXPECT_NEAR(loss, 1.431359, 0.001 * 1.431359);
}

TEST_F(RealModelTest, Babyllama361WritesItsGoldenTextAndHasItsLoss) {
  const LocalClusterOptions options = Convert("babyllama361/model5000.bin");
  const auto tokenizer = LoadTokenizer("babyllama361/tok361.derived.bin", 361);
  ExpectGoldenText("babyllama361.json", options, *tokenizer);
  int64_t tokens = 0;
  const double loss = MeanLoss(options, *tokenizer, 60, &tokens);
  std::printf("  babyllama361: mean loss %.6f over %lld tokens\n", loss, static_cast<long long>(tokens));
  EXPECT_NEAR(loss, 0.664411, 0.001 * 0.664411);
}

}  // namespace
}  // namespace shoal
