// A device that keeps matrices in canonical form, so that tests can see what a loader gave it.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "kernels/device.h"
#include "model/quantize.h"

namespace shoal {

class RecordingDevice : public Device {
 public:
  explicit RecordingDevice(int64_t budget = 0) { ledger_.budget = budget; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(MemoryKind, int64_t) override {
    return absl::UnimplementedError("not part of loading");
  }
  absl::StatusOr<Weight> LoadWeight(const WeightSource& source) override {
    const int64_t bytes = WeightBytes(source.format, source.rows, source.cols, source.bias != nullptr);
    if (ledger_.budget > 0 && ledger_.total() + bytes > ledger_.budget) return absl::ResourceExhaustedError("budget");
    ledger_.used[0] += bytes;
    Weight weight;
    weight.format = source.format;
    weight.rows = source.rows;
    weight.cols = source.cols;
    weight.group = source.group;
    const int64_t groups = source.cols / kWeightGroup;
    const DType types[] = {DType::kF32, DType::kBF16, DType::kI8, DType::kU8};
    const DType type = types[static_cast<int>(source.format)];
    const bool int4 = source.format == WeightFormat::kInt4;
    weight.values = Make(type, source.rows, int4 ? source.cols / 2 : source.cols);
    if (IsQuantized(source.format)) weight.scales = Make(DType::kF32, source.rows, 1);
    if (int4) {
      weight.group_scales = Make(DType::kU8, source.rows, groups);
      weight.group_offsets = Make(DType::kI8, source.rows, groups);
    }
    const HostRows rows{weight.values.data, weight.scales.As<float>(), weight.group_scales.As<uint8_t>(),
                        weight.group_offsets.As<int8_t>()};
    // In pieces of an odd length, as no device does it: sources must bear it.
    for (int64_t begin = 0; begin < source.rows; begin += kPieceRows) {
      const int64_t end = std::min(begin + kPieceRows, source.rows);
      RETURN_IF_ERROR(source.read(begin, end, rows.From(source.format, source.cols, begin)));
    }
    if (source.bias != nullptr) {
      weight.bias = Make(DType::kF32, source.rows, 1);
      std::memcpy(weight.bias.data, source.bias, weight.bias.bytes());
    }
    return weight;
  }
  absl::StatusOr<Tensor> LoadTensor(const TableSource& source) override {
    ledger_.used[0] += source.shape.bytes();
    const Tensor table = Make(source.shape.dtype, source.shape.rows(), source.shape.cols());
    RETURN_IF_ERROR(source.read(0, table.rows(), table.data));
    return table;
  }
  void CopyIn(const void*, Tensor) override {}
  void CopyOut(Tensor, void*) override {}
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status Replay(uint64_t, const std::function<absl::Status()>& work) override { return work(); }
  Ops& ops() override { std::abort(); }
  const MemoryLedger& ledger() const override { return ledger_; }
  std::string description() const override { return "recording"; }

 private:
  static constexpr int64_t kPieceRows = 7;

  Tensor Make(DType type, int64_t rows, int64_t cols) {
    memory_.emplace_back(rows * cols * SizeOf(type));
    return MakeTensor(memory_.back().data(), type, {rows, cols});
  }

  std::deque<std::vector<std::byte>> memory_;
  MemoryLedger ledger_;
};

// The same bytes in the same shape.
inline bool SameTensor(const Tensor& a, const Tensor& b) {
  if (a.empty() || b.empty()) return a.empty() == b.empty();
  return a.dtype == b.dtype && a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data, b.data, a.bytes()) == 0;
}

inline bool SameWeight(const Weight& a, const Weight& b) {
  return a.format == b.format && a.rows == b.rows && a.cols == b.cols && a.group == b.group &&
         SameTensor(a.values, b.values) && SameTensor(a.scales, b.scales) &&
         SameTensor(a.group_scales, b.group_scales) && SameTensor(a.group_offsets, b.group_offsets) &&
         SameTensor(a.bias, b.bias);
}

// Row `row` of a recorded weight, dequantized.
inline std::vector<float> RowOf(const Weight& weight, int64_t row) {
  std::vector<float> out(weight.cols);
  if (weight.format == WeightFormat::kF32) {
    std::memcpy(out.data(), weight.values.Row<float>(row), out.size() * sizeof(float));
  } else if (weight.format == WeightFormat::kBF16) {
    for (int64_t k = 0; k < weight.cols; ++k) {
      const uint32_t bits = static_cast<uint32_t>(weight.values.Row<uint16_t>(row)[k]) << 16;
      std::memcpy(&out[k], &bits, sizeof(bits));
    }
  } else {
    uint8_t* n = weight.group_scales.empty() ? nullptr : weight.group_scales.Row<uint8_t>(row);
    int8_t* m = weight.group_offsets.empty() ? nullptr : weight.group_offsets.Row<int8_t>(row);
    DequantizeRow(weight.format, {weight.values.Row<uint8_t>(row), weight.scales.Row<float>(row), n, m}, out);
  }
  return out;
}

}  // namespace shoal
