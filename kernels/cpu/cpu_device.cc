// The host CPU as a Device: work is done at once, in the caller's thread and its pool.
#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cores.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/pack.h"
#include "kernels/device.h"
#include "kernels/host_memory.h"
#include "kernels/parts.h"

namespace shoal {
namespace {

// Of a table at a time: a source that checks what it has read finds it in the cache.
constexpr int64_t kTableChunkBytes = 256 << 10;

class CpuDevice final : public Device {
 public:
  CpuDevice(int threads, int64_t memory_budget, const cpu::KernelTable& kernels)
      : pool_(threads), memory_(memory_budget, &pool_), kernels_(kernels), ops_(pool_, kernels) {}

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(MemoryKind kind, int64_t bytes) override {
    return memory_.Allocate(kind, bytes);
  }

  absl::StatusOr<Weight> LoadWeight(const WeightSource& source) override {
    CheckWeightSource(source);
    const int64_t bytes = WeightBytes(source.format, source.rows, source.cols, source.bias != nullptr);
    ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, memory_.Allocate(MemoryKind::kWeights, bytes));
    Weight weight;
    weight.format = source.format;
    weight.rows = source.rows;
    weight.cols = source.cols;
    weight.group = source.group;
    const int64_t blocks = (source.rows + kRowBlock - 1) / kRowBlock, padded = blocks * kRowBlock;
    // In the order of falling alignment, so that every part starts where wide loads like it.
    Parts parts(buffer->data());
    if (source.bias != nullptr) weight.bias = parts.Take(DType::kF32, {padded});
    switch (source.format) {
      case WeightFormat::kF32:
      case WeightFormat::kBF16:
        weight.values = parts.Take(source.format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16,
                                   {blocks, source.cols, kRowBlock});
        break;
      case WeightFormat::kInt8:
        weight.scales = parts.Take(DType::kF32, {padded});
        weight.values = parts.Take(DType::kU8, {blocks, source.cols, kRowBlock});
        break;
      case WeightFormat::kInt4:
        weight.scales = parts.Take(DType::kF32, {padded});
        weight.values = parts.Take(DType::kU8, {blocks, source.cols / kWeightGroup, 256});
        weight.group_offsets = parts.Take(DType::kI8, {blocks, source.cols / kWeightGroup, 16});
        weight.group_scales = parts.Take(DType::kU8, {blocks, source.cols / kWeightGroup, 8});
        break;
    }
    SHOAL_CHECK_EQ(parts.next() - buffer->data(), bytes);
    RETURN_IF_ERROR(cpu::PackWeight(source, pool_, weight));
    owned_.push_back(std::move(buffer));
    return weight;
  }

  absl::StatusOr<Tensor> LoadTensor(const TableSource& source) override {
    Tensor tensor = source.shape;
    ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, memory_.Allocate(MemoryKind::kWeights, tensor.bytes()));
    tensor.data = buffer->data();
    const int64_t row_bytes = tensor.cols() * SizeOf(tensor.dtype);
    const int64_t chunk = std::max<int64_t>(1, kTableChunkBytes / row_bytes);
    RETURN_IF_ERROR(ForChunks(pool_, tensor.rows(), 1, chunk, [&](int64_t begin, int64_t end) {
      return source.read(begin, end, tensor.data + begin * row_bytes);
    }));
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
  std::string description() const override {
    return absl::StrCat("cpu, ", pool_.threads(), pool_.threads() == 1 ? " thread, " : " threads, ", kernels_.name);
  }

 private:
  ThreadPool pool_;
  HostMemory memory_;
  const cpu::KernelTable& kernels_;
  cpu::CpuOps ops_;
  std::vector<std::unique_ptr<Buffer>> owned_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(const CpuDeviceOptions& options) {
  if (options.threads < 0 || options.threads > 1024 || options.memory_budget < 0) {
    return absl::InvalidArgumentError(absl::StrCat("cpu device: threads ", options.threads, " and memory budget ",
                                                   options.memory_budget, " must be 0..1024 and not negative"));
  }
  ASSIGN_OR_RETURN(const cpu::KernelTable* kernels, cpu::ChooseKernels(options.isa));
  const int threads = options.threads > 0 ? options.threads : CoresAllowed();
  return std::make_unique<CpuDevice>(threads, options.memory_budget, *kernels);
}

}  // namespace shoal
