#include "kernels/cpu/pack.h"

#include <algorithm>
#include <cstring>

namespace shoal::cpu {
namespace {

template <typename W>
void PackDense(const HostWeight& host, int64_t block, W* out) {
  const W* in = static_cast<const W*>(host.values);
  const int64_t rows = std::min(kRowBlock, host.rows - block * kRowBlock);
  out += block * kRowBlock * host.cols;
  for (int64_t r = 0; r < rows; ++r) {
    const W* row = in + (block * kRowBlock + r) * host.cols;
    for (int64_t k = 0; k < host.cols; ++k) out[k * kRowBlock + r] = row[k];
  }
}

void PackInt8(const HostWeight& host, int64_t block, uint8_t* out) {
  const int8_t* in = static_cast<const int8_t*>(host.values);
  const int64_t rows = std::min(kRowBlock, host.rows - block * kRowBlock);
  out += block * kRowBlock * host.cols;
  for (int64_t r = 0; r < rows; ++r) {
    const int8_t* row = in + (block * kRowBlock + r) * host.cols;
    for (int64_t k = 0; k < host.cols; k += 4) {
      for (int64_t j = 0; j < 4; ++j) out[k * 16 + r * 4 + j] = static_cast<uint8_t>(row[k + j] + 128);
    }
  }
}

void PackInt4(const HostWeight& host, int64_t block, const Weight& weight) {
  const int64_t groups = host.cols / kWeightGroup;
  const int64_t rows = std::min(kRowBlock, host.rows - block * kRowBlock);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = block * kRowBlock + r;
    const uint8_t* in = static_cast<const uint8_t*>(host.values) + row * (host.cols / 2);
    for (int64_t g = 0; g < groups; ++g, in += kWeightGroup / 2) {
      const int64_t at = block * groups + g;
      uint8_t* out = weight.values.As<uint8_t>() + at * 256;
      for (int64_t k = 0; k < kWeightGroup; ++k) {
        const int q = in[k / 2] >> (k % 2 * 4) & 15;
        out[k / 8 * 64 + r * 4 + k % 4] |= static_cast<uint8_t>(k % 8 < 4 ? q : q << 4);
      }
      const int n = host.group_scales[row * groups + g] - 1;
      SHOAL_CHECK(n >= 0 && n < 16);
      weight.group_scales.As<uint8_t>()[at * 8 + r % 8] |= static_cast<uint8_t>(r < 8 ? n : n << 4);
      weight.group_offsets.As<int8_t>()[at * 16 + r] = host.group_offsets[row * groups + g];
    }
  }
}

}  // namespace

void PackWeight(const HostWeight& host, ThreadPool& pool, Weight& weight) {
  const int64_t blocks = (host.rows + kRowBlock - 1) / kRowBlock;
  pool.ParallelFor(blocks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block) {
      switch (host.format) {
        case WeightFormat::kF32:
          PackDense(host, block, weight.values.As<float>());
          break;
        case WeightFormat::kBF16:
          PackDense(host, block, weight.values.As<uint16_t>());
          break;
        case WeightFormat::kInt8:
          PackInt8(host, block, weight.values.As<uint8_t>());
          break;
        case WeightFormat::kInt4:
          PackInt4(host, block, weight);
          break;
      }
    }
  });
  const size_t vector_bytes = static_cast<size_t>(host.rows) * sizeof(float);
  if (IsQuantized(host.format)) std::memcpy(weight.scales.data, host.scales, vector_bytes);
  if (host.bias != nullptr) std::memcpy(weight.bias.data, host.bias, vector_bytes);
}

}  // namespace shoal::cpu
