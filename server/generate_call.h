// A GenerateRequest, checked field by field and turned into what the engine and the text stream take.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "proto/shoal/v1/inference.pb.h"
#include "server/prompt.h"
#include "server/text_stream.h"

namespace shoal {

// What a request is checked against.
struct RequestLimits {
  int64_t max_context = 0;
  int64_t vocab_size = 0;  // Rows of the model's embedding.
  int64_t prompt_bytes = 1 << 20;
  int stop_strings = 16;
  bool add_generation_prompt = true;  // Where a request does not say.
};

// Of the model (generation_config.json).
struct GenerationDefaults {
  float temperature = 1.0f;
  float top_p = 1.0f;
  int top_k = 0;
  float repetition_penalty = 1.0f;
  float min_p = 0.0f;
  std::vector<int32_t> eos_token_ids;
};

struct GenerateCall {
  std::string request_id;  // Empty: the client gave none.
  PromptInput input;
  Request request;  // Without the prompt; max_tokens 0: what the context leaves.
  TextStreamOptions text;
};

// Errors: kInvalidArgument "field: value and limit".
absl::StatusOr<GenerateCall> CheckGenerateRequest(const v1::GenerateRequest& request, const RequestLimits& limits,
                                                  const GenerationDefaults& defaults);

// Puts the prompt in, and max_tokens where it was not given.
// Errors: kInvalidArgument if the prompt is empty or leaves no room in the context.
absl::Status SetPrompt(std::vector<int32_t> prompt, const RequestLimits& limits, Request* request);

// The input of a TokenizeRequest. Errors: as CheckGenerateRequest.
absl::StatusOr<PromptInput> CheckTokenizeRequest(const v1::TokenizeRequest& request, const RequestLimits& limits);

}  // namespace shoal
