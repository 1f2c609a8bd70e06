#include "server/generate_call.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"

namespace shoal {
namespace {

constexpr size_t kRequestIdBytesMax = 128;
constexpr size_t kStopBytesMax = 256;
constexpr int kStopIdsMax = 256;
constexpr int kLogitBiasMax = 1024;
constexpr int kMessagesMax = 4096;
constexpr size_t kRoleBytesMax = 64;
constexpr int kLogprobsMax = 20;

absl::Status CheckText(std::string_view field, std::string_view text) {
  const size_t bad = FindInvalidUtf8(text);
  if (bad == std::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(field, ": invalid UTF-8 at byte ", bad, "; send valid UTF-8"));
}

// Written so that NaN fails.
template <typename T>
absl::Status CheckRange(std::string_view field, T value, T low, T high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(field, " is ", value, "; it must be from ", low, " to ", high));
}

absl::Status CheckPositive(std::string_view field, float value, float high) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(field, " is ", value, "; it must be above 0 and at most ", high));
}

absl::Status CheckCount(std::string_view field, int64_t count, int64_t high) {
  if (count <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(field, " has ", count, " entries; at most ", high, " are allowed"));
}

absl::Status CheckTokenId(std::string_view field, int64_t id, int64_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(field, " has the id ", id, "; ids of this model are 0 to ", vocab_size - 1));
}

absl::StatusOr<PromptInput> CheckPromptText(const std::string& text, bool add_special_tokens,
                                            const RequestLimits& limits) {
  if (static_cast<int64_t>(text.size()) > limits.prompt_bytes) {
    return absl::InvalidArgumentError(StrCat("text has ", text.size(), " bytes; at most ", limits.prompt_bytes,
                                             " are allowed (limits.prompt_bytes of the server)"));
  }
  RETURN_IF_ERROR(CheckText("text", text));
  return PromptInput(PromptText{text, add_special_tokens});
}

// Templates print the role as it is: what could be part of a control token would let a client write any turn.
absl::Status CheckRole(std::string_view field, std::string_view role) {
  if (role.empty() || role.size() > kRoleBytesMax) {
    return absl::InvalidArgumentError(StrCat(field, " has ", role.size(), " bytes; it must have 1 to ", kRoleBytesMax,
                                             ", such as user or assistant"));
  }
  const auto is_plain = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
  };
  if (std::all_of(role.begin(), role.end(), is_plain)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(field, " has characters other than letters, digits, '_' and '-'; give a name such as user or assistant"));
}

absl::StatusOr<PromptInput> CheckMessages(const v1::Messages& messages, const RequestLimits& limits) {
  if (messages.messages_size() == 0) return absl::InvalidArgumentError("messages: is empty; give at least one message");
  RETURN_IF_ERROR(CheckCount("messages", messages.messages_size(), kMessagesMax));
  PromptChat chat;
  chat.add_generation_prompt =
      messages.has_add_generation_prompt() ? messages.add_generation_prompt() : limits.add_generation_prompt;
  int64_t bytes = 0;
  for (int i = 0; i < messages.messages_size(); ++i) {
    const v1::Message& message = messages.messages(i);
    const std::string path = StrCat("messages[", i, "]");
    RETURN_IF_ERROR(CheckRole(StrCat(path, ".role"), message.role()));
    RETURN_IF_ERROR(CheckText(StrCat(path, ".content"), message.content()));
    bytes += static_cast<int64_t>(message.content().size());
    if (bytes > limits.prompt_bytes) {
      return absl::InvalidArgumentError(StrCat("messages have more than ", limits.prompt_bytes,
                                               " bytes of content in all (limits.prompt_bytes of the server)"));
    }
    chat.messages.push_back({message.role(), message.content()});
  }
  return PromptInput(std::move(chat));
}

