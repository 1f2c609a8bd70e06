// tokenizer.json, and after a zero byte tokenizer_config.json: any text gives a tokenizer that works or a clear error.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "base/utf8.h"
#include "model/tokenizer.h"
#include "model/tokenizer_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  absl::StatusOr<shoal::TokenizerSpec> spec = shoal::ParseTokenizerJson(input.substr(0, zero), "tokenizer.json");
  if (!spec.ok()) return 0;
  if (zero != std::string_view::npos) {
    const auto config = shoal::ParseJson(input.substr(zero + 1), "tokenizer_config.json");
    if (!config.ok() || !shoal::ApplyTokenizerConfig(*config, "tokenizer_config.json", &*spec).ok()) return 0;
  }
  const auto tokenizer = shoal::Tokenizer::Create(*std::move(spec));
  if (!tokenizer.ok()) return 0;
  const std::string tail(input.substr(size - (size < 64 ? size : 64)));
  for (const std::string& text :
       {std::string("Hello, w\xC3\xB6rld! <s> 123\n\n  x"), shoal::ReplaceInvalidUtf8(tail)}) {
    for (const bool parse_special : {false, true}) {
      const auto ids = (*tokenizer)->Encode(text, {.add_special_tokens = true, .parse_special = parse_special});
      if (!ids.ok()) continue;
      const auto decoded = (*tokenizer)->Decode(*ids, parse_special);
      SHOAL_CHECK(decoded.ok() && shoal::IsValidUtf8(*decoded));
    }
  }
  return 0;
}
