// Streams from a client's side: what is said, when it ends, and that nobody waits for anybody.
#include <atomic>
#include <thread>

#include "gmock/gmock.h"
#include "google/protobuf/duration.pb.h"
#include "proto/shoal/v1/rpc_status.pb.h"
#include "tests/server/server_fixture.h"

namespace shoal::testing {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The sanitizers make everything slower; what is measured in seconds then only shows that nothing hangs.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr double kPatience = 10;
#else
constexpr double kPatience = 1;
#endif

class GenerateTest : public ServerTest {};

TEST_F(GenerateTest, StreamsTokensAndTextThenOneComplete) {
  StartReady();
  v1::GenerateRequest request = TextRequest("caf\xC3\xA9 \xF0\x9F\x98\x80!", 11);
  request.set_request_id("mine");
  request.mutable_sampling_params()->set_seed(77);
  const StreamOutcome outcome = Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.text, "caf\xC3\xA9 \xF0\x9F\x98\x80!");
  EXPECT_EQ(outcome.ids.size(), 11u);
  EXPECT_TRUE(outcome.positions_ok);
  EXPECT_TRUE(outcome.utf8_ok);
  ASSERT_EQ(outcome.completes.size(), 1u);
  const v1::Complete& complete = outcome.completes[0];
  EXPECT_EQ(complete.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(complete.usage().prompt_tokens(), 11);
  EXPECT_EQ(complete.usage().completion_tokens(), 11);
  EXPECT_EQ(complete.usage().total_tokens(), 22);
  EXPECT_EQ(complete.request_id(), "mine");
  EXPECT_EQ(complete.seed(), 77u);
  EXPECT_TRUE(complete.has_metrics());
  EXPECT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
  EXPECT_EQ(engine_->cancels().second, 0);
}

TEST_F(GenerateTest, EveryFieldReachesTheEngine) {
  StartReady();
  v1::GenerateRequest request = TextRequest("ab", 7);
  request.set_priority(-3);
  v1::SamplingParams* params = request.mutable_sampling_params();
  params->set_temperature(0.25f);
  params->set_top_p(0.5f);
  params->set_top_k(40);
  params->set_min_p(0.1f);
  params->set_repetition_penalty(1.5f);
  params->set_presence_penalty(-1);
  params->set_frequency_penalty(2);
  params->set_seed(5);
  params->set_min_tokens(2);
  params->add_stop_token_ids(9);
  params->set_logprobs(2);
  (*params->mutable_logit_bias())[3] = -100;
  const StreamOutcome outcome = Generate(request);
  ASSERT_TRUE(outcome.status.ok());
  ASSERT_EQ(outcome.logprobs.size(), 7u);
  EXPECT_EQ(outcome.logprobs[1].token().token_id(), 'b');
  EXPECT_EQ(outcome.logprobs[1].top_size(), 2);
  const Request seen = engine_->last_request();
  EXPECT_EQ(seen.priority, -3);
  EXPECT_EQ(seen.prompt, (std::vector<int32_t>{'a', 'b'}));
  EXPECT_EQ(seen.max_tokens, 7);
  EXPECT_EQ(seen.min_tokens, 2);
  EXPECT_EQ(seen.stop_ids, (std::vector<int32_t>{9, kEosId}));
  EXPECT_EQ(seen.sampling.temperature, 0.25f);
  EXPECT_EQ(seen.sampling.top_p, 0.5f);
  EXPECT_EQ(seen.sampling.top_k, 40);
  EXPECT_EQ(seen.sampling.min_p, 0.1f);
  EXPECT_EQ(seen.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(seen.sampling.presence_penalty, -1);
  EXPECT_EQ(seen.sampling.frequency_penalty, 2);
  EXPECT_EQ(seen.sampling.seed, 5u);
  EXPECT_EQ(seen.sampling.top_logprobs, 2);
  EXPECT_EQ(seen.sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{3, -100.0f}}));
}