absl::StatusOr<PromptInput> CheckIds(const v1::TokenIds& ids, const RequestLimits& limits) {
  if (ids.ids_size() == 0) return absl::InvalidArgumentError("token_ids: is empty; give at least one id");
  if (ids.ids_size() >= limits.max_context) {
    return absl::InvalidArgumentError(StrCat("token_ids has ", ids.ids_size(), " ids; the context holds ",
                                             limits.max_context, " tokens and one must be left for the output"));
  }
  for (const int32_t id : ids.ids()) RETURN_IF_ERROR(CheckTokenId("token_ids", id, limits.vocab_size));
  return PromptInput(std::vector<int32_t>(ids.ids().begin(), ids.ids().end()));
}

absl::Status FillSampling(const v1::SamplingParams& params, const RequestLimits& limits,
                          const GenerationDefaults& defaults, SamplingParams* sampling) {
  sampling->temperature = params.has_temperature() ? params.temperature() : defaults.temperature;
  sampling->top_p = params.has_top_p() ? params.top_p() : defaults.top_p;
  sampling->top_k = params.has_top_k() ? params.top_k() : defaults.top_k;
  sampling->repetition_penalty =
      params.has_repetition_penalty() ? params.repetition_penalty() : defaults.repetition_penalty;
  sampling->min_p = params.has_min_p() ? params.min_p() : defaults.min_p;
  sampling->presence_penalty = params.presence_penalty();
  sampling->frequency_penalty = params.frequency_penalty();
  RETURN_IF_ERROR(CheckRange("temperature", sampling->temperature, 0.0f, 100.0f));
  RETURN_IF_ERROR(CheckPositive("top_p", sampling->top_p, 1.0f));
  RETURN_IF_ERROR(CheckRange<int64_t>("top_k", sampling->top_k, -1, INT32_MAX));
  RETURN_IF_ERROR(CheckRange("min_p", sampling->min_p, 0.0f, 1.0f));
  RETURN_IF_ERROR(CheckPositive("repetition_penalty", sampling->repetition_penalty, 100.0f));
  RETURN_IF_ERROR(CheckRange("presence_penalty", sampling->presence_penalty, -2.0f, 2.0f));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", sampling->frequency_penalty, -2.0f, 2.0f));
  if (params.has_logprobs()) {
    RETURN_IF_ERROR(CheckRange<int64_t>("logprobs", params.logprobs(), 0, kLogprobsMax));
    sampling->top_logprobs = params.logprobs();
  }
  RETURN_IF_ERROR(CheckCount("logit_bias", static_cast<int64_t>(params.logit_bias().size()), kLogitBiasMax));
  for (const auto& [id, bias] : params.logit_bias()) {
    RETURN_IF_ERROR(CheckTokenId("logit_bias", id, limits.vocab_size));
    RETURN_IF_ERROR(CheckRange(StrCat("logit_bias[", id, "]"), bias, -100.0f, 100.0f));
    sampling->logit_bias.emplace_back(id, bias);
  }
  if (params.has_seed()) {
    sampling->seed = params.seed();
  } else {
    std::random_device device;
    sampling->seed = (static_cast<uint64_t>(device()) << 32) | device();
  }
  return absl::OkStatus();
}

absl::Status FillStops(const v1::SamplingParams& params, const RequestLimits& limits,
                       const GenerationDefaults& defaults, GenerateCall* call) {
  RETURN_IF_ERROR(CheckCount("stop", params.stop_size(), limits.stop_strings));
  for (int i = 0; i < params.stop_size(); ++i) {
    const std::string path = StrCat("stop[", i, "]");
    RETURN_IF_ERROR(CheckText(path, params.stop(i)));
    if (params.stop(i).empty() || params.stop(i).size() > kStopBytesMax) {
      return absl::InvalidArgumentError(
          StrCat(path, " has ", params.stop(i).size(), " bytes; a stop string must have 1 to ", kStopBytesMax));
    }
    call->text.stops.push_back(params.stop(i));
  }
  RETURN_IF_ERROR(CheckCount("stop_token_ids", params.stop_token_ids_size(), kStopIdsMax));
  for (const int32_t id : params.stop_token_ids()) {
    RETURN_IF_ERROR(CheckTokenId("stop_token_ids", id, limits.vocab_size));
    call->request.stop_ids.push_back(id);
  }
  call->request.ignore_eos = params.ignore_eos();
  if (!params.ignore_eos()) {
    call->request.stop_ids.insert(call->request.stop_ids.end(), defaults.eos_token_ids.begin(),
                                  defaults.eos_token_ids.end());
  }
  call->text.include_stop = params.include_stop_str_in_output();
  call->text.skip_special_tokens = params.skip_special_tokens();
  return absl::OkStatus();
}

