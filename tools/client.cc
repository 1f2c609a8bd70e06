#include "tools/client.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/str_cat.h"
#include "grpc/support/log.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/shoal/v1/inference.grpc.pb.h"
#include "server/config.h"

namespace shoal {
namespace {

using SystemClock = std::chrono::system_clock;

constexpr auto kConnectTimeout = std::chrono::seconds(5);
constexpr double kCallSeconds = 30;

SystemClock::time_point After(double seconds) {
  return SystemClock::now() + std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6));
}

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace

struct Client::State {
  explicit State(std::shared_ptr<grpc::Channel> to)
      : channel(std::move(to)), inference(v1::Inference::NewStub(channel)), admin(v1::Admin::NewStub(channel)) {}

  // One unary call with the usual deadline.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(Stub* stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                const Request& request) {
    grpc::ClientContext context;
    context.set_deadline(After(kCallSeconds));
    Response response;
    const grpc::Status status = (stub->*method)(&context, request, &response);
    if (!status.ok()) return FromGrpc(status);
    return response;
  }

  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<v1::Inference::Stub> inference;
  const std::unique_ptr<v1::Admin::Stub> admin;
};

Client::Client(std::unique_ptr<State> state) : state_(std::move(state)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& address) {
  gpr_set_log_function([](gpr_log_func_args*) {});  // Our own messages say what went wrong.
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // gRPC would ask the proxy of the environment even for this machine.
  const absl::StatusOr<ListenAddress> parsed = ParseListenAddress(address);
  if (parsed.ok() && parsed->loopback) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // Channels to one address would share a connection.
  auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  const auto until = SystemClock::now() + kConnectTimeout;
  while (true) {
    const grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) break;
    const bool refused = state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN;
    if (refused || !channel->WaitForStateChange(state, until)) {
      return absl::UnavailableError(
          StrCat("no server answers on ", address, "; start one or give another --server HOST:PORT"));
    }
  }
  return std::unique_ptr<Client>(new Client(std::make_unique<State>(std::move(channel))));
}

absl::Status Client::Generate(const v1::GenerateRequest& request, double seconds,
                              const std::function<void(const v1::GenerateResponse&)>& on_response) {
  grpc::ClientContext context;
  context.set_deadline(After(seconds));
  const auto reader = state_->inference->Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) on_response(response);
  return FromGrpc(reader->Finish());
}

absl::StatusOr<v1::DrainResponse> Client::Drain(const v1::DrainRequest& request) {
  return state_->Call(state_->admin.get(), &v1::Admin::Stub::Drain, request);
}
absl::StatusOr<v1::GetModelInfoResponse> Client::GetModelInfo() {
  return state_->Call(state_->inference.get(), &v1::Inference::Stub::GetModelInfo, v1::GetModelInfoRequest());
}
absl::StatusOr<v1::GetServerInfoResponse> Client::GetServerInfo() {
  return state_->Call(state_->inference.get(), &v1::Inference::Stub::GetServerInfo, v1::GetServerInfoRequest());
}
absl::StatusOr<v1::GetLoadsResponse> Client::GetLoads() {
  return state_->Call(state_->inference.get(), &v1::Inference::Stub::GetLoads, v1::GetLoadsRequest());
}
absl::StatusOr<v1::GetPlanResponse> Client::GetPlan() {
  return state_->Call(state_->inference.get(), &v1::Inference::Stub::GetPlan, v1::GetPlanRequest());
}

}  // namespace shoal
