#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "grpc/support/log.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/port.h"
#include "server/service.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kHandshakeMs = 2000;
// Reflection is gRPC's own, a service that keeps a thread for every open stream: streams beyond these threads are
// refused. Our own calls run on gRPC's event threads, which do not count.
constexpr int kSyncThreadsMax = 8;
// A client that froze is noticed after time + timeout. Shorter ones also kill healthy clients that are busy.
constexpr int kKeepaliveTimeMs = 30000;
constexpr int kKeepaliveTimeoutMs = 20000;

// gRPC's own lines become ours; what it calls an error is mostly the trouble of one client.
void LogFromGrpc(gpr_log_func_args* args) { LogLine(LogLevel::kDebug, StrCat("grpc: ", args->message)); }

class GrpcServer final : public ShoalServer {
 public:
  GrpcServer(const ServerOptions& options, ServingModel model)
      : address_(options.listen), inference_(&serving_), admin_(&serving_, [this](double seconds) { Drain(seconds); }) {
    serving_.limits.max_context = model.info.max_context_length();
    serving_.limits.vocab_size = model.info.vocab_size();
    serving_.limits.prompt_bytes = options.prompt_bytes;
    serving_.limits.stop_strings = options.stop_strings;
    serving_.limits.add_generation_prompt = options.add_generation_prompt;
    serving_.running_max = options.running_max;
    serving_.stalled_reader_seconds = options.stalled_reader_seconds;
    serving_.drain_seconds = options.drain_seconds;
    serving_.model = std::move(model);
  }

  ~GrpcServer() override { Shutdown(0); }

  absl::Status Listen(const ServerOptions& options) {
    grpc::EnableDefaultHealthCheckService(true);
    static std::once_flag reflection;  // The plugin is global in gRPC.
    std::call_once(reflection, [] { grpc::reflection::InitProtoReflectionServerBuilderPlugin(); });
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(options.listen.ToString(), grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&inference_);
    builder.RegisterService(&admin_);
    builder.SetMaxReceiveMessageSize(static_cast<int>(options.message_bytes));
    grpc::ResourceQuota quota("shoal");
    quota.Resize(static_cast<size_t>(options.network_bytes)).SetMaxThreads(kSyncThreadsMax);
    builder.SetResourceQuota(quota);
    // Without this a second server on the same port would start, and take half of the connections.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.streams_per_connection);
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    if (server == nullptr || port == 0) {
      return absl::InvalidArgumentError(
          StrCat("listen: cannot listen on ", options.listen.ToString(), "; choose another address with --listen"));
    }
    address_.port = port;
    // Calls, and so a drain, may have come already.
    std::lock_guard lock(mutex_);
    server_ = std::move(server);
    SetHealth(false);
    return absl::OkStatus();
  }

  void SetReady() override {
    std::lock_guard lock(mutex_);
    serving_.ready = true;
    if (!serving_.draining) SetHealth(true);
  }

  void Drain(double deadline_seconds) override {
    if (deadline_seconds < 0) deadline_seconds = serving_.drain_seconds;
    {
      std::lock_guard lock(mutex_);
      if (shut_down_) return;
      SetHealth(false);
      // As in the engine: a further call can only hurry.
      const auto deadline = Clock::now() + std::chrono::milliseconds(std::llround(deadline_seconds * 1e3));
      drain_deadline_ = std::min(drain_deadline_.value_or(deadline), deadline);
    }
    serving_.Drain(deadline_seconds);
  }

  std::optional<Clock::time_point> drain_deadline() const override {
    std::lock_guard lock(mutex_);
    return drain_deadline_;
  }

  void Shutdown(double grace_seconds) override {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(shut_down_, true) || server_ == nullptr) return;
      SetHealth(false);
      serving_.draining = true;
    }
    const auto until = Clock::now() + std::chrono::duration<double>(grace_seconds);
    while (serving_.streams.size() > 0 && Clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    serving_.streams.Close();
    // Statuses of the last streams reach their clients; then calls that are left are cut.
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  }

  const ListenAddress& address() const override { return address_; }
  size_t active_requests() const override { return serving_.streams.size(); }

 private:
  // With mutex_ held.
  void SetHealth(bool serving) {
    if (server_ == nullptr) return;
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus(serving);
    health->SetServingStatus(std::string(v1::Inference::service_full_name()), serving);
    health->SetServingStatus(serving_.model.info.served_model_name(), serving);
  }

  ListenAddress address_;
  Serving serving_;
  InferenceService inference_;
  AdminService admin_;
  mutable std::mutex mutex_;  // Orders changes of health, so that a late SetReady cannot hide a drain.
  std::optional<Clock::time_point> drain_deadline_;
  bool shut_down_ = false;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

ServerOptions MakeServerOptions(const Config& config) {
  ServerOptions options;
  options.listen = config.listen;
  options.message_bytes = config.message_bytes;
  options.network_bytes = config.network_bytes;
  options.streams_per_connection = config.proto.limits().streams_per_connection();
  options.prompt_bytes = config.prompt_bytes;
  options.stop_strings = config.proto.limits().stop_strings();
  // What the engine can hold at once.
  options.running_max = static_cast<size_t>(config.proto.batch().max_sequences()) +
                        static_cast<size_t>(config.proto.batch().max_waiting());
  options.stalled_reader_seconds = config.proto.limits().stalled_reader_seconds();
  options.drain_seconds = config.proto.drain_seconds();
  options.add_generation_prompt = config.proto.chat().add_generation_prompt();
  return options;
}

absl::StatusOr<std::unique_ptr<ShoalServer>> ShoalServer::Start(const ServerOptions& options, ServingModel model) {
  gpr_set_log_function(LogFromGrpc);
  // gRPC does not say why it cannot bind.
  RETURN_IF_ERROR(CheckPortIsFree(options.listen));
  auto server = std::make_unique<GrpcServer>(options, std::move(model));
  RETURN_IF_ERROR(server->Listen(options));
  return server;
}

}  // namespace shoal
