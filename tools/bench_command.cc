// shoal bench: which of its forms is asked for, and the flags of the form --server.
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "tools/commands.h"
#include "tools/offline_command.h"
#include "tools/server_bench.h"

namespace shoal {
namespace {

constexpr int64_t kConcurrencyMax = 1024;

absl::StatusOr<ServerBenchOptions> ReadServerOptions(const Arguments& arguments) {
  ServerBenchOptions options;
  options.address = arguments.Text("server");
  ASSIGN_OR_RETURN(options.requests, arguments.Integer("requests", 64, 1, 1000000));
  const std::string rate = arguments.Text("request-rate");
  const bool all_at_once = rate.empty() || rate == "inf";
  if (!all_at_once) {
    ASSIGN_OR_RETURN(options.request_rate, arguments.Number("request-rate", 0, 1e-6, 1e6));
  }
  // Requests that come at their own times should not wait for one another here.
  ASSIGN_OR_RETURN(options.concurrency,
                   arguments.Integer("concurrency", all_at_once ? 8 : kConcurrencyMax, 1, kConcurrencyMax));
  ASSIGN_OR_RETURN(options.prompt_tokens, arguments.Integer("prompt-tokens", 64, 1, 1000000));
  ASSIGN_OR_RETURN(options.max_tokens, arguments.Integer("max-tokens", 64, 1, 1000000));
  ASSIGN_OR_RETURN(options.temperature, arguments.Number("temperature", 0, -kNumberMax, kNumberMax));
  ASSIGN_OR_RETURN(options.seed, arguments.Seed("seed", 1));
  ASSIGN_OR_RETURN(options.timeout, arguments.Number("timeout", 600, 0, kSecondsMax));
  options.machine = arguments.Has("machine");
  return options;
}

absl::Status RunServerCommand(const Arguments& arguments) {
  ASSIGN_ARGUMENT(const ServerBenchOptions options, ReadServerOptions(arguments));
  ASSIGN_OR_RETURN(const ServerSamples samples, RunServerBench(options));
  const std::string text =
      arguments.Has("json") ? ServerJson(options, samples).dump(2) + "\n" : ServerTable(options, samples);
  std::fputs(text.c_str(), stdout);
  if (samples.failed == 0) return absl::OkStatus();
  return absl::UnavailableError(StrCat(samples.failed, " requests failed, the first with: ", samples.first_error));
}

const std::vector<Flag>& ServerFlags() {
  static const std::vector<Flag> flags = {
      {"server", "HOST:PORT", "measure the server at this address"},
      {"requests", "N", "requests in all; default 64"},
      {"concurrency", "N", "requests at a time at most; default 8, or 1024 with --request-rate"},
      {"request-rate", "R", "requests per second, at random (Poisson) times; default inf: as fast as they end"},
      {"prompt-tokens", "N", "tokens of each prompt; default 64"},
      {"max-tokens", "N", "tokens to generate per request; default 64"},
      {"temperature", "T", "default 0"},
      {"timeout", "SECONDS", "of one request; default 600"},
      {"machine", "", "the server runs on this machine's cores: give figures as parts of what they can do",
       FlagKind::kSwitch}};
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
  return RunServerCommand(arguments);
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
