// A request's text or conversation becomes token ids.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tokenizer.h"

namespace shoal {

struct PromptMessage {
  std::string role;
  std::string content;
};

struct PromptChat {
  std::vector<PromptMessage> messages;
  bool add_generation_prompt = true;
};

struct PromptText {
  std::string text;
  bool add_special_tokens = true;
};

using PromptInput = std::variant<PromptText, std::vector<int32_t>, PromptChat>;

// Renders a conversation with the model's chat template. Thread-safe. Errors: kInvalidArgument with the template's
// reason.
using ChatRenderer = std::function<absl::StatusOr<std::string>(const PromptChat& chat)>;

// Token ids of an input. In a conversation the template's control tokens become tokens, and so do those in what the
// role "assistant" said; those that anybody else wrote inside a message stay plain text, beside a mark while the
// template runs: its tests for how a content begins and ends decide as on the content itself. `render` may be empty:
// then a chat is refused. Errors: kInvalidArgument naming the field, also if a text is beyond the limits of the
// tokenizer or the template: it would be the next time too.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const PromptInput& input, const Tokenizer& tokenizer,
                                                  const ChatRenderer& render);

}  // namespace shoal
