#include "tools/server_bench.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <mutex>
#include <random>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "tools/client.h"
#include "tools/offline_command.h"
#include "tools/statistics.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

// A server takes 100 streams per connection by default; more would wait in this process.
constexpr int64_t kWorkersPerConnection = 64;

double MsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

v1::GenerateRequest MakeRequest(const ServerBenchOptions& options, int64_t index, int64_t vocab_size) {
  v1::GenerateRequest request;
  std::mt19937_64 random(options.seed + static_cast<uint64_t>(index));
  // The last ids are control tokens in most vocabularies.
  const int64_t plain_ids = std::max<int64_t>(1, vocab_size * 9 / 10);
  for (int64_t i = 0; i < options.prompt_tokens; ++i) {
    request.mutable_token_ids()->add_ids(static_cast<int32_t>(random() % static_cast<uint64_t>(plain_ids)));
  }
  v1::SamplingParams* params = request.mutable_sampling_params();
  params->set_max_tokens(static_cast<int32_t>(options.max_tokens));
  params->set_temperature(static_cast<float>(options.temperature));
  params->set_seed(options.seed + static_cast<uint64_t>(index));
  params->set_ignore_eos(true);  // Every request does the same work.
  return request;
}

ServerSamples RunOne(Client& client, const v1::GenerateRequest& request, double timeout) {
  ServerSamples samples;
  const Clock::time_point start = Clock::now();
  Clock::time_point last = start;
  int64_t tokens = 0;
  double ttft = 0;
  const absl::Status status = client.Generate(request, timeout, [&](const v1::GenerateResponse& response) {
    if (!response.has_chunk() || response.chunk().token_ids_size() == 0) return;
    if (tokens == 0) {
      ttft = MsSince(start);
    } else {
      samples.itl.push_back(MsSince(last));
    }
    tokens += response.chunk().token_ids_size();
    last = Clock::now();
  });
  const double e2el = MsSince(start);
  if (!status.ok() || tokens == 0) {
    samples.failed = 1;
    samples.first_error = status.ok() ? "no token came" : std::string(status.message());
    return samples;
  }
  samples.completed = 1;
  samples.prompt_tokens = request.token_ids().ids_size();
  samples.output_tokens = tokens;
  samples.ttft.push_back(ttft);
  samples.e2el.push_back(e2el);
  if (tokens > 1) samples.tpot.push_back((e2el - ttft) / static_cast<double>(tokens - 1));
  return samples;
}

// Of one request, in a median time of it: weights and keys and values read, operations done with weights.
struct WorkRates {
  double bytes_per_second = 0;  // 0: not meant for this time.
  double ops_per_second = 0;
};

double Ops(const ServerSamples& samples, double sampled, double tokens) {
  return tokens * static_cast<double>(samples.work.token_ops) + sampled * static_cast<double>(samples.work.head_ops);
}

// All requests together. The first output token of each comes with its prompt.
double OpsPerSecond(const ServerSamples& samples) {
  const double outputs = static_cast<double>(samples.output_tokens), requests = static_cast<double>(samples.completed);
  const double passed = static_cast<double>(samples.prompt_tokens) + outputs - requests;
  return Ops(samples, outputs, passed) / samples.seconds;
}

// Of a decode step: weights once, and one sequence's context half way through its output.
double StepBytes(const ServerBenchOptions& options, const ServerSamples& samples) {
  const double context = static_cast<double>(options.prompt_tokens) + static_cast<double>(options.max_tokens) / 2;
  return static_cast<double>(samples.work.weight_bytes) + context * static_cast<double>(samples.work.kv_token_bytes);
}

