#include "model/tokenizer_fit.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Ids 0 to 3 are "a" to "d", 6 is the added token "<pad>".
TokenizerSpec Spec() {
  TokenizerSpec spec;
  spec.tokens = {"a", "b", "c", "d"};
  AddedToken pad;
  pad.id = 6;
  pad.content = "<pad>";
  pad.special = true;
  spec.added_tokens = {pad};
  return spec;
}

ModelConfig ModelOf(int64_t vocab) {
  ModelConfig model;
  model.shape.vocab = vocab;
  return model;
}

absl::Status Check(TokenizerSpec spec, int64_t vocab) {
  const auto tokenizer = Tokenizer::Create(std::move(spec));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return CheckTokenizerFitsModel(**tokenizer, ModelOf(vocab), "dir");
}

TEST(TokenizerFitTest, AModelMayHaveMoreRows) {
  EXPECT_TRUE(Check(Spec(), 7).ok());
  EXPECT_TRUE(Check(Spec(), 64).ok());
}

TEST(TokenizerFitTest, AddedTokensWithoutRowsAreLogged) {
  ::testing::internal::CaptureStderr();
  EXPECT_TRUE(Check(Spec(), 4).ok());
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("dir: 1 added tokens have no row in the model, the first is '<pad>' (6)"));
}

TEST(TokenizerFitTest, AnotherModelsTokenizerIsRefused) {
  const absl::Status status = Check(Spec(), 3);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "dir: the tokenizer and the configuration do not belong together: token 'd' (3), but the model's "
            "vocabulary has 3 "
            "ids");
}

TEST(TokenizerFitTest, ATokenAroundEveryTextNeedsARow) {
  TokenizerSpec spec = Spec();
  spec.prefix_ids = {6};
  EXPECT_THAT(std::string(Check(spec, 4).message()), HasSubstr("token '<pad>' (6) is put around every text"));
}

TEST(TokenizerFitTest, TheTokenizersEosCountsWhereNoFileNamesOne) {
  TokenizerSpec spec = Spec();
  spec.eos_id = 3;
  const auto tokenizer = Tokenizer::Create(spec);
  ASSERT_TRUE(tokenizer.ok());
  ModelConfig model = ModelOf(7);
  TakeEosFromTokenizer(**tokenizer, &model);
  EXPECT_THAT(model.eos_token_ids, ElementsAre(3));
  model.eos_token_ids = {1, 2};
  TakeEosFromTokenizer(**tokenizer, &model);
  EXPECT_THAT(model.eos_token_ids, ElementsAre(1, 2));
  model = ModelOf(2);
  TakeEosFromTokenizer(**tokenizer, &model);
  EXPECT_THAT(model.eos_token_ids, ElementsAre());
}

}  // namespace
}  // namespace shoal