absl::Status FillLengths(const v1::SamplingParams& params, GenerateCall* call) {
  if (params.has_max_tokens()) {
    RETURN_IF_ERROR(CheckRange<int64_t>("max_tokens", params.max_tokens(), 1, INT32_MAX));
    call->request.max_tokens = params.max_tokens();
  }
  const int64_t high = params.has_max_tokens() ? params.max_tokens() : INT32_MAX;
  RETURN_IF_ERROR(CheckRange<int64_t>("min_tokens", params.min_tokens(), 0, high));
  call->request.min_tokens = params.min_tokens();
  call->text.min_tokens = params.min_tokens();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerateCall> CheckGenerateRequest(const v1::GenerateRequest& request, const RequestLimits& limits,
                                                  const GenerationDefaults& defaults) {
  GenerateCall call;
  RETURN_IF_ERROR(CheckText("request_id", request.request_id()));
  if (request.request_id().size() > kRequestIdBytesMax) {
    return absl::InvalidArgumentError(
        StrCat("request_id has ", request.request_id().size(), " bytes; at most ", kRequestIdBytesMax));
  }
  call.request_id = request.request_id();
  call.request.priority = request.priority();
  const v1::SamplingParams& params = request.sampling_params();
  RETURN_IF_ERROR(FillSampling(params, limits, defaults, &call.request.sampling));
  RETURN_IF_ERROR(FillStops(params, limits, defaults, &call));
  RETURN_IF_ERROR(FillLengths(params, &call));
  switch (request.input_case()) {
    case v1::GenerateRequest::kText: {
      ASSIGN_OR_RETURN(call.input, CheckPromptText(request.text(), true, limits));
      break;
    }
    case v1::GenerateRequest::kTokenIds: {
      ASSIGN_OR_RETURN(call.input, CheckIds(request.token_ids(), limits));
      break;
    }
    case v1::GenerateRequest::kMessages: {
      ASSIGN_OR_RETURN(call.input, CheckMessages(request.messages(), limits));
      break;
    }
    default:
      return absl::InvalidArgumentError("input is missing; set one of text, token_ids or messages");
  }
  return call;
}

absl::Status SetPrompt(std::vector<int32_t> prompt, const RequestLimits& limits, Request* request) {
  const int64_t tokens = static_cast<int64_t>(prompt.size());
  if (tokens == 0) return absl::InvalidArgumentError("the prompt has no tokens; give some text");
  if (tokens >= limits.max_context) {
    return absl::InvalidArgumentError(StrCat("the prompt has ", tokens, " tokens; the context holds ",
                                             limits.max_context, " and one must be left for the output, so at most ",
                                             limits.max_context - 1, " are allowed"));
  }
  const int64_t room = limits.max_context - tokens;
  if (request->max_tokens == 0 || request->max_tokens > room) request->max_tokens = static_cast<int>(room);
  request->prompt = std::move(prompt);
  return absl::OkStatus();
}

absl::StatusOr<PromptInput> CheckTokenizeRequest(const v1::TokenizeRequest& request, const RequestLimits& limits) {
  switch (request.input_case()) {
    case v1::TokenizeRequest::kText:
      return CheckPromptText(request.text(), request.add_special_tokens(), limits);
    case v1::TokenizeRequest::kMessages:
      return CheckMessages(request.messages(), limits);
    default:
      return absl::InvalidArgumentError("input is missing; set text or messages");
  }
}

}  // namespace shoal