TEST_F(GenerateTest, WithoutMaxTokensTheContextIsTheLimit) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, microseconds(0)));
  v1::GenerateRequest request;
  request.set_text("abcdefghij");
  const StreamOutcome outcome = Generate(request);
  ASSERT_TRUE(outcome.status.ok());
  EXPECT_EQ(outcome.ids.size(), static_cast<size_t>(kContext) - 10);
  EXPECT_TRUE(outcome.positions_ok);
}

TEST_F(GenerateTest, AStopStringEndsTheTextAndTheEngineOnce) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, microseconds(200)));
  v1::GenerateRequest request = TextRequest("one two three ", 10000);
  request.mutable_sampling_params()->add_stop("never");
  request.mutable_sampling_params()->add_stop("three");
  StreamOutcome outcome = Generate(request);
  ASSERT_TRUE(outcome.status.ok());
  EXPECT_EQ(outcome.text, "one two ");
  ASSERT_EQ(outcome.completes.size(), 1u);
  EXPECT_EQ(outcome.completes[0].finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(outcome.completes[0].matched_stop_str(), "three");
  EXPECT_EQ(outcome.completes[0].usage().completion_tokens(), 13);
  EXPECT_EQ(outcome.ids.size(), 13u);
  EXPECT_EQ(engine_->cancels(), (std::pair{1, 1}));
  EXPECT_TRUE(engine_->WaitIdle());

  request.mutable_sampling_params()->set_include_stop_str_in_output(true);
  outcome = Generate(request);
  EXPECT_EQ(outcome.text, "one two three");
}

TEST_F(GenerateTest, TextHeldBackForAStopStringIsReleasedAtTheEnd) {
  StartReady();
  v1::GenerateRequest request = TextRequest("abcEN", 5);
  request.mutable_sampling_params()->add_stop("END");
  const StreamOutcome outcome = Generate(request);
  EXPECT_EQ(outcome.text, "abcEN");
  EXPECT_EQ(outcome.completes[0].finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GenerateTest, AStopIdIsDeliveredButNotShown) {
  const auto script = [](const Request&, int position) { return position < 3 ? 'a' : kEosId; };
  StartReady(std::make_unique<FakeEngine>(script));
  v1::GenerateRequest request = TextRequest("x", 100);
  StreamOutcome outcome = Generate(request);
  EXPECT_EQ(outcome.text, "aaa");
  EXPECT_EQ(outcome.ids, (std::vector<int32_t>{'a', 'a', 'a', kEosId}));
  EXPECT_EQ(outcome.completes[0].finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(outcome.completes[0].matched_token_id(), kEosId);
  EXPECT_EQ(outcome.completes[0].usage().completion_tokens(), 4);

  request.mutable_sampling_params()->set_include_stop_str_in_output(true);
  request.mutable_sampling_params()->set_skip_special_tokens(false);
  EXPECT_EQ(Generate(request).text, "aaa<|endoftext|>");

  request = TextRequest("x", 10);
  request.mutable_sampling_params()->set_ignore_eos(true);
  outcome = Generate(request);
  EXPECT_EQ(outcome.ids.size(), 10u);
  EXPECT_EQ(outcome.text, "aaa");
}

TEST_F(GenerateTest, MessagesAndTokenIdsAreInputsToo) {
  StartReady();
  v1::GenerateRequest request = TextRequest("", 12);
  v1::Message* message = request.mutable_messages()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  ASSERT_TRUE(Generate(request).status.ok());
  EXPECT_EQ(engine_->last_request().prompt, (std::vector<int32_t>{'u', 's', 'e', 'r', ':', 'h', 'i', kEndId}));
  request.mutable_token_ids()->add_ids(kStartId);
  request.mutable_token_ids()->add_ids('q');
  ASSERT_TRUE(Generate(request).status.ok());
  EXPECT_EQ(engine_->last_request().prompt, (std::vector<int32_t>{kStartId, 'q'}));
}

TEST_F(GenerateTest, SixtyFourStreamsAtOnceAllEndRight) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, microseconds(100)));
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (int i = 0; i < 64; ++i) {
    clients.emplace_back([this, i, &right] {
      const std::string text = "stream " + std::to_string(i) + " \xE2\x82\xAC;";
      const StreamOutcome outcome = Generate(TextRequest(text, static_cast<int>(text.size()) * 20));
      std::string expected;
      for (int n = 0; n < 20; ++n) expected += text;
      right += outcome.status.ok() && outcome.text == expected && outcome.positions_ok && outcome.utf8_ok &&
               outcome.completes.size() == 1;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 64);
  EXPECT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
}

TEST_F(GenerateTest, ACancelAtAnyTokenFreesTheRequest) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, microseconds(100)));
  for (int after = 0; after < 60; ++after) {
    grpc::ClientContext context;
    auto reader = stub_->Generate(&context, TextRequest("abc", 100000));
    v1::GenerateResponse response;
    for (int i = 0; i < after / 2; ++i) ASSERT_TRUE(reader->Read(&response));
    if (after % 2 == 1) std::this_thread::sleep_for(microseconds(37 * after));
    context.TryCancel();
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(engine_->WaitIdle());
  EXPECT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
  EXPECT_LE(engine_->cancels().first, 1);
}

