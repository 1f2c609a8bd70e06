// config.json, and behind the first NUL byte generation_config.json. What is accepted must have sane sizes.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t cut = text.find('\0');
  const std::string_view generation = cut == std::string_view::npos ? "" : text.substr(cut + 1);
  const auto config = shoal::ParseModelConfig(text.substr(0, cut), generation, "fuzz");
  if (!config.ok()) return 0;
  const shoal::ModelShape& shape = config->shape;
  if (shape.layers < 1 || shape.hidden < 1 || shape.head_dim < 2 || shape.head_dim % 2 != 0 || shape.ffn < 1 ||
      shape.vocab < 1 || shape.kv_heads < 1 || shape.heads % shape.kv_heads != 0) {
    std::abort();
  }
  for (int32_t id : config->eos_token_ids) {
    if (id < 0 || id >= shape.vocab) std::abort();
  }
  for (float frequency : shoal::RopeInverseFrequencies(config->rope, shape.head_dim)) {
    if (!std::isfinite(frequency) || frequency < 0) std::abort();
  }
  return 0;
}