WorkRates RatesOf(const ServerBenchOptions& options, const ServerSamples& samples, std::string_view figure,
                  double median_ms) {
  if (!(median_ms > 0)) return {};
  const double seconds = median_ms / 1e3;
  const double prompt = static_cast<double>(options.prompt_tokens), outputs = static_cast<double>(options.max_tokens);
  if (figure == "ttft") return {0, Ops(samples, 1, prompt) / seconds};
  if (figure == "e2el") return {0, Ops(samples, outputs, prompt + outputs - 1) / seconds};
  return {StepBytes(options, samples) / seconds, Ops(samples, 1, 1) / seconds};
}

std::string RateText(double rate, double limit) {
  if (rate == 0) return absl::StrFormat(" %8s %6s", "-", "-");
  if (limit == 0) return absl::StrFormat(" %8.1f %6s", rate / 1e9, "-");
  return absl::StrFormat(" %8.1f %6.1f", rate / 1e9, 100 * rate / limit);
}

constexpr std::pair<const char*, std::vector<double> ServerSamples::*> kFigures[] = {{"ttft", &ServerSamples::ttft},
                                                                                     {"tpot", &ServerSamples::tpot},
                                                                                     {"itl", &ServerSamples::itl},
                                                                                     {"e2el", &ServerSamples::e2el}};

}  // namespace

