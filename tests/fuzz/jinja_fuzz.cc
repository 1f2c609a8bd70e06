// Any text as a chat template: a rendering within the limits, or a clear error.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"
#include "model/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto chat = shoal::ChatTemplate::Create(source, "template", "<s>", "</s>");
  if (!chat.ok()) return 0;
  std::vector<shoal::ChatMessage> messages = {{"system", "Be brief.", {}}, {"user", "Hi, \xC3\xA4\n x ", {}}};
  messages.push_back(
      {"assistant", "", {{"content", nullptr}, {"tool_calls", {{{"name", "f"}, {"arguments", {{"a", 1.5}}}}}}}});
  shoal::ChatTemplateOptions options;
  options.tools = {{{"type", "function"}, {"function", {{"name", "f"}}}}};
  const auto text = (*chat)->Render(messages, options);
  if (text.ok()) SHOAL_CHECK(shoal::IsValidUtf8(*text));
  return 0;
}
