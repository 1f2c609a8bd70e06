// A client of a Shoal server, without gRPC in its interface.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/shoal/v1/inference.pb.h"

namespace shoal {

// Thread-safe.
class Client {
 public:
  // One connection of its own. Waits until the server answers. Errors: kUnavailable naming the address.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& address);
  ~Client();

  // Calls `on_response` for every message of the stream. Errors: the server's; kDeadlineExceeded after `seconds`.
  absl::Status Generate(const v1::GenerateRequest& request, double seconds,
                        const std::function<void(const v1::GenerateResponse&)>& on_response);

  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest& request);
  absl::StatusOr<v1::GetModelInfoResponse> GetModelInfo();
  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo();
  absl::StatusOr<v1::GetLoadsResponse> GetLoads();
  absl::StatusOr<v1::GetPlanResponse> GetPlan();

 private:
  struct State;
  explicit Client(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace shoal
