// shoal bench: which of its forms is asked for. The form --server: load from many clients at once, with the figures
// that vLLM's benchmark reports.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "tools/client.h"
#include "tools/commands.h"
#include "tools/offline_command.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

// A server takes 100 streams per connection by default; more would wait in this process.
constexpr int64_t kWorkersPerConnection = 64;

struct BenchOptions {
  int64_t requests = 0;
  int64_t concurrency = 0;
  int64_t prompt_tokens = 0;
  int64_t max_tokens = 0;
  double temperature = 0;
  uint64_t seed = 0;
  double timeout = 0;
};

// All in milliseconds.
struct Samples {
  std::vector<double> ttft;  // Request sent to first token.
  std::vector<double> tpot;  // (end to end - ttft) / (tokens - 1), per request.
  std::vector<double> itl;   // Gaps between chunks, of all requests together.
  std::vector<double> e2el;  // Request sent to last chunk.
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t completed = 0;
  int64_t failed = 0;
  std::string first_error;

  void Add(Samples&& other) {
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
};

double MsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

v1::GenerateRequest MakeRequest(const BenchOptions& options, int64_t index, int64_t vocab_size) {
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

Samples RunOne(Client& client, const v1::GenerateRequest& request, double timeout) {
  Samples samples;
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

// Nearest rank; 0 without samples.
double Percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  const size_t rank = static_cast<size_t>(percent / 100 * static_cast<double>(values.size()));
  const size_t index = std::min(rank, values.size() - 1);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(index), values.end());
  return values[index];
}

double Mean(const std::vector<double>& values) {
  return values.empty() ? 0 : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

constexpr std::pair<const char*, std::vector<double> Samples::*> kFigures[] = {
    {"ttft", &Samples::ttft}, {"tpot", &Samples::tpot}, {"itl", &Samples::itl}, {"e2el", &Samples::e2el}};

void PrintJsonReport(const BenchOptions& options, const Samples& samples, double seconds) {
  Json json = {
      {"num_prompts", options.requests},
      {"max_concurrency", options.concurrency},
      {"completed", samples.completed},
      {"failed", samples.failed},
      {"duration", seconds},
      {"total_input_tokens", samples.prompt_tokens},
      {"total_output_tokens", samples.output_tokens},
      {"request_throughput", static_cast<double>(samples.completed) / seconds},
      {"output_throughput", static_cast<double>(samples.output_tokens) / seconds},
      {"total_token_throughput", static_cast<double>(samples.prompt_tokens + samples.output_tokens) / seconds}};
  for (const auto& [name, member] : kFigures) {
    json[StrCat("mean_", name, "_ms")] = Mean(samples.*member);
    json[StrCat("median_", name, "_ms")] = Percentile(samples.*member, 50);
    for (const int percent : {50, 90, 95, 99})
      json[StrCat("p", percent, "_", name, "_ms")] = Percentile(samples.*member, percent);
  }
  std::fputs((json.dump(2) + "\n").c_str(), stdout);
}

void PrintTable(const BenchOptions& options, const Samples& samples, double seconds) {
  absl::PrintF("%d requests (%d failed) of %d + %d tokens, %d at a time, in %.2f s\n", options.requests, samples.failed,
               options.prompt_tokens, options.max_tokens, options.concurrency, seconds);
  absl::PrintF("%.2f requests/s, %.1f output tokens/s\n\n", static_cast<double>(samples.completed) / seconds,
               static_cast<double>(samples.output_tokens) / seconds);
  absl::PrintF("%-8s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p90", "p99");
  const char* titles[] = {"TTFT", "TPOT", "ITL", "E2EL"};
  for (int i = 0; i < 4; ++i) {
    const std::vector<double>& values = samples.*kFigures[i].second;
    absl::PrintF("%-8s %10.2f %10.2f %10.2f %10.2f\n", titles[i], Mean(values), Percentile(values, 50),
                 Percentile(values, 90), Percentile(values, 99));
  }
}

absl::StatusOr<BenchOptions> ReadOptions(const Arguments& arguments) {
  BenchOptions options;
  ASSIGN_OR_RETURN(options.requests, arguments.Integer("requests", 64, 1, 1000000));
  ASSIGN_OR_RETURN(options.concurrency, arguments.Integer("concurrency", 8, 1, 1024));
  ASSIGN_OR_RETURN(options.prompt_tokens, arguments.Integer("prompt-tokens", 64, 1, 1000000));
  ASSIGN_OR_RETURN(options.max_tokens, arguments.Integer("max-tokens", 64, 1, 1000000));
  ASSIGN_OR_RETURN(options.temperature, arguments.Number("temperature", 0, -kNumberMax, kNumberMax));
  ASSIGN_OR_RETURN(options.seed, arguments.Seed("seed", 1));
  ASSIGN_OR_RETURN(options.timeout, arguments.Number("timeout", 600, 0, kSecondsMax));
  return options;
}

absl::Status RunServerBench(const Arguments& arguments) {
  ASSIGN_ARGUMENT(const BenchOptions options, ReadOptions(arguments));
  const int64_t worker_count = std::min(options.concurrency, options.requests);
  std::vector<std::unique_ptr<Client>> clients;
  for (int64_t i = 0; i < worker_count; i += kWorkersPerConnection) {
    ASSIGN_OR_RETURN(clients.emplace_back(), Client::Connect(arguments.Text("server")));
  }
  ASSIGN_OR_RETURN(const v1::GetModelInfoResponse info, clients[0]->GetModelInfo());
  // One request before the clock starts: caches.
  RETURN_IF_ERROR(
      clients[0]->Generate(MakeRequest(options, -1, info.vocab_size()), options.timeout, [](const auto&) {}));
  std::mutex mutex;
  Samples all;
  std::atomic<int64_t> next{0};
  std::vector<std::thread> workers;
  const Clock::time_point start = Clock::now();
  for (int64_t i = 0; i < worker_count; ++i) {
    workers.emplace_back([&, &client = *clients[static_cast<size_t>(i / kWorkersPerConnection)]] {
      for (int64_t index = next++; index < options.requests; index = next++) {
        Samples samples = RunOne(client, MakeRequest(options, index, info.vocab_size()), options.timeout);
        std::lock_guard lock(mutex);
        all.Add(std::move(samples));
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  const double seconds = MsSince(start) / 1e3;
  if (arguments.Has("json")) {
    PrintJsonReport(options, all, seconds);
  } else {
    PrintTable(options, all, seconds);
  }
  if (all.failed > 0)
    return absl::UnavailableError(StrCat(all.failed, " requests failed, the first with: ", all.first_error));
  return absl::OkStatus();
}

const std::vector<Flag>& ServerFlags() {
  static const std::vector<Flag> flags = {{"server", "HOST:PORT", "measure the server at this address"},
                                          {"requests", "N", "requests in all; default 64"},
                                          {"concurrency", "N", "requests at a time; default 8"},
                                          {"prompt-tokens", "N", "tokens of each prompt; default 64"},
                                          {"max-tokens", "N", "tokens to generate per request; default 64"},
                                          {"temperature", "T", "default 0"},
                                          {"timeout", "SECONDS", "of one request; default 600"}};
  return flags;
}

std::vector<Flag> AllFlags() {
  std::vector<Flag> flags = ServerFlags();
  flags.push_back({"offline", "", "measure a model in this process, without a server", FlagKind::kSwitch});
  flags.insert(flags.end(), OfflineFlags().begin(), OfflineFlags().end());
  flags.push_back({"seed", "S", "of prompts and sampling; default 1"});
  flags.push_back({"json", "", "print JSON; with --server, vLLM's keys", FlagKind::kSwitch});
  return flags;
}

// Errors: kInvalidArgument for a flag that only the other form of the command knows.
absl::Status CheckNotGiven(const Arguments& arguments, const std::vector<Flag>& flags, const char* form) {
  for (const Flag& flag : flags) {
    if (!arguments.Has(flag.name)) continue;
    return absl::InvalidArgumentError(StrCat("--", flag.name, " does not go with ", form));
  }
  return absl::OkStatus();
}

absl::Status RunBench(const Arguments& arguments) {
  if (arguments.Has("offline")) {
    if (const absl::Status other = CheckNotGiven(arguments, ServerFlags(), "--offline"); !other.ok()) {
      return UsageError(other);
    }
    return RunOfflineCommand(arguments);
  }
  if (!arguments.Has("server")) {
    return UsageError(absl::InvalidArgumentError("give --server HOST:PORT or --offline --model DIR"));
  }
  if (const absl::Status other = CheckNotGiven(arguments, OfflineFlags(), "--server"); !other.ok()) {
    return UsageError(other);
  }
  return RunServerBench(arguments);
}

}  // namespace

std::vector<Command> BenchCommands() {
  return {
      {"bench", "measure a server under load, or a model without a server",
       "--server: prompts are random token ids; end tokens are ignored, so that every request does the same work.\n"
       "TTFT: request sent to first token. TPOT: (E2EL - TTFT) / (tokens - 1) of each request. ITL: every gap "
       "between chunks of\n"
       "all requests. E2EL: request sent to last chunk.\n"
       "--offline: pp N is the prefill of a prompt of N tokens; tg N is N decode steps of a batch of sequences, each "
       "with so\n"
       "many tokens of context. Medians of the repetitions after one to warm up, with the least and the most.",
       AllFlags(), RunBench}};
}

}  // namespace shoal
