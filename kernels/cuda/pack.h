// From canonical weights (HostRows) to the layout of linear_weights.cuh, in pieces, on the host.
#pragma once

#include <cstdint>

namespace shoal::cuda {

// n bytes of canonical 4-bit values (even column in the low nibble) to words whose low nibbles are the first four of
// eight columns; n is a multiple of 4.
inline void PackNibbles(const uint8_t* from, int64_t n, uint8_t* to) {
  const auto spread = [](uint32_t four) {  // Four nibbles to the low nibbles of four bytes.
    four = (four | four << 8) & 0x00ff00ffu;
    return (four | four << 4) & 0x0f0f0f0fu;
  };
  for (int64_t i = 0; i < n; i += 4) {
    uint32_t word;
    __builtin_memcpy(&word, from + i, 4);
    word = spread(word & 0xffff) | spread(word >> 16) << 4;
    __builtin_memcpy(to + i, &word, 4);
  }
}

// n bytes of group scales, one less each, even index in the low nibble: those of scales [first, first + 2 * n), of
// `count` in all.
inline void PackGroupScales(const uint8_t* scales, int64_t first, int64_t count, int64_t n, uint8_t* to) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t even = first + 2 * i;
    const int high = even + 1 < count ? scales[even + 1] - 1 : 0;
    to[i] = static_cast<uint8_t>((scales[even] - 1) | high << 4);
  }
}

}  // namespace shoal::cuda
