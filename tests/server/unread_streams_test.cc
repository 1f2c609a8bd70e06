// Clients that never read: their calls end, their memory is let go, and nobody else waits for them.
#include <thread>

#include "gmock/gmock.h"
#include "tests/server/server_fixture.h"

namespace shoal::testing {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr double kStalledSeconds = 1.5;

class UnreadStreamsTest : public ServerTest {
 protected:
  // HTTP/2 windows stay at 64 KiB.
  std::unique_ptr<v1::Inference::Stub> SmallWindowStub() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 65535);
    return v1::Inference::NewStub(
        grpc::CreateCustomChannel(server_->address().ToString(), grpc::InsecureChannelCredentials(), arguments));
  }
  static v1::GenerateRequest LongTokens(int max_tokens) {
    v1::GenerateRequest request;
    request.mutable_token_ids()->add_ids(kLongId);
    request.mutable_sampling_params()->set_max_tokens(max_tokens);
    return request;
  }
};

TEST_F(UnreadStreamsTest, AStreamWhoseTextIsNeverReadIsCutOffAtTwiceTheLimit) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, microseconds(400)), kStalledSeconds);
  const auto stub = SmallWindowStub();
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, LongTokens(10000));
  ASSERT_TRUE(WaitFor([this] { return engine_->submitted() == 1 && engine_->running() == 0; }));
  EXPECT_EQ(server_->active_requests(), 1u);  // Ended, but still open.
  EXPECT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(UnreadStreamsTest, AFinishedStreamWhoseEndIsNeverReadIsCutOffToo) {
  StartReady(std::make_unique<FakeEngine>(), kStalledSeconds);
  const auto stub = SmallWindowStub();
  grpc::ClientContext context;
  v1::GenerateRequest request = LongTokens(6);  // More than a window; gRPC itself takes the rest of the writes.
  request.set_request_id("twin");
  auto reader = stub->Generate(&context, request);
  ASSERT_TRUE(WaitFor([this] { return engine_->submitted() == 1 && engine_->running() == 0; }));
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_EQ(server_->active_requests(), 1u);
  EXPECT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
  EXPECT_EQ(engine_->cancels().second, 0);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
  request = TextRequest("abc", 3);
  request.set_request_id("twin");
  EXPECT_TRUE(Generate(request).status.ok());
}

TEST_F(UnreadStreamsTest, EndedStreamsTakeNoPlaceOfRunningOnes) {
  running_max_ = 2;
  StartReady(std::make_unique<FakeEngine>(), 30);
  const auto stub = SmallWindowStub();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (uint64_t i = 0; i < 4; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub->Generate(contexts.back().get(), LongTokens(6)));
    ASSERT_TRUE(WaitFor([&] { return engine_->submitted() == i + 1 && engine_->running() == 0; }));
    std::this_thread::sleep_for(milliseconds(100));
  }
  EXPECT_EQ(server_->active_requests(), 4u);
  EXPECT_TRUE(Generate(TextRequest("abc", 3)).status.ok());
  for (size_t i = 0; i < readers.size(); ++i) {
    StreamOutcome outcome;
    v1::GenerateResponse response;
    while (readers[i]->Read(&response)) Collect(response, &outcome);
    EXPECT_TRUE(readers[i]->Finish().ok());
    EXPECT_EQ(outcome.text.size(), 6 * kLongBytes);
  }
  EXPECT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
}

}  // namespace
}  // namespace shoal::testing
