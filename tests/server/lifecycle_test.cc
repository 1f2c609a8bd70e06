// The server's states and its small calls.
#include <cmath>
#include <thread>

#include "gmock/gmock.h"
#include "tests/server/server_fixture.h"

namespace shoal::testing {
namespace {

using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

constexpr int kServing = 1;
constexpr int kNotServing = 2;

class LifecycleTest : public ServerTest {
 protected:
  v1::GetServerInfoResponse Info() {
    grpc::ClientContext context;
    v1::GetServerInfoResponse info;
    EXPECT_TRUE(stub_->GetServerInfo(&context, {}, &info).ok());
    return info;
  }
  grpc::Status Drain(const v1::DrainRequest& request, v1::DrainResponse* response) {
    grpc::ClientContext context;
    return v1::Admin::NewStub(NewChannel())->Drain(&context, request, response);
  }
};

TEST_F(LifecycleTest, NothingIsServedBeforeTheEngineIsReady) {
  StartServer();
  EXPECT_NE(server_->address().port, 0);
  EXPECT_EQ(Health(""), kNotServing);
  EXPECT_EQ(Info().state(), v1::SERVER_STATE_STARTING);
  const StreamOutcome outcome = Generate(TextRequest("a", 1));
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(outcome.status.error_message(), HasSubstr("the server is starting"));
  server_->SetReady();
  for (const char* service : {"", "shoal.v1.Inference", "fake"}) EXPECT_EQ(Health(service), kServing) << service;
  grpc::StatusCode code;
  EXPECT_EQ(Health("nobody", &code), -1);
  EXPECT_EQ(code, grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Info().state(), v1::SERVER_STATE_SERVING);
  EXPECT_TRUE(Generate(TextRequest("a", 1)).status.ok());
}

TEST_F(LifecycleTest, ADrainLetsRunningStreamsEndAndRefusesNewOnes) {
  StartReady();
  engine_->Pause(true);  // Until all is checked.
  StreamOutcome running;
  std::thread client([&] { running = Generate(TextRequest("abc", 300)); });
  ASSERT_TRUE(WaitFor([this] { return engine_->running() == 1; }));
  v1::DrainResponse response;
  ASSERT_TRUE(Drain({}, &response).ok());
  EXPECT_EQ(response.active_requests(), 1);
  EXPECT_EQ(Health(""), kNotServing);
  EXPECT_EQ(Health("shoal.v1.Inference"), kNotServing);
  EXPECT_EQ(Info().state(), v1::SERVER_STATE_DRAINING);
  const StreamOutcome refused = Generate(TextRequest("new", 1));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("draining"));
  ASSERT_TRUE(Drain({}, &response).ok());  // Twice is harmless.
  server_->SetReady();                     // So is a late ready.
  EXPECT_EQ(Health(""), kNotServing);
  engine_->Pause(false);
  client.join();
  EXPECT_TRUE(running.status.ok());
  EXPECT_EQ(running.ids.size(), 300u);
  EXPECT_EQ(engine_->state(), EngineState::kStopped);
  server_->Shutdown(1);
}

TEST_F(LifecycleTest, ADrainDeadlineIsChecked) {
  StartReady();
  for (const double seconds : {-1.0, 1e9, std::nan("")}) {
    v1::DrainRequest request;
    request.set_deadline_seconds(seconds);
    v1::DrainResponse response;
    const grpc::Status status = Drain(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("deadline_seconds is "));
  }
  EXPECT_EQ(Health(""), kServing);
}

TEST_F(LifecycleTest, ShutdownEndsStreamsThatTheEngineLeavesHanging) {
  StartReady();
  engine_->Pause(true);
  StreamOutcome hanging;
  std::thread client([&] { hanging = Generate(TextRequest("abc", 300)); });
  ASSERT_TRUE(WaitFor([this] { return engine_->running() == 1; }));
  const auto start = Clock::now();
  server_->Shutdown(0.1);
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), 2.0);
  client.join();
  EXPECT_EQ(hanging.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(engine_->WaitIdle());
}

TEST_F(LifecycleTest, ASecondServerOnThePortIsRefused) {
  StartReady();
  ServerOptions options;
  options.listen = server_->address();
  const auto second = ShoalServer::Start(options, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(server_->address().ToString() + " is in use"));
  EXPECT_TRUE(Generate(TextRequest("a", 1)).status.ok());
}

