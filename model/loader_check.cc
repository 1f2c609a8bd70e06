#include "model/loader_check.h"

#include <cstring>

#include "base/check.h"

namespace shoal {
namespace {

// Loops run over all values and look at the sum of the findings once: that way the compiler makes vectors of them.
// Findings are as wide as the values.
template <typename T, typename Bad>
bool None(std::span<const T> values, Bad bad) {
  using Finding = decltype(bad(T{}));
  Finding found = 0;
  for (const T value : values) found |= bad(value);
  return found == 0;
}

}  // namespace

bool AllFinite(std::span<const float> values) {
  return None(values, [](float value) -> uint32_t {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return (bits & 0x7f800000) == 0x7f800000 ? 1 : 0;
  });
}

bool AllFiniteBf16(std::span<const uint16_t> values) {
  return None(values, [](uint16_t bits) -> uint16_t { return (bits & 0x7f80) == 0x7f80 ? 1 : 0; });
}

bool GoodInt8(std::span<const int8_t> values) {
  return None(values, [](int8_t value) -> uint8_t { return value == -128 ? 1 : 0; });
}

bool GoodInt4Groups(std::span<const uint8_t> n, std::span<const int8_t> m) {
  SHOAL_CHECK_EQ(n.size(), m.size());
  int16_t found = 0;
  for (size_t i = 0; i < n.size(); ++i) {
    const auto wide = static_cast<int16_t>(n[i]);
    const auto top = static_cast<int16_t>(m[i] + 15 * wide);  // At most 127 + 15 * 255.
    found |= static_cast<int16_t>(wide < 1) | static_cast<int16_t>(wide > 16) | static_cast<int16_t>(m[i] == -128) |
             static_cast<int16_t>(top > 127);
  }
  return found == 0;
}

}  // namespace shoal
