#include "base/log.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::internal::CaptureStderr;
using testing::internal::GetCapturedStderr;

class LogTest : public testing::Test {
 protected:
  ~LogTest() override {
    SetLogRank(-1);
    SetLogLevel(LogLevel::kInfo);
  }
};

TEST_F(LogTest, ALineHasLevelTimeRankAndText) {
  CaptureStderr();
  LogInfo("loaded ", 3, " files");
  SetLogRank(2);
  LogWarning("slow");
  LogError("gone");
  EXPECT_THAT(GetCapturedStderr(), testing::MatchesRegex("I [0-9:.]+ loaded 3 files\n"
                                                         "W [0-9:.]+ r2 slow\n"
                                                         "E [0-9:.]+ r2 gone\n"));
}

TEST_F(LogTest, NewlinesBecomeSpacesSoThatAnEventIsALine) {
  CaptureStderr();
  LogInfo("a\nb\n");
  EXPECT_THAT(GetCapturedStderr(), testing::EndsWith(" a b \n"));
}

TEST_F(LogTest, LinesBelowTheLevelAreDropped) {
  CaptureStderr();
  LogLine(LogLevel::kDebug, "hidden");
  SetLogLevel(LogLevel::kError);
  LogWarning("hidden");
  SetLogLevel(LogLevel::kDebug);
  LogLine(LogLevel::kDebug, "shown");
  EXPECT_THAT(GetCapturedStderr(), testing::MatchesRegex("D [0-9:.]+ shown\n"));
}

}  // namespace
}  // namespace shoal
