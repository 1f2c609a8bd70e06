#include "engine/sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

TEST(SequenceTest, PrefixCountsAsOutput) {
  Request request;
  request.prompt = {5, 3, 5};
  request.output_prefix = {8, 3};
  request.max_tokens = 10;
  request.sampling.presence_penalty = 1;
  const std::unique_ptr<Sequence> sequence = MakeSequence(1, 0, std::move(request));
  EXPECT_THAT(sequence->tokens, ElementsAre(5, 3, 5, 8, 3));
  EXPECT_EQ(sequence->prompt_tokens, 3);
  EXPECT_EQ(sequence->output_tokens(), 2);
  EXPECT_EQ(sequence->pending(), 5);
  EXPECT_EQ(sequence->sample_input().position, 2u);
  sequence->Append(3);
  EXPECT_EQ(sequence->sample_input().position, 3u);
  EXPECT_THAT(sequence->history.prompt_ids, ElementsAre(3, 5));
  EXPECT_THAT(sequence->history.output_counts, UnorderedElementsAre(Pair(3, 2), Pair(8, 1)));
}

TEST(SequenceTest, StopIdsAreBannedBeforeMinTokens) {
  Request request;
  request.prompt = {1};
  request.max_tokens = 10;
  request.min_tokens = 2;
  request.stop_ids = {7, 9};
  request.sampling.temperature = 0;
  const std::unique_ptr<Sequence> sequence = MakeSequence(1, 0, std::move(request));
  sequence->Append(4);
  EXPECT_THAT(sequence->sample_input().banned_ids, ElementsAre(7, 9));
  EXPECT_EQ(sequence->candidates_needed(), 0);
  sequence->Append(4);
  // Two tokens are out: the next one may stop.
  EXPECT_THAT(sequence->sample_input().banned_ids, IsEmpty());
  EXPECT_EQ(sequence->candidates_needed(), 1);
  EXPECT_THAT(sequence->history.output_counts, IsEmpty());  // No penalty looks at it.
}

}  // namespace
}  // namespace shoal
