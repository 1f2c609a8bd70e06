// The gRPC server of rank 0.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/serving.h"

namespace shoal {

struct ServerOptions {
  ListenAddress listen;
  int64_t message_bytes = 4 << 20;
  int64_t network_bytes = 64 << 20;
  int streams_per_connection = 100;
  int64_t prompt_bytes = 1 << 20;
  int stop_strings = 16;
  size_t running_max = 320;  // Generate calls that run or wait for it.
  double stalled_reader_seconds = 30;
  double drain_seconds = 30;
  bool add_generation_prompt = true;
};

ServerOptions MakeServerOptions(const Config& config);

// Life: Start (health says NOT_SERVING and requests are refused), SetReady, perhaps Drain, Shutdown. All methods may be
// called from any thread.
class ShoalServer {
 public:
  // Listens. Errors: kAlreadyExists if the port is in use; kInvalidArgument for an address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<ShoalServer>> Start(const ServerOptions& options, ServingModel model);
  // Calls Shutdown(0) if that was not done.
  virtual ~ShoalServer() = default;

  // Requests are taken and health says SERVING from now on, unless a drain has begun.
  virtual void SetReady() = 0;

  // What the Drain call does: health says NOT_SERVING, new requests are refused, the engine ends when the running ones
  // have. Returns at once; a negative deadline stands for the configured one. A further call can only bring the
  // deadline forward.
  virtual void Drain(double deadline_seconds = -1) = 0;

  // When the drain that has begun should be over; nothing before.
  virtual std::optional<std::chrono::steady_clock::time_point> drain_deadline() const = 0;

  // Gives streams `grace_seconds` to flush what they have, ends the others with UNAVAILABLE and closes the port.
  // Returns within about grace_seconds + 1. To be called after the engine has ended, or is given up.
  virtual void Shutdown(double grace_seconds) = 0;

  // With the port that was really taken.
  virtual const ListenAddress& address() const = 0;
  // Open Generate calls, those included whose clients have not yet read the end.
  virtual size_t active_requests() const = 0;
};

}  // namespace shoal
