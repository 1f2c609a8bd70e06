// shoal generate, shoal chat.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>

#include "base/json.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"
#include "tools/client.h"
#include "tools/commands.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

// Everything one stream brought.
struct Answer {
  std::string text;
  std::vector<int32_t> ids;
  v1::Complete complete;
  double first_seconds = 0;  // Until the first token.
  double seconds = 0;
};

std::vector<Flag> SamplingFlags() {
  return {{"max-tokens", "N", "tokens to generate at most; default: what the context leaves"},
          {"temperature", "T", "0 always takes the likeliest token; default: the model's"},
          {"top-k", "K", "sample among the K likeliest tokens; 0: all"},
          {"top-p", "P", "sample among the likeliest tokens that together have probability P"},
          {"min-p", "P", "drop tokens less likely than P times the likeliest"},
          {"seed", "S", "the same seed gives the same text; default: drawn by the server"},
          {"stop", "TEXT", "end before this text; may be given several times", FlagKind::kTexts},
          {"ignore-eos", "", "go on after the model's end token", FlagKind::kSwitch},
          {"timeout", "SECONDS", "give up after this; default 600"}};
}

std::vector<Flag> With(std::vector<Flag> flags, const std::vector<Flag>& more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

absl::StatusOr<v1::SamplingParams> ReadSampling(const Arguments& arguments) {
  v1::SamplingParams params;
  if (arguments.Has("max-tokens")) {
    ASSIGN_OR_RETURN(const int64_t n, arguments.Integer("max-tokens", 0, 1, INT32_MAX));
    params.set_max_tokens(static_cast<int32_t>(n));
  }
  if (arguments.Has("top-k")) {
    ASSIGN_OR_RETURN(const int64_t k, arguments.Integer("top-k", 0, -1, INT32_MAX));
    params.set_top_k(static_cast<int32_t>(k));
  }
  const std::pair<const char*, void (v1::SamplingParams::*)(float)> numbers[] = {
      {"temperature", &v1::SamplingParams::set_temperature},
      {"top-p", &v1::SamplingParams::set_top_p},
      {"min-p", &v1::SamplingParams::set_min_p}};
  for (const auto& [name, set] : numbers) {
    if (!arguments.Has(name)) continue;
    ASSIGN_OR_RETURN(const double value, arguments.Number(name, 0, -kNumberMax, kNumberMax));
    (params.*set)(static_cast<float>(value));
  }
  if (arguments.Has("seed")) {
    ASSIGN_OR_RETURN(const uint64_t seed, arguments.Seed("seed", 0));
    params.set_seed(seed);
  }
  for (std::string& stop : arguments.Texts("stop")) params.add_stop(std::move(stop));
  if (arguments.Has("ignore-eos")) params.set_ignore_eos(true);
  return params;
}

// Runs the request; with `show`, text goes to standard output as it comes.
absl::StatusOr<Answer> RunStream(Client& client, const v1::GenerateRequest& request, double timeout, bool show) {
  Answer answer;
  const Clock::time_point start = Clock::now();
  const auto since_start = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  RETURN_IF_ERROR(client.Generate(request, timeout, [&](const v1::GenerateResponse& response) {
    if (response.has_complete()) {
      answer.complete = response.complete();
      return;
    }
    const v1::Chunk& chunk = response.chunk();
    if (answer.ids.empty()) answer.first_seconds = since_start();
    answer.ids.insert(answer.ids.end(), chunk.token_ids().begin(), chunk.token_ids().end());
    answer.text += chunk.text();
    if (show) {
      std::fwrite(chunk.text().data(), 1, chunk.text().size(), stdout);
      std::fflush(stdout);
    }
  }));
  answer.seconds = since_start();
  return answer;
}

const char* FinishName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    default:
      return "abort";
  }
}

Json ToJson(const Answer& answer) {
  const v1::Complete& complete = answer.complete;
  Json json;
  json["text"] = answer.text;
  json["token_ids"] = answer.ids;
  json["finish_reason"] = FinishName(complete.finish_reason());
  if (complete.has_matched_stop_str()) json["matched_stop"] = complete.matched_stop_str();
  if (complete.has_matched_token_id()) json["matched_stop"] = complete.matched_token_id();
  json["usage"] = {{"prompt_tokens", complete.usage().prompt_tokens()},
                   {"completion_tokens", complete.usage().completion_tokens()},
                   {"total_tokens", complete.usage().total_tokens()}};
  json["request_id"] = complete.request_id();
  json["seed"] = complete.seed();
  json["metrics"] = {{"queue_ms", complete.metrics().queue_ms()},
                     {"prefill_ms", complete.metrics().prefill_ms()},
                     {"decode_ms", complete.metrics().decode_ms()},
                     {"preemptions", complete.metrics().preemptions()}};
  return json;
}

