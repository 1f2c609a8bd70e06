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

  absl::StatusOr<Weight> LoadWeight(const WeightSource& source) override {
    CheckWeightSource(source);
    const int64_t bytes = WeightBytes(source.format, source.rows, source.cols, source.bias != nullptr);
    ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, memory_.Allocate(MemoryKind::kWeights, bytes));
    // The buffer holds the budget's place; canonical n takes a whole byte, so the values live beside it.
    Weight w;
    w.format = source.format;
    w.rows = source.rows;
    w.cols = source.cols;
    w.group = source.group;
    const int64_t groups = source.cols / kWeightGroup;
    const DType types[] = {DType::kF32, DType::kBF16, DType::kI8, DType::kU8};
    const bool int4 = source.format == WeightFormat::kInt4;
    w.values = Make(types[static_cast<int>(source.format)], {source.rows, int4 ? source.cols / 2 : source.cols});
    if (IsQuantized(source.format)) w.scales = Make(DType::kF32, {source.rows});
    if (int4) {
      w.group_scales = Make(DType::kU8, {source.rows, groups});
      w.group_offsets = Make(DType::kI8, {source.rows, groups});
    }
    RETURN_IF_ERROR(
        source.read(0, source.rows,
                    {w.values.data, w.scales.As<float>(), w.group_scales.As<uint8_t>(), w.group_offsets.As<int8_t>()}));
    if (source.bias != nullptr) {
      w.bias = Make(DType::kF32, {source.rows});
      std::memcpy(w.bias.data, source.bias, w.bias.bytes());
    }
    owned_.push_back(std::move(buffer));
    return w;
  }

  absl::StatusOr<Tensor> LoadTensor(const TableSource& source) override {
    Tensor tensor = source.shape;
    ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, memory_.Allocate(MemoryKind::kWeights, tensor.bytes()));
    tensor.data = buffer->data();
    RETURN_IF_ERROR(source.read(0, tensor.rows(), tensor.data));
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
  Tensor Make(DType dtype, std::initializer_list<int64_t> shape) {
    Tensor t = MakeTensor(nullptr, dtype, shape);
    t.data = copies_.emplace_back(std::make_unique<std::vector<std::byte>>(t.bytes()))->data();
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