TEST_F(GenerateTest, CancelsRacingTheEndLeaveNothingBehind) {
  StartReady();
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([this, t] {
      for (int i = 0; i < 100; ++i) {
        grpc::ClientContext context;
        auto reader = stub_->Generate(&context, TextRequest("ab", 1 + i % 5));
        v1::GenerateResponse response;
        if (i % 3 == 0) reader->Read(&response);
        std::this_thread::sleep_for(microseconds((i * 7 + t * 31) % 400));
        context.TryCancel();
        while (reader->Read(&response)) {
        }
        const grpc::StatusCode code = reader->Finish().error_code();
        EXPECT_TRUE(code == grpc::StatusCode::OK || code == grpc::StatusCode::CANCELLED) << code;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(engine_->WaitIdle());
  EXPECT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
  EXPECT_LE(engine_->cancels().first, 1);
}

TEST_F(GenerateTest, ADeadlineEndsARequestThatWaitsOrRuns) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, milliseconds(2)));
  for (const bool queued : {false, true}) {
    engine_->Pause(queued);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + milliseconds(150));
    const auto start = Clock::now();
    auto reader = stub_->Generate(&context, TextRequest("abc", 100000));
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_LT(SecondsSince(start), 2.0 * kPatience);
    EXPECT_TRUE(engine_->WaitIdle());
    EXPECT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
  }
}

TEST_F(GenerateTest, AFullQueueAnswersAtOnceWithRetryInfo) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, microseconds(0), 2));
  engine_->Pause(true);
  grpc::ClientContext first, second;
  auto one = stub_->Generate(&first, TextRequest("a", 5));
  auto two = stub_->Generate(&second, TextRequest("b", 5));
  ASSERT_TRUE(WaitFor([this] { return engine_->running() == 2; }));
  const auto start = Clock::now();
  const StreamOutcome refused = Generate(TextRequest("c", 5));
  EXPECT_LT(SecondsSince(start), 1.0 * kPatience);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  v1::RpcStatus details;
  ASSERT_TRUE(details.ParseFromString(refused.status.error_details()));
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
  v1::RetryInfo retry;
  ASSERT_TRUE(retry.ParseFromString(details.details(0).value()));
  EXPECT_GE(retry.retry_delay().seconds(), 1);
  engine_->Pause(false);
  v1::GenerateResponse response;
  while (one->Read(&response)) {
  }
  while (two->Read(&response)) {
  }
  EXPECT_TRUE(one->Finish().ok());
  EXPECT_TRUE(two->Finish().ok());
}

TEST_F(GenerateTest, ARequestIdRunsOnlyOnceAtATime) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, milliseconds(1)));
  v1::GenerateRequest request = TextRequest("abc", 100000);
  request.set_request_id("twin");
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  const StreamOutcome refused = Generate(request);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("'twin'"));
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  reader->Finish();
  ASSERT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
  request.mutable_sampling_params()->set_max_tokens(3);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Generate(request).status.ok());
}

