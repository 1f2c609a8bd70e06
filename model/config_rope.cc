// The frequencies of rotary embeddings.
#include <cmath>
#include <numbers>

#include "model/config.h"

namespace shoal {

std::vector<float> RopeInverseFrequencies(const RopeConfig& rope, int64_t head_dim) {
  std::vector<float> frequencies;
  frequencies.reserve(head_dim / 2);
  for (int64_t i = 0; i < head_dim; i += 2) {
    double frequency = std::pow(rope.theta, -static_cast<double>(i) / static_cast<double>(head_dim));
    if (rope.kind == RopeConfig::Kind::kLinear) frequency /= rope.factor;
    if (rope.kind == RopeConfig::Kind::kFactors) frequency /= rope.factors[i / 2];
    if (rope.kind == RopeConfig::Kind::kLlama3) {
      const double wavelength = 2 * std::numbers::pi / frequency;
      const double turns = rope.original_max_position / wavelength;  // Within the original context.
      if (turns < rope.low_freq_factor) {
        frequency /= rope.factor;
      } else if (turns <= rope.high_freq_factor) {
        const double smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
        frequency = (1 - smooth) * frequency / rope.factor + smooth * frequency;
      }
    }
    frequencies.push_back(static_cast<float>(frequency));
  }
  return frequencies;
}

}  // namespace shoal
