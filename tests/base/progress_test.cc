#include "base/progress.h"

#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

TEST(ProgressTest, TheTextHasABarPartsAndSpeed) {
  EXPECT_EQ(ProgressText("loading m", 900'000'000, 3'600'000'000, 2, 8),
            "loading m [##......] 25 %, 0.9 of 3.6 GB, 450 MB/s");
  EXPECT_EQ(ProgressText("loading m", 3'600'000'000, 3'600'000'000, 2, 0),
            "loading m: 100 %, 3.6 of 3.6 GB, 1800 MB/s");
}

TEST(ProgressTest, NothingToDoAndTooMuchDoneAreBorne) {
  EXPECT_EQ(ProgressText("x", 0, 0, 0, 4), "x [####] 100 %, 0.0 of 0.0 GB, 0 MB/s");
  EXPECT_EQ(ProgressText("x", 7'000'000'000, 5'000'000'000, 1, 4), "x [####] 100 %, 5.0 of 5.0 GB, 5000 MB/s");
}

TEST(ProgressTest, WorkThatIsDoneAtOnceSaysNothing) {
  testing::internal::CaptureStderr();  // No terminal.
  {
    Progress progress("loading m");
    for (int i = 0; i <= 1000; ++i) progress.Update(i, 1000);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(ProgressTest, ALogLineTakesThePlaceOfWhatStandsBelowIt) {
  testing::internal::CaptureStderr();
  ShowBelowLog("[##..]");
  LogInfo("a line");
  LogInfo("another");
  ShowBelowLog("[###.]");
  ShowBelowLog("");
  ShowBelowLog("");
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::MatchesRegex("\r\033.K.##...\r\033.KI [0-9:.]+ a line\nI [0-9:.]+ another\n"
                                    "\r\033.K.###..\r\033.K"));
}

}  // namespace
}  // namespace shoal
