#include "engine/validate.h"

#include <algorithm>
#include <cmath>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"

namespace shoal {
namespace {

constexpr int kTopLogprobsMax = 20;
constexpr float kLogitBiasMax = 100;

absl::Status CheckId(absl::string_view field, size_t index, int32_t id, int64_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, "[", index, "] is ", id, "; token ids run from 0 to ", vocab_size - 1));
}

absl::Status CheckIds(absl::string_view field, const std::vector<int32_t>& ids, int64_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) RETURN_IF_ERROR(CheckId(field, i, ids[i], vocab_size));
  return absl::OkStatus();
}

// NaN fails every comparison, so it is out of every range.
absl::Status CheckRange(absl::string_view field, float value, float least, float most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; wants ", least, " to ", most));
}

absl::Status CheckPositive(absl::string_view field, float value) {
  if (value > 0 && std::isfinite(value)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; wants a finite number above 0"));
}

absl::Status CheckSampling(const SamplingParams& params, int64_t vocab_size) {
  if (params.temperature != 0) RETURN_IF_ERROR(CheckPositive("temperature", params.temperature));
  RETURN_IF_ERROR(CheckPositive("top_p", params.top_p));
  RETURN_IF_ERROR(CheckRange("top_p", params.top_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("min_p", params.min_p, 0, 1));
  RETURN_IF_ERROR(CheckPositive("repetition_penalty", params.repetition_penalty));
  RETURN_IF_ERROR(CheckRange("presence_penalty", params.presence_penalty, -2, 2));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", params.frequency_penalty, -2, 2));
  if (params.top_k < -1) {
    return absl::InvalidArgumentError(absl::StrCat("top_k is ", params.top_k, "; wants 0 or -1 (no limit) or more"));
  }
  if (params.top_logprobs < -1 || params.top_logprobs > kTopLogprobsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_logprobs is ", params.top_logprobs, "; wants 0 to ", kTopLogprobsMax, ", or -1 for none"));
  }
  if (static_cast<int64_t>(params.logit_bias.size()) > vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("logit_bias has ", params.logit_bias.size(),
                                                   " entries; the vocabulary has ", vocab_size, " tokens"));
  }
  for (size_t i = 0; i < params.logit_bias.size(); ++i) {
    const auto& [id, bias] = params.logit_bias[i];
    RETURN_IF_ERROR(CheckId("logit_bias", i, id, vocab_size));
    RETURN_IF_ERROR(CheckRange(absl::StrCat("logit_bias[", i, "]"), bias, -kLogitBiasMax, kLogitBiasMax));
  }
  return absl::OkStatus();
}

// Cuts max_tokens to the context and checks that the KV cache can ever hold the request.
absl::Status FitLength(const EngineOptions& options, Request& request) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt + 1 > options.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt, " tokens; the context holds ",
                                                   options.max_context, ", one of them output: shorten the prompt"));
  }
  if (request.max_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max_tokens is ", request.max_tokens, "; wants 1 or more"));
  }
  const int64_t cut = std::min<int64_t>(request.max_tokens, options.max_context - prompt);
  // The last token of the output is never computed on.
  const int64_t needed = (prompt + cut - 1 + options.kv_block_tokens - 1) / options.kv_block_tokens;
  if (needed > options.kv_blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("a prompt of ", prompt, " tokens and max_tokens ", cut, " need ", needed, " KV blocks of ",
                     options.kv_block_tokens, " tokens; the server has ", options.kv_blocks, ": lower max_tokens"));
  }
  request.max_tokens = static_cast<int>(cut);
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateRequest(const EngineOptions& options, Request& request) {
  if (request.prompt.empty()) return absl::InvalidArgumentError("the prompt is empty; wants at least one token");
  RETURN_IF_ERROR(FitLength(options, request));
  if (static_cast<int64_t>(request.output_prefix.size()) >= request.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("output_prefix has ", request.output_prefix.size(),
                                                   " tokens and leaves none of max_tokens ", request.max_tokens));
  }
  if (request.min_tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat("min_tokens is ", request.min_tokens, "; wants 0 or more"));
  }
  if (static_cast<int64_t>(request.stop_ids.size()) > options.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("stop_ids has ", request.stop_ids.size(),
                                                   " entries; the vocabulary has ", options.vocab_size, " tokens"));
  }
  RETURN_IF_ERROR(CheckIds("prompt", request.prompt, options.vocab_size));
  RETURN_IF_ERROR(CheckIds("output_prefix", request.output_prefix, options.vocab_size));
  RETURN_IF_ERROR(CheckIds("stop_ids", request.stop_ids, options.vocab_size));
  return CheckSampling(request.sampling, options.vocab_size);
}

}  // namespace shoal
