#include "kernels/cpu/pack.h"

#include <algorithm>
#include <cstring>

#include "base/status_macros.h"
#include "kernels/cpu/pack_block.h"

namespace shoal::cpu {
namespace {

// Values that are read before they are packed: they and their packed form fit a core's second-level cache.
constexpr int64_t kChunkBytes = 256 << 10;

// Makes rows [begin, end) those of zeros: what fills up the last block.
void ClearRows(WeightFormat format, int64_t cols, int64_t begin, int64_t end, const HostRows& rows) {
  const HostRows at = rows.From(format, cols, begin);
  const int64_t n = end - begin, groups = n * (cols / kWeightGroup);
  std::memset(at.values, 0, n * RowBytes(format, cols));
  if (at.scales != nullptr) std::fill_n(at.scales, n, 0.0f);
  if (at.group_scales != nullptr) std::fill_n(at.group_scales, groups, uint8_t{1});
  if (at.group_offsets != nullptr) std::fill_n(at.group_offsets, groups, int8_t{0});
}

// Packs 16 canonical rows as block `block`.
void PackBlock(const HostRows& rows, int64_t block, const Weight& weight) {
  const int64_t cols = weight.cols, groups = cols / kWeightGroup;
  const int64_t stride = RowBytes(weight.format, cols);
  auto* const out = weight.values.data + block * kRowBlock * stride;
  const auto* const in = reinterpret_cast<const uint8_t*>(rows.values);
  switch (weight.format) {
    case WeightFormat::kF32:
      PackDense<Words, 4>(rows.values, cols, out);
      return;
    case WeightFormat::kBF16:
      PackDense<Halves, 8>(rows.values, cols, out);
      return;
    case WeightFormat::kInt8:
      for (int64_t g = 0; g < groups; ++g) {
        PackInt8Group(in + g * 32, stride, reinterpret_cast<uint8_t*>(out) + g * 512);
      }
      return;
    case WeightFormat::kInt4:
      for (int64_t g = 0; g < groups; ++g) {
        PackInt4Group(in + g * 16, stride, reinterpret_cast<uint8_t*>(out) + g * 256);
      }
      SHOAL_CHECK(PackGroupScales(rows.group_scales, groups, weight.group_scales.As<uint8_t>() + block * groups * 8));
      PackGroupOffsets(reinterpret_cast<const uint8_t*>(rows.group_offsets), groups,
                       weight.group_offsets.As<uint8_t>() + block * groups * 16);
      return;
  }
}

// Reads and packs blocks [begin, end) through `buffer`.
absl::Status PackBlocks(const WeightSource& source, int64_t begin, int64_t end, const HostRows& buffer,
                        const Weight& weight) {
  const int64_t first = begin * kRowBlock, padded = (end - begin) * kRowBlock;
  const int64_t rows = std::min(source.rows - first, padded);
  RETURN_IF_ERROR(source.read(first, first + rows, buffer));
  ClearRows(source.format, source.cols, rows, padded, buffer);
  for (int64_t block = begin; block < end; ++block) {
    PackBlock(buffer.From(source.format, source.cols, (block - begin) * kRowBlock), block, weight);
  }
  if (buffer.scales != nullptr) {
    std::memcpy(weight.scales.As<float>() + first, buffer.scales, padded * sizeof(float));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PackWeight(const WeightSource& source, ThreadPool& pool, Weight& weight) {
  const int64_t blocks = (source.rows + kRowBlock - 1) / kRowBlock;
  const int64_t chunk = SourceChunkRows(source.format, source.cols, kChunkBytes);
  if (source.bias != nullptr) std::memcpy(weight.bias.data, source.bias, source.rows * sizeof(float));
  // Each worker the blocks that it multiplies later: on a machine with several memories they come to lie in its own.
  return ForChunks(pool, blocks, 1, chunk / kRowBlock, [&](int64_t begin, int64_t end) {
    const RowBuffer buffer(source.format, (end - begin) * kRowBlock, source.cols);
    return PackBlocks(source, begin, end, buffer.rows(), weight);
  });
}

}  // namespace shoal::cpu
