// Checks of numbers that come from files, as fast as they are read.
#pragma once

#include <cstdint>
#include <span>

namespace shoal {

// True if no value is NaN or infinite.
bool AllFinite(std::span<const float> values);
bool AllFiniteBf16(std::span<const uint16_t> values);

// True if no value is -128, which an int8 weight never is.
bool GoodInt8(std::span<const int8_t> values);

// True if n lies in 1..16 and all of m .. m + 15 n in -127..127, for every group.
bool GoodInt4Groups(std::span<const uint8_t> n, std::span<const int8_t> m);

}  // namespace shoal
