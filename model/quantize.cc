#include "model/quantize.h"

#include "base/check.h"

namespace shoal {
namespace internal {

static_assert(kGroup == kWeightGroup);

std::vector<QuantizerPath> QuantizerPaths() {
  std::vector<QuantizerPath> paths = {kQuantizerPortable};
  if (__builtin_cpu_supports("avx2")) paths.push_back(kQuantizerAvx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    paths.push_back(kQuantizerAvx512);
  }
  return paths;
}

}  // namespace internal

bool QuantizeRowInt8(std::span<const float> row, const QuantizedRow& out, QuantizationError* error) {
  static const internal::QuantizerPath path = internal::QuantizerPaths().back();
  return path.int8(row.data(), static_cast<int64_t>(row.size()), out, error);
}

bool QuantizeRowInt4(std::span<const float> row, const QuantizedRow& out, QuantizationError* error) {
  SHOAL_CHECK(row.size() % kWeightGroup == 0);
  static const internal::QuantizerPath path = internal::QuantizerPaths().back();
  return path.int4(row.data(), static_cast<int64_t>(row.size()), out, error);
}

void DequantizeRow(WeightFormat format, const QuantizedRow& row, std::span<float> out) {
  if (format == WeightFormat::kInt8) {
    const auto* values = static_cast<const int8_t*>(row.values);
    for (size_t k = 0; k < out.size(); ++k) out[k] = *row.scale * static_cast<float>(values[k]);
    return;
  }
  SHOAL_CHECK(format == WeightFormat::kInt4);
  const auto* values = static_cast<const uint8_t*>(row.values);
  for (size_t k = 0; k < out.size(); ++k) {
    const int q = values[k / 2] >> (4 * (k % 2)) & 15;
    const int w8 = row.group_scales[k / kWeightGroup] * q + row.group_offsets[k / kWeightGroup];
    out[k] = *row.scale * static_cast<float>(w8);
  }
}

}  // namespace shoal