TEST_F(GenerateTest, AbortEndsAStreamWithItsTextSoFar) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, milliseconds(1)));
  v1::GenerateRequest request = TextRequest("abc", 100000);
  request.set_request_id("long");
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  StreamOutcome outcome;
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  Collect(response, &outcome);
  grpc::ClientContext abort_context;
  v1::AbortRequest abort;
  abort.add_request_ids("long");
  abort.add_request_ids("unknown");
  v1::AbortResponse aborted;
  ASSERT_TRUE(stub_->Abort(&abort_context, abort, &aborted).ok());
  ASSERT_EQ(aborted.aborted_request_ids_size(), 1);
  EXPECT_EQ(aborted.aborted_request_ids(0), "long");
  while (reader->Read(&response)) Collect(response, &outcome);
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_EQ(outcome.completes.size(), 1u);
  EXPECT_EQ(outcome.completes[0].finish_reason(), v1::FINISH_REASON_ABORT);
  EXPECT_EQ(outcome.completes[0].usage().completion_tokens(), static_cast<int64_t>(outcome.ids.size()));
  EXPECT_TRUE(engine_->WaitIdle());
}

TEST_F(GenerateTest, AStalledReaderIsEndedAndNobodyWaitsForIt) {
  // Each token of the greedy client is 16,000 bytes, so gRPC's own buffers are soon full.
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, microseconds(2000)), 4.0);
  v1::GenerateRequest greedy;
  greedy.mutable_token_ids()->add_ids(kLongId);
  grpc::ClientContext context;
  const auto stalled_stub = NewStub();
  auto reader = stalled_stub->Generate(&context, greedy);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  const auto start = Clock::now();
  for (int i = 0; i < 5; ++i) {
    const auto begin = Clock::now();
    const StreamOutcome other = Generate(TextRequest("abc", 100));
    EXPECT_TRUE(other.status.ok());
    EXPECT_EQ(other.ids.size(), 100u);
    EXPECT_LT(SecondsSince(begin), 2.0 * kPatience);
  }
  EXPECT_TRUE(WaitFor([this] { return engine_->running() == 0; }));
  EXPECT_GE(SecondsSince(start), 0.5);
  EXPECT_EQ(engine_->cancels(), (std::pair{1, 1}));
  // What was sent can still be read, for as long again; then comes the reason.
  while (reader->Read(&response)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("has not read its stream for 4 seconds"));
}

TEST_F(GenerateTest, AReaderThatPausesGetsEverythingInMessagesOfBoundedSize) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, microseconds(100)));
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(kLongId);
  request.mutable_sampling_params()->set_max_tokens(1000);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  ASSERT_TRUE(WaitFor([this] { return engine_->submitted() == 1 && engine_->running() == 0; }));
  StreamOutcome outcome;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {  // gRPC's own limit of 4 MiB holds for each message.
    EXPECT_LT(response.ByteSizeLong(), 200000u);
    Collect(response, &outcome);
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(outcome.ids.size(), 1000u);
  EXPECT_TRUE(outcome.positions_ok);
  EXPECT_EQ(outcome.text.size(), 1000 * kLongBytes);
}

TEST_F(GenerateTest, AReaderThatNeverReadsIsCutOff) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, microseconds(100)), 0.3);
  v1::GenerateRequest greedy;
  greedy.mutable_token_ids()->add_ids(kLongId);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, greedy);
  ASSERT_TRUE(WaitFor([this] { return engine_->submitted() == 1 && engine_->running() == 0; }));
  EXPECT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
  std::this_thread::sleep_for(milliseconds(600));  // Past the second limit.
  server_->Shutdown(0);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(GenerateTest, AnEngineErrorIsTheStatusOfEveryStream) {
  StartReady(std::make_unique<FakeEngine>(FakeEngine::Echo, milliseconds(1)));
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([this, &right] {
      const StreamOutcome outcome = Generate(TextRequest("abc", 100000));
      right += outcome.status.error_code() == grpc::StatusCode::UNAVAILABLE &&
               outcome.status.error_message() == "rank 1 is gone" && outcome.completes.empty();
    });
  }
  ASSERT_TRUE(WaitFor([this] { return engine_->running() == 8; }));
  engine_->Fail(absl::UnavailableError("rank 1 is gone"));
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 8);
}

}  // namespace
}  // namespace shoal::testing
