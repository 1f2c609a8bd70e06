#include <cstring>
#include <vector>

#include "base/status_macros.h"
#include "kernels/device.h"
#include "kernels/host_memory.h"
#include "kernels/reference/reference_ops.h"

namespace shoal {
namespace {

class ReferenceDevice final : public Device {
 public:
  ReferenceDevice() : memory_(0) {}

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(MemoryKind kind, int64_t bytes) override {
    return memory_.Allocate(kind, bytes);
  }

  absl::StatusOr<Weight> LoadWeight(const HostWeight& host) override {
    CheckHostWeight(host);
    const int64_t bytes = WeightBytes(host.format, host.rows, host.cols, host.bias != nullptr);
    ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, memory_.Allocate(MemoryKind::kWeights, bytes));
    // The buffer holds the budget's place; canonical n takes a whole byte, so the values live beside it.
    Weight w;
    w.format = host.format;
    w.rows = host.rows;
    w.cols = host.cols;
    w.group = host.group;
    const int64_t groups = host.cols / kWeightGroup;
    switch (host.format) {
      case WeightFormat::kF32:
        w.values = Copy(host.values, DType::kF32, {host.rows, host.cols});
        break;
      case WeightFormat::kBF16:
        w.values = Copy(host.values, DType::kBF16, {host.rows, host.cols});
        break;
      case WeightFormat::kInt8:
        w.values = Copy(host.values, DType::kI8, {host.rows, host.cols});
        break;
      case WeightFormat::kInt4:
        w.values = Copy(host.values, DType::kU8, {host.rows, host.cols / 2});
        w.group_scales = Copy(host.group_scales, DType::kU8, {host.rows, groups});
        w.group_offsets = Copy(host.group_offsets, DType::kI8, {host.rows, groups});
        break;
    }
    if (IsQuantized(host.format)) w.scales = Copy(host.scales, DType::kF32, {host.rows});
    if (host.bias != nullptr) w.bias = Copy(host.bias, DType::kF32, {host.rows});
    owned_.push_back(std::move(buffer));
    return w;
  }

  absl::StatusOr<Tensor> LoadTensor(const Tensor& host) override {
    SHOAL_CHECK(host.contiguous());
    ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, memory_.Allocate(MemoryKind::kWeights, host.bytes()));
    Tensor tensor = host;
    tensor.data = buffer->data();
    std::memcpy(tensor.data, host.data, host.bytes());
    owned_.push_back(std::move(buffer));
    return tensor;
  }

  void CopyIn(const void* host, Tensor out) override {
    SHOAL_CHECK(out.contiguous());
    if (out.bytes() > 0) std::memcpy(out.data, host, out.bytes());
  }
  void CopyOut(Tensor in, void* host) override {
    SHOAL_CHECK(in.contiguous());
    if (in.bytes() > 0) std::memcpy(host, in.data, in.bytes());
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status Replay(uint64_t, const std::function<absl::Status()>& work) override { return work(); }
  Ops& ops() override { return ops_; }
  const MemoryLedger& ledger() const override { return memory_.ledger(); }
  std::string description() const override { return "reference, 1 thread, double precision"; }

 private:
  Tensor Copy(const void* from, DType dtype, std::initializer_list<int64_t> shape) {
    Tensor t = MakeTensor(nullptr, dtype, shape);
    const auto* bytes = static_cast<const std::byte*>(from);
    t.data = copies_.emplace_back(std::make_unique<std::vector<std::byte>>(bytes, bytes + t.bytes()))->data();
    return t;
  }

  HostMemory memory_;
  ReferenceOps ops_;
  std::vector<std::unique_ptr<Buffer>> owned_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> copies_;
};

}  // namespace

std::unique_ptr<Device> CreateReferenceDevice() { return std::make_unique<ReferenceDevice>(); }

}  // namespace shoal
