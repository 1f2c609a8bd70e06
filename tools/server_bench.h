// Load on a server from many clients at once, with the figures that vLLM's benchmark reports.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "kernels/machine_rates.h"

namespace shoal {

struct ServerBenchOptions {
  std::string address;
  int64_t requests = 64;
  int64_t concurrency = 8;  // Requests at a time at most.
  // Per second, at random (Poisson) times; infinite: the next one is sent as soon as one of `concurrency` has ended.
  double request_rate = std::numeric_limits<double>::infinity();
  int64_t prompt_tokens = 64;
  int64_t max_tokens = 64;
  double temperature = 0;
  uint64_t seed = 1;
  double timeout = 600;  // Seconds, of one request.
  // This machine's cores are the server's: what they can do is measured when all requests have ended.
  bool machine = false;
};

// v1::ModelWork.
struct ServerWork {
  int64_t weight_bytes = 0;
  int64_t kv_token_bytes = 0;
  int64_t token_ops = 0;
  int64_t head_ops = 0;
};

// All times in milliseconds.
struct ServerSamples {
  std::vector<double> ttft;  // Request sent to first token.
  std::vector<double> tpot;  // (end to end - ttft) / (tokens - 1), per request.
  std::vector<double> itl;   // Gaps between chunks, of all requests together.
  std::vector<double> e2el;  // Request sent to last chunk.
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t completed = 0;
  int64_t failed = 0;
  std::string first_error;
  double seconds = 0;  // From the first request sent to the last one ended.
  ServerWork work;
  std::optional<MachineRates> machine;

  void Add(ServerSamples&& other);
};

// When each request is due, in seconds after the start: sums of exponentially distributed gaps of mean 1 / rate, the
// first at 0. All 0 for an infinite rate.
std::vector<double> ArrivalTimes(int64_t requests, double rate, uint64_t seed);

// Sends one request to warm up, then all of them. Errors: the server cannot be reached or fails the first request;
// later failures are counted.
absl::StatusOr<ServerSamples> RunServerBench(const ServerBenchOptions& options);

// For people, and for programs with the keys of vLLM.
std::string ServerTable(const ServerBenchOptions& options, const ServerSamples& samples);
Json ServerJson(const ServerBenchOptions& options, const ServerSamples& samples);

}  // namespace shoal