void ServerSamples::Add(ServerSamples&& other) {
  const auto append = [](std::vector<double>& to, const std::vector<double>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  append(ttft, other.ttft);
  append(tpot, other.tpot);
  append(itl, other.itl);
  append(e2el, other.e2el);
  prompt_tokens += other.prompt_tokens;
  output_tokens += other.output_tokens;
  completed += other.completed;
  failed += other.failed;
  if (first_error.empty()) first_error = std::move(other.first_error);
}

std::vector<double> ArrivalTimes(int64_t requests, double rate, uint64_t seed) {
  std::vector<double> times(static_cast<size_t>(requests), 0.0);
  if (std::isinf(rate)) return times;
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(rate);
  for (size_t i = 1; i < times.size(); ++i) times[i] = times[i - 1] + gap(random);
  return times;
}

absl::StatusOr<ServerSamples> RunServerBench(const ServerBenchOptions& options) {
  const int64_t worker_count = std::min(options.concurrency, options.requests);
  std::vector<std::unique_ptr<Client>> clients;
  for (int64_t i = 0; i < worker_count; i += kWorkersPerConnection) {
    ASSIGN_OR_RETURN(clients.emplace_back(), Client::Connect(options.address));
  }
  ASSIGN_OR_RETURN(const v1::GetModelInfoResponse info, clients[0]->GetModelInfo());
  // One request before the clock starts: caches.
  RETURN_IF_ERROR(
      clients[0]->Generate(MakeRequest(options, -1, info.vocab_size()), options.timeout, [](const auto&) {}));
  const std::vector<double> due = ArrivalTimes(options.requests, options.request_rate, options.seed);
  std::mutex mutex;
  ServerSamples all;
  std::atomic<int64_t> next{0};
  std::vector<std::thread> workers;
  const Clock::time_point start = Clock::now();
  for (int64_t i = 0; i < worker_count; ++i) {
    workers.emplace_back([&, &client = *clients[static_cast<size_t>(i / kWorkersPerConnection)]] {
      for (int64_t index = next++; index < options.requests; index = next++) {
        const v1::GenerateRequest request = MakeRequest(options, index, info.vocab_size());
        std::this_thread::sleep_until(start + std::chrono::duration_cast<Clock::duration>(
                                                  std::chrono::duration<double>(due[static_cast<size_t>(index)])));
        ServerSamples samples = RunOne(client, request, options.timeout);
        std::lock_guard lock(mutex);
        all.Add(std::move(samples));
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  all.seconds = MsSince(start) / 1e3;
  all.work = {info.work().weight_bytes(), info.work().kv_token_bytes(), info.work().token_ops(),
              info.work().head_ops()};
  if (options.machine) {
    ASSIGN_OR_RETURN(all.machine, MeasureMachineRates());
  }
  return all;
}

std::string ServerTable(const ServerBenchOptions& options, const ServerSamples& samples) {
  std::string text = absl::StrFormat("%d requests (%d failed) of %d + %d tokens, %d at a time, ", options.requests,
                                     samples.failed, options.prompt_tokens, options.max_tokens, options.concurrency);
  if (!std::isinf(options.request_rate)) text += absl::StrFormat("%g sent per second, ", options.request_rate);
  const double reading = samples.machine ? samples.machine->read_bytes_per_second : 0;
  const double products = samples.machine ? samples.machine->int8_ops_per_second : 0;
  const double ops = OpsPerSecond(samples);
  text += absl::StrFormat("in %.2f s\n%.2f requests/s, %.1f output tokens/s, %.1f GOPS", samples.seconds,
                          static_cast<double>(samples.completed) / samples.seconds,
                          static_cast<double>(samples.output_tokens) / samples.seconds, ops / 1e9);
  if (products > 0) text += absl::StrFormat(" (%.1f %%)", 100 * ops / products);
  text += absl::StrFormat("\n\n%-8s %10s %10s %10s %10s %8s %6s %8s %6s\n", "ms", "mean", "p50", "p90", "p99", "GB/s",
                          "%", "GOPS", "%");
  const char* titles[] = {"TTFT", "TPOT", "ITL", "E2EL"};
  for (int i = 0; i < 4; ++i) {
    const std::vector<double>& values = samples.*kFigures[i].second;
    const double median = Percentile(values, 50);
    const WorkRates rates = RatesOf(options, samples, kFigures[i].first, median);
    text += absl::StrFormat("%-8s %10.2f %10.2f %10.2f %10.2f%s%s\n", titles[i], Mean(values), median,
                            Percentile(values, 90), Percentile(values, 99), RateText(rates.bytes_per_second, reading),
                            RateText(rates.ops_per_second, products));
  }
  text += "\nGB/s and GOPS: what one request alone makes necessary in the median time; % of ";
  if (!samples.machine) return text + "the machine with --machine\n";
  return text + absl::StrFormat("%.2f GB/s of reading, %.1f GOPS of int8 products (%d threads, %s)\n", reading / 1e9,
                                products / 1e9, samples.machine->threads, samples.machine->kernels);
}

Json ServerJson(const ServerBenchOptions& options, const ServerSamples& samples) {
  const double seconds = samples.seconds;
  Json json = {
      {"num_prompts", options.requests},
      {"request_rate", std::isinf(options.request_rate) ? Json("inf") : Json(options.request_rate)},
      {"max_concurrency", options.concurrency},
      {"completed", samples.completed},
      {"failed", samples.failed},
      {"duration", seconds},
      {"total_input_tokens", samples.prompt_tokens},
      {"total_output_tokens", samples.output_tokens},
      {"request_throughput", static_cast<double>(samples.completed) / seconds},
      {"output_throughput", static_cast<double>(samples.output_tokens) / seconds},
      {"total_token_throughput", static_cast<double>(samples.prompt_tokens + samples.output_tokens) / seconds}};
  json["ops_per_second"] = OpsPerSecond(samples);
  json["machine"] = samples.machine ? MachineJson(*samples.machine) : Json();
  for (const auto& [name, member] : kFigures) {
    const std::vector<double>& values = samples.*member;
    const WorkRates rates = RatesOf(options, samples, name, Percentile(values, 50));
    json[StrCat(name, "_bytes_per_second")] = rates.bytes_per_second > 0 ? Json(rates.bytes_per_second) : Json();
    json[StrCat(name, "_ops_per_second")] = rates.ops_per_second;
    json[StrCat("mean_", name, "_ms")] = Mean(values);
    json[StrCat("median_", name, "_ms")] = Percentile(values, 50);
    json[StrCat("std_", name, "_ms")] = StandardDeviation(values);
    for (const int percent : {50, 90, 95, 99}) {
      json[StrCat("p", percent, "_", name, "_ms")] = Percentile(values, percent);
    }
  }
  return json;
}

}  // namespace shoal
