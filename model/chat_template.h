// Renders a conversation with the model's own Jinja template.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace shoal {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool".
  std::string content;
  // Further fields of the message ("tool_calls", "name", "reasoning_content", or a "content" that is a list of parts or
  // null), an object or null. They override role and content. Order is kept: templates print it.
  nlohmann::ordered_json extra;
};

struct ChatTemplateOptions {
  bool add_generation_prompt = true;
  nlohmann::ordered_json tools;      // An array of tool definitions, or null. Also selects a template named "tool_use".
  nlohmann::ordered_json variables;  // More variables ("enable_thinking"), an object or null.
  absl::Time now;                    // What strftime_now shows; the epoch (the default) means the current time.
};

// Immutable; may be used from any thread. Rendering is sandboxed: at most 1 M steps (more for large inputs), 64 nested
// calls, one second, and output of at most 4 times the input plus 64 KiB.
class ChatTemplate {
 public:
  static constexpr size_t kTemplateBytesMax = 1 << 20;

  // The template of a Hugging Face folder: chat_template.jinja, else `chat_template` of tokenizer_config.json (a string
  // or a list of named ones), with its bos_token, eos_token and other named tokens as variables; or the template of a
  // GGUF file. Errors: kNotFound if
  // the folder has no template; kInvalidArgument with file, template line and reason.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& model_dir);

  // From text. `where` starts every error message. Errors: kInvalidArgument "<where>: template line N: ...".
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Create(std::string_view source, std::string_view where,
                                                              std::string_view bos_token, std::string_view eos_token);
  ~ChatTemplate();

  // The prompt, to be encoded without adding special tokens again, unless the template leaves BOS out.
  // Errors: kInvalidArgument for invalid UTF-8 in the input, for what the template refuses (raise_exception) and for
  // its own errors, with the template line; kResourceExhausted beyond the limits.
  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                     const ChatTemplateOptions& options = {}) const;

  // The text of the default template.
  const std::string& source() const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
