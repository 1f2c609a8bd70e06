#include "kernels/weight.h"

#include <numeric>

namespace shoal {

std::string_view WeightFormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "f32";
    case WeightFormat::kBF16:
      return "bf16";
    case WeightFormat::kInt8:
      return "int8";
    case WeightFormat::kInt4:
      return "int4";
  }
  return "unknown";
}

int64_t ActivationGroup(int64_t cols, int64_t cut) {
  SHOAL_CHECK_GT(cols, 0);
  SHOAL_CHECK_GT(cut, 0);
  // A power of two that divides both divides their greatest common divisor; its lowest set bit is the largest such.
  const int64_t common = std::gcd(cols, cut);
  return std::min(common & -common, kActivationGroupMax);
}

int64_t WeightBytes(WeightFormat format, int64_t rows, int64_t cols, bool has_bias) {
  const int64_t padded = (rows + kRowBlock - 1) / kRowBlock * kRowBlock;
  const int64_t vector_bytes = padded * static_cast<int64_t>(sizeof(float));
  const int64_t bias_bytes = has_bias ? vector_bytes : 0;
  switch (format) {
    case WeightFormat::kF32:
      return padded * cols * 4 + bias_bytes;
    case WeightFormat::kBF16:
      return padded * cols * 2 + bias_bytes;
    case WeightFormat::kInt8:
      return padded * cols + vector_bytes + bias_bytes;
    case WeightFormat::kInt4: {
      const int64_t groups = padded * (cols / kWeightGroup);
      // Per group: 16 bytes of q, half a byte of n - 1, one byte of m. 4.375 bits per weight.
      return groups * (kWeightGroup / 2) + groups / 2 + groups + vector_bytes + bias_bytes;
    }
  }
  return 0;
}

}  // namespace shoal