TEST_F(LifecycleTest, AnAddressOfAnotherMachineIsRefused) {
  ServerOptions options;
  options.listen = {"192.0.2.1", 50051, false};
  EXPECT_EQ(ShoalServer::Start(options, {}).status().code(), absl::StatusCode::kInvalidArgument);
  options.listen = {"no-such-host.invalid", 50051, false};
  EXPECT_THAT(std::string(ShoalServer::Start(options, {}).status().message()), HasSubstr("cannot find the host"));
}

TEST_F(LifecycleTest, ThePortIsFreeAgainAfterShutdown) {
  StartReady();
  const ListenAddress address = server_->address();
  EXPECT_TRUE(Generate(TextRequest("a", 1)).status.ok());
  server_->Shutdown(0);
  ServerOptions options;
  options.listen = address;
  ServingModel model;
  model.engine = engine_.get();
  model.tokenizer = tokenizer_.get();
  const auto second = ShoalServer::Start(options, std::move(model));
  EXPECT_TRUE(second.ok()) << second.status();
}

TEST_F(LifecycleTest, TokenizeAndDetokenizeAreInverse) {
  StartReady();
  const std::string text = "caf\xC3\xA9 <|im_end|>";
  grpc::ClientContext context;
  v1::TokenizeRequest request;
  request.set_text(text);
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(stub_->Tokenize(&context, request, &tokens).ok());
  EXPECT_EQ(tokens.token_ids_size(), 7);
  EXPECT_EQ(tokens.token_ids(6), kEndId);
  EXPECT_EQ(tokens.max_context_length(), kContext);
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  grpc::ClientContext back_context;
  v1::DetokenizeResponse response;
  ASSERT_TRUE(stub_->Detokenize(&back_context, back, &response).ok());
  EXPECT_EQ(response.text(), text);

  grpc::ClientContext bad_context;
  request.set_text("\xFF");
  EXPECT_EQ(stub_->Tokenize(&bad_context, request, &tokens).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  grpc::ClientContext range_context;
  back.add_token_ids(1 << 30);
  EXPECT_EQ(stub_->Detokenize(&range_context, back, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(LifecycleTest, LoadsAndInfoAreReported) {
  StartReady();
  ASSERT_TRUE(Generate(TextRequest("abc", 4)).status.ok());
  grpc::ClientContext context;
  v1::GetLoadsResponse loads;
  ASSERT_TRUE(stub_->GetLoads(&context, {}, &loads).ok());
  EXPECT_EQ(loads.kv_blocks_total(), 12);
  EXPECT_EQ(loads.num_used_tokens(), 96);
  EXPECT_EQ(loads.max_total_num_tokens(), 384);
  EXPECT_DOUBLE_EQ(loads.token_usage(), 0.25);
  EXPECT_EQ(loads.generation_tokens_total(), 4u);
  ASSERT_EQ(loads.stages_size(), 2);
  EXPECT_DOUBLE_EQ(loads.stages(1).busy_fraction(), 0.5);
  ASSERT_EQ(loads.memory_size(), 2);
  EXPECT_EQ(loads.memory(1).weights_bytes(), 101);
  grpc::ClientContext info_context;
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(stub_->GetModelInfo(&info_context, {}, &info).ok());
  EXPECT_EQ(info.served_model_name(), "fake");
  grpc::ClientContext plan_context;
  v1::GetPlanResponse plan;
  ASSERT_TRUE(stub_->GetPlan(&plan_context, {}, &plan).ok());
  EXPECT_EQ(plan.ranks_size(), 2);
  EXPECT_EQ(Info().ranks(), 2);
}

TEST_F(LifecycleTest, UnknownMethodsAreUnimplemented) {
  StartReady();
  v1::DrainRequest request;
  v1::DrainResponse response;
  grpc::ClientContext context;
  const grpc::internal::RpcMethod method("/shoal.v1.Inference/Nothing", grpc::internal::RpcMethod::NORMAL_RPC);
  const auto channel = NewChannel();
  const grpc::Status status = grpc::internal::BlockingUnaryCall<v1::DrainRequest, v1::DrainResponse>(
      channel.get(), method, &context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace shoal::testing
