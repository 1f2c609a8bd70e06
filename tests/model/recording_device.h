// A device that keeps matrices in canonical form, so that tests can see what a loader gave it.
#pragma once

#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device.h"
#include "model/quantize.h"

namespace shoal {

class RecordingDevice : public Device {
 public:
  explicit RecordingDevice(int64_t budget = 0) { ledger_.budget = budget; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(MemoryKind, int64_t) override {
    return absl::UnimplementedError("not part of loading");
  }
  absl::StatusOr<Weight> LoadWeight(const HostWeight& host) override {
    const int64_t bytes = WeightBytes(host.format, host.rows, host.cols, host.bias != nullptr);
    if (ledger_.budget > 0 && ledger_.total() + bytes > ledger_.budget) return absl::ResourceExhaustedError("budget");
    ledger_.used[0] += bytes;
    Weight weight;
    weight.format = host.format;
    weight.rows = host.rows;
    weight.cols = host.cols;
    weight.group = host.group;
    const int64_t groups = host.cols / kWeightGroup;
    const DType types[] = {DType::kF32, DType::kBF16, DType::kI8, DType::kU8};
    const DType type = types[static_cast<int>(host.format)];
    const int64_t columns = host.format == WeightFormat::kInt4 ? host.cols / 2 : host.cols;
    weight.values = Keep(host.values, type, host.rows, columns);
    weight.scales = Keep(host.scales, DType::kF32, host.rows, 1);
    weight.group_scales = Keep(host.group_scales, DType::kU8, host.rows, groups);
    weight.group_offsets = Keep(host.group_offsets, DType::kI8, host.rows, groups);
    weight.bias = Keep(host.bias, DType::kF32, host.rows, 1);
    return weight;
  }
  absl::StatusOr<Tensor> LoadTensor(const Tensor& host) override {
    ledger_.used[0] += host.bytes();
    return Keep(host.data, host.dtype, host.rows(), host.cols());
  }
  void CopyIn(const void*, Tensor) override {}
  void CopyOut(Tensor, void*) override {}
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status Replay(uint64_t, const std::function<absl::Status()>& work) override { return work(); }
  Ops& ops() override { std::abort(); }
  const MemoryLedger& ledger() const override { return ledger_; }
  std::string description() const override { return "recording"; }

 private:
  Tensor Keep(const void* data, DType type, int64_t rows, int64_t cols) {
    if (data == nullptr) return {};
    const int64_t bytes = rows * cols * SizeOf(type);
    memory_.emplace_back(bytes);
    std::memcpy(memory_.back().data(), data, bytes);
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
