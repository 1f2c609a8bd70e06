// A real gRPC server on a free port of this machine, over a fake engine.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "grpcpp/create_channel.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "proto/shoal/v1/inference.grpc.pb.h"
#include "server/server.h"
#include "tests/server/byte_tokenizer.h"
#include "tests/server/fake_engine.h"

namespace shoal::testing {

// Everything a stream brought.
struct StreamOutcome {
  std::string text;
  std::vector<int32_t> ids;
  int chunks = 0;
  bool positions_ok = true;  // Consecutive from 0.
  bool utf8_ok = true;       // Every chunk on its own.
  std::vector<v1::PositionLogprobs> logprobs;
  std::vector<v1::Complete> completes;
  grpc::Status status;
};

class ServerTest : public ::testing::Test {
 protected:
  void StartServer(std::unique_ptr<FakeEngine> engine = nullptr, double stalled_reader_seconds = 30) {
    engine_ = engine ? std::move(engine) : std::make_unique<FakeEngine>();
    ServerOptions options;
    options.listen = {"127.0.0.1", 0, true};
    options.running_max = running_max_;
    options.message_bytes = 1 << 20;
    options.prompt_bytes = 1 << 16;
    options.stalled_reader_seconds = stalled_reader_seconds;
    ServingModel model;
    model.engine = engine_.get();
    model.tokenizer = tokenizer_.get();
    model.render_chat = [](const PromptChat& chat) -> absl::StatusOr<std::string> {
      std::string text;
      for (const PromptMessage& message : chat.messages) text += message.role + ":" + message.content + "<|im_end|>";
      return text;
    };
    model.defaults.eos_token_ids = {kEosId};
    model.info.set_served_model_name("fake");
    model.info.set_vocab_size(kByteVocab);
    model.info.set_max_context_length(kContext);
    for (int rank = 0; rank < 2; ++rank) model.plan.add_ranks()->mutable_memory()->set_weights_bytes(100 + rank);
    auto server = ShoalServer::Start(options, std::move(model));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = NewStub();
  }

  void StartReady(std::unique_ptr<FakeEngine> engine = nullptr, double stalled_reader_seconds = 30) {
    StartServer(std::move(engine), stalled_reader_seconds);
    server_->SetReady();
  }

  std::shared_ptr<grpc::Channel> NewChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // A connection of its own.
    return grpc::CreateCustomChannel(server_->address().ToString(), grpc::InsecureChannelCredentials(), arguments);
  }
  std::unique_ptr<v1::Inference::Stub> NewStub() const { return v1::Inference::NewStub(NewChannel()); }

  static v1::GenerateRequest TextRequest(const std::string& text, int max_tokens) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_sampling_params()->set_max_tokens(max_tokens);
    return request;
  }

  static void Collect(const v1::GenerateResponse& response, StreamOutcome* outcome) {
    if (response.has_complete()) return outcome->completes.push_back(response.complete());
    const v1::Chunk& chunk = response.chunk();
    ++outcome->chunks;
    outcome->positions_ok &=
        chunk.position() == static_cast<int64_t>(outcome->ids.size()) && outcome->completes.empty();
    outcome->utf8_ok &= IsValidUtf8(chunk.text());
    outcome->text += chunk.text();
    outcome->ids.insert(outcome->ids.end(), chunk.token_ids().begin(), chunk.token_ids().end());
    outcome->logprobs.insert(outcome->logprobs.end(), chunk.logprobs().begin(), chunk.logprobs().end());
  }

  static StreamOutcome Generate(v1::Inference::Stub* stub, const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    auto reader = stub->Generate(&context, request);
    StreamOutcome outcome;
    v1::GenerateResponse response;
    while (reader->Read(&response)) Collect(response, &outcome);
    outcome.status = reader->Finish();
    return outcome;
  }
  StreamOutcome Generate(const v1::GenerateRequest& request) { return Generate(stub_.get(), request); }

  // The standard health service: 1 SERVING, 2 NOT_SERVING; -1: an error, then in `code`.
  // Its messages have one field each, with the numbers of the two used here.
  int Health(const std::string& service, grpc::StatusCode* code = nullptr) const {
    v1::DetokenizeResponse request;  // string 1
    request.set_text(service);
    v1::DrainResponse response;  // varint 1
    grpc::ClientContext context;
    const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC);
    const auto channel = NewChannel();
    const grpc::Status status = grpc::internal::BlockingUnaryCall<v1::DetokenizeResponse, v1::DrainResponse>(
        channel.get(), method, &context, request, &response);
    if (code != nullptr) *code = status.error_code();
    return status.ok() ? static_cast<int>(response.active_requests()) : -1;
  }

  // False if it takes longer than 5 seconds.
  static bool WaitFor(const std::function<bool()>& condition) {
    for (int i = 0; i < 5000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  static constexpr int64_t kContext = 20000;
  size_t running_max_ = 320;  // To be set before StartServer.
  const std::unique_ptr<Tokenizer> tokenizer_ = MakeByteTokenizer();
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<ShoalServer> server_;  // Goes before the engine.
  std::unique_ptr<v1::Inference::Stub> stub_;
};

}  // namespace shoal::testing
