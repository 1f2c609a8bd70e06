// The watch over drains and steps that do not end. What signals do is tested end to end: tests/e2e/stuck_rank_test.py.
#include "server/job_watch.h"

#include <future>
#include <optional>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "tests/server/server_fixture.h"

namespace shoal::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class JobWatchTest : public ServerTest {
 protected:
  static constexpr double kOverrunSeconds = 0.3;

  // The reason given for the end of the job.
  std::promise<std::string> ended_;
  std::future<std::string> end_ = ended_.get_future();
  JobWatch watch_{[this](std::string_view why) { ended_.set_value(std::string(why)); }, kOverrunSeconds};
};

TEST_F(JobWatchTest, ADrainThatStandsStillEndsStreamsAndThenTheJob) {
  StartReady();
  watch_.Serving(server_.get(), engine_.get(), 100);
  engine_->Pause(true);
  StreamOutcome hanging;
  std::thread client([&] { hanging = Generate(TextRequest("abc", 300)); });
  ASSERT_TRUE(WaitFor([this] { return engine_->running() == 1; }));
  server_->Drain(100);
  server_->Drain(0.1);  // In a hurry now.
  ASSERT_EQ(end_.wait_for(milliseconds(200)), std::future_status::timeout);
  ASSERT_EQ(end_.wait_for(milliseconds(5000)), std::future_status::ready);
  EXPECT_THAT(end_.get(), HasSubstr("a rank is stuck or far too slow"));
  client.join();
  EXPECT_EQ(hanging.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  watch_.Ended();
}

TEST_F(JobWatchTest, AStepThatStandsStillEndsTheJobWithoutADrain) {
  StartReady();
  watch_.Serving(server_.get(), engine_.get(), 0.3);
  ASSERT_EQ(end_.wait_for(milliseconds(700)), std::future_status::timeout);  // Nothing to do is not standing still.
  engine_->Pause(true);
  StreamOutcome hanging;
  std::thread client([&] { hanging = Generate(TextRequest("abc", 300)); });
  ASSERT_EQ(end_.wait_for(milliseconds(5000)), std::future_status::ready);
  EXPECT_THAT(end_.get(), HasSubstr("limits.step_seconds"));
  client.join();
  EXPECT_EQ(hanging.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  watch_.Ended();
}

TEST_F(JobWatchTest, AServerThatDoesNotDrainMayRunForEver) {
  StartReady();
  watch_.Serving(server_.get(), engine_.get(), 100);
  EXPECT_EQ(server_->drain_deadline(), std::nullopt);
  EXPECT_EQ(end_.wait_for(milliseconds(700)), std::future_status::timeout);
  watch_.Ended();
}

TEST_F(JobWatchTest, AnEngineThatHasEndedIsNotWatched) {
  StartReady();
  watch_.Serving(server_.get(), engine_.get(), 100);
  server_->Drain(0);
  EXPECT_NE(server_->drain_deadline(), std::nullopt);
  watch_.Ended();
  EXPECT_EQ(end_.wait_for(milliseconds(700)), std::future_status::timeout);
}

}  // namespace
}  // namespace shoal::testing
