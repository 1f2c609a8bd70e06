// What clients may ask for at once, and what it costs the server.
#include <filesystem>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "server/grpc_status.h"
#include "tests/server/server_fixture.h"

namespace shoal::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class BoundsTest : public ServerTest {};

TEST_F(BoundsTest, AFullServerRefusesBeforeThePromptIsRead) {
  running_max_ = 2;
  StartReady();
  engine_->Pause(true);
  grpc::ClientContext first, second;
  auto one = stub_->Generate(&first, TextRequest("a", 5));
  auto two = stub_->Generate(&second, TextRequest("b", 5));
  ASSERT_TRUE(WaitFor([this] { return engine_->running() == 2; }));
  const StreamOutcome refused = Generate(TextRequest("c", 5));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("the queue is full with 2 requests"));
  EXPECT_THAT(refused.status.error_details(), HasSubstr("google.rpc.RetryInfo"));
  EXPECT_EQ(engine_->submitted(), 2u);
  engine_->Pause(false);
  v1::GenerateResponse response;
  while (one->Read(&response)) {
  }
  while (two->Read(&response)) {
  }
  EXPECT_TRUE(one->Finish().ok());
  EXPECT_TRUE(two->Finish().ok());
}

TEST_F(BoundsTest, DetokenizeRefusesATextOfMoreThan4MiB) {
  StartReady();
  v1::DetokenizeRequest request;
  v1::DetokenizeResponse response;
  for (int i = 0; i < 262; ++i) request.add_token_ids(kLongId);  // 4,192,000 bytes.
  grpc::ClientContext fits;
  ASSERT_TRUE(stub_->Detokenize(&fits, request, &response).ok());
  EXPECT_EQ(response.text().size(), 262 * kLongBytes);
  for (int i = 0; i < 100000; ++i) request.add_token_ids(kLongId);
  grpc::ClientContext context;
  const grpc::Status status = stub_->Detokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("has more than 4194304 bytes"));
}

TEST_F(BoundsTest, OnlyAFullQueueSaysRetry) {
  const absl::Status full = absl::ResourceExhaustedError("full");
  EXPECT_TRUE(ToGrpcStatus(full).error_details().empty());
  EXPECT_FALSE(ToGrpcStatus(RetryIfFull(full)).error_details().empty());
  EXPECT_TRUE(ToGrpcStatus(RetryIfFull(absl::InternalError("bug"))).error_details().empty());
}

TEST_F(BoundsTest, EveryDrainReachesTheEngine) {
  StartReady();
  server_->Drain(20);
  server_->Drain(5);
  EXPECT_THAT(engine_->drain_deadlines(), ElementsAre(20, 5));
}

int ThreadsOfThisProcess() {
  int threads = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) ++threads;
  return threads;
}

TEST_F(BoundsTest, OpenReflectionStreamsCostFewThreads) {
  StartReady();
  ASSERT_TRUE(Generate(TextRequest("abc", 3)).status.ok());
  const int before = ThreadsOfThisProcess();
  grpc::CompletionQueue queue;
  const auto channel = NewChannel();
  grpc::GenericStub generic(channel);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::GenericClientAsyncReaderWriter>> streams;
  for (int i = 0; i < 64; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(generic.PrepareCall(contexts.back().get(),
                                          "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue));
    streams.back()->StartCall(nullptr);
  }
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_LE(ThreadsOfThisProcess(), before + 24);  // Some are gRPC's event threads of the new connection.
  // Ours go on meanwhile.
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Generate(TextRequest("abc", 3)).status.ok());
  EXPECT_EQ(Health(""), 1);
  for (const auto& context : contexts) context->TryCancel();
  queue.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue.Next(&tag, &ok)) {
  }
}

}  // namespace
}  // namespace shoal::testing