// Tokens after the first over the time they took.
void PrintStats(const Answer& answer) {
  const double decode = answer.seconds - answer.first_seconds;
  const double rate = answer.ids.size() > 1 && decode > 0 ? static_cast<double>(answer.ids.size() - 1) / decode : 0;
  std::fprintf(stderr, "%zu tokens, %.1f tokens/s, first after %.0f ms\n", answer.ids.size(), rate,
               answer.first_seconds * 1e3);
}

void AddMessage(const char* role, const std::string& content, v1::Messages* messages) {
  v1::Message* message = messages->add_messages();
  message->set_role(role);
  message->set_content(content);
}

absl::Status CheckUtf8(std::string_view name, std::string_view text) {
  if (IsValidUtf8(text)) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(name, ": invalid UTF-8 at byte ", FindInvalidUtf8(text)));
}

absl::Status RunGenerate(const Arguments& arguments) {
  v1::GenerateRequest request;
  ASSIGN_ARGUMENT(*request.mutable_sampling_params(), ReadSampling(arguments));
  ASSIGN_ARGUMENT(const double timeout, arguments.Number("timeout", 600, 0, kSecondsMax));
  const std::string prompt = arguments.Text("prompt");
  if (const absl::Status valid = CheckUtf8("--prompt", prompt); !valid.ok()) return UsageError(valid);
  if (arguments.Has("chat")) {
    if (arguments.Has("system")) AddMessage("system", arguments.Text("system"), request.mutable_messages());
    AddMessage("user", prompt, request.mutable_messages());
  } else {
    request.set_text(prompt);
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Client> client, Client::Connect(arguments.Text("server")));
  const bool json = arguments.Has("json");
  const absl::StatusOr<Answer> answer = RunStream(*client, request, timeout, !json);
  if (!answer.ok()) return answer.status();
  std::fputs(json ? (ToJson(*answer).dump() + "\n").c_str() : "\n", stdout);
  std::fflush(stdout);
  if (arguments.Has("stats")) PrintStats(*answer);
  return absl::OkStatus();
}

// One turn of a conversation, which grows by the line and its answer, or not at all.
absl::StatusOr<Answer> Ask(Client& client, const std::string& line, double timeout, v1::GenerateRequest* request) {
  RETURN_IF_ERROR(CheckUtf8("standard input", line));
  v1::Messages* messages = request->mutable_messages();
  AddMessage("user", line, messages);
  absl::StatusOr<Answer> answer = RunStream(client, *request, timeout, true);
  std::fputs("\n", stdout);
  std::fflush(stdout);
  if (answer.ok()) {
    AddMessage("assistant", answer->text, messages);
  } else {
    messages->mutable_messages()->RemoveLast();
  }
  return answer;
}

absl::Status RunChat(const Arguments& arguments) {
  v1::GenerateRequest request;
  ASSIGN_ARGUMENT(*request.mutable_sampling_params(), ReadSampling(arguments));
  ASSIGN_ARGUMENT(const double timeout, arguments.Number("timeout", 600, 0, kSecondsMax));
  ASSIGN_OR_RETURN(const std::unique_ptr<Client> client, Client::Connect(arguments.Text("server")));
  v1::Messages* messages = request.mutable_messages();
  if (arguments.Has("system")) AddMessage("system", arguments.Text("system"), messages);
  const bool person = isatty(STDIN_FILENO) != 0;
  if (person) std::fputs("An empty line starts over, Ctrl-D ends.\n", stderr);
  std::string line;
  while (true) {
    if (person) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) {
      messages->Clear();
      if (arguments.Has("system")) AddMessage("system", arguments.Text("system"), messages);
      continue;
    }
    const absl::StatusOr<Answer> answer = Ask(*client, line, timeout, &request);
    if (!answer.ok()) {
      // The conversation goes on without that line; an empty line makes room in a full context.
      std::fputs(StrCat("shoal chat: ", std::string(answer.status().message()), "\n").c_str(), stderr);
      continue;
    }
    if (arguments.Has("stats")) PrintStats(*answer);
  }
  if (person) std::fputs("\n", stderr);
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> StreamCommands() {
  const Flag server = {"server", "HOST:PORT", "address of the server", FlagKind::kText, true};
  const Flag system = {"system", "TEXT", "a system message before the conversation"};
  const Flag stats = {"stats", "", "print tokens per second on standard error", FlagKind::kSwitch};
  const std::vector<Flag> generate = {
      server,
      {"prompt", "TEXT", "what to continue or, with --chat, to answer", FlagKind::kText, true},
      {"chat", "", "put the prompt into the model's chat template", FlagKind::kSwitch},
      system,
      {"json", "", "print one object when done, instead of text as it comes", FlagKind::kSwitch},
      stats};
  return {{"generate", "generate text from one prompt, printed as it comes",
           "With --json the object has text, token_ids, finish_reason (stop, length, abort), usage and metrics.",
           With(generate, SamplingFlags()), RunGenerate},
          {"chat", "talk to the model, a line at a time", "The conversation so far is sent with every line.",
           With({server, system, stats}, SamplingFlags()), RunChat}};
}

}  // namespace shoal
