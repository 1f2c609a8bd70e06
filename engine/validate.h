// What the engine asks of a request before it queues it.
#pragma once

#include "absl/status/status.h"
#include "engine/engine.h"

namespace shoal {

// Checks a request and cuts its max_tokens to what the context leaves.
// Errors: kInvalidArgument naming field, value and limit: see EngineClient::Submit; also if output_prefix leaves no
// token of max_tokens, and if prompt and max_tokens together need more KV blocks than there are.
absl::Status ValidateRequest(const EngineOptions& options, Request& request);

}  // namespace shoal
