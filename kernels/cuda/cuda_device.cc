#include "kernels/cuda/cuda_device.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "base/cores.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/thread_pool.h"
#include "kernels/cuda/arena.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_peer_link.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/staging.h"
#include "kernels/host_memory.h"
#include "kernels/parts.h"

namespace shoal::cuda {
namespace {

// Copies up to this size pass through page-locked memory of the device's own, so that they do not wait for one another.
constexpr int64_t kSmallCopy = 64 << 10;
constexpr int64_t kSmallCopies = int64_t{2} << 20;

// Bytes of weights that a thread makes at a time, and the most threads that do so.
constexpr int64_t kReadBytes = 256 << 10;
int LoadThreads() { return std::min(CoresAllowed(), 16); }

absl::StatusOr<Path> ChoosePath(const std::string& name, const GpuInfo& gpu) {
  if (name == "dp4a") return Path::kDp4a;
  if (name == "sm75") return Path::kSm75;
  if (name == "sm80") {
    if (gpu.compute_capability >= 80) return Path::kSm80;
    return absl::FailedPreconditionError(StrCat("cuda path 'sm80' needs compute capability 8.0; this is ", gpu.name));
  }
  if (!name.empty())
    return absl::InvalidArgumentError(StrCat("cuda path '", name, "' is unknown; use dp4a, sm75, sm80"));
  if (gpu.compute_capability >= 80) return Path::kSm80;
  return gpu.tensor_cores ? Path::kSm75 : Path::kDp4a;
}

const char* PathName(Path path) { return path == Path::kDp4a ? "dp4a" : path == Path::kSm75 ? "sm75" : "sm80"; }

class CudaDevice final : public Device {
 public:
  CudaDevice(std::shared_ptr<Runtime> runtime, const CudaDeviceOptions& options, Path path)
      : runtime_(std::move(runtime)),
        arena_(runtime_, options.memory_budget),
        staging_(*runtime_),
        path_(path),
        use_graphs_(options.graphs) {}

  ~CudaDevice() override {
    (void)runtime_->Synchronize();  // Nothing may still read what is about to be freed.
    graphs_.clear();
    if (small_ != nullptr) runtime_->FreeHost(small_);
  }

  absl::Status Start(int64_t workspace_bytes) {
    ASSIGN_OR_RETURN(workspace_, arena_.Allocate(MemoryKind::kActivations, workspace_bytes));
    ASSIGN_OR_RETURN(small_, runtime_->AllocateHost(kSmallCopies));
    ops_ = std::make_unique<CudaOps>(runtime_->stream(), path_, runtime_->info().multiprocessors, workspace_->data(),
                                     workspace_bytes);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(MemoryKind kind, int64_t bytes) override {
    return arena_.Allocate(kind, bytes);
  }

  absl::StatusOr<Weight> LoadWeight(const WeightSource& source) override {
    CheckWeightSource(source);
    const int64_t bytes = WeightBytes(source.format, source.rows, source.cols, source.bias != nullptr);
    ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, arena_.Allocate(MemoryKind::kWeights, bytes));
    const int64_t padded = (source.rows + kRowBlock - 1) / kRowBlock * kRowBlock, groups = source.cols / kWeightGroup;
    Weight w;
    w.format = source.format;
    w.rows = source.rows;
    w.cols = source.cols;
    w.group = source.group;
    // In the order of falling alignment.
    Parts parts(buffer->data());
    if (source.bias != nullptr) w.bias = parts.Take(DType::kF32, {padded});
    if (IsQuantized(source.format)) w.scales = parts.Take(DType::kF32, {padded});
    switch (source.format) {
      case WeightFormat::kF32:
        w.values = parts.Take(DType::kF32, {padded, source.cols});
        break;
      case WeightFormat::kBF16:
        w.values = parts.Take(DType::kBF16, {padded, source.cols});
        break;
      case WeightFormat::kInt8:
        w.values = parts.Take(DType::kI8, {padded, source.cols});
        break;
      case WeightFormat::kInt4:
        w.values = parts.Take(DType::kU8, {padded, source.cols / 2});
        w.group_offsets = parts.Take(DType::kI8, {padded, groups});
        w.group_scales = parts.Take(DType::kU8, {padded * groups / 2});
        break;
    }
    SHOAL_CHECK_EQ(parts.next() - buffer->data(), bytes);
    RETURN_IF_ERROR(Upload(source, w));
    owned_.push_back(std::move(buffer));
    return w;
  }

  absl::StatusOr<Tensor> LoadTensor(const TableSource& source) override {
    Tensor tensor = source.shape;
    ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, arena_.Allocate(MemoryKind::kWeights, tensor.bytes()));
    tensor.data = buffer->data();
    const int64_t row_bytes = tensor.cols() * SizeOf(tensor.dtype);
    const int64_t chunk = std::max<int64_t>(1, Staging::kSlotBytes / row_bytes);
    const auto rows = std::make_unique_for_overwrite<std::byte[]>(std::min(chunk, tensor.rows()) * row_bytes);
    ThreadPool pool(LoadThreads());
    for (int64_t begin = 0; begin < tensor.rows(); begin += chunk) {
      const int64_t n = std::min(chunk, tensor.rows() - begin), part = std::max<int64_t>(1, kReadBytes / row_bytes);
      RETURN_IF_ERROR(ForChunks(pool, n, 1, part, [&](int64_t from, int64_t to) {
        return source.read(begin + from, begin + to, rows.get() + from * row_bytes);
      }));
      RETURN_IF_ERROR(UploadBytes(rows.get(), n * row_bytes, tensor.data + begin * row_bytes));
    }
    owned_.push_back(std::move(buffer));
    return tensor;
  }

  void CopyIn(const void* host, Tensor out) override {
    SHOAL_CHECK(out.contiguous() && !recording_);
    const int64_t bytes = out.bytes();
    if (bytes == 0) return;
    std::byte* const slot = TakeSmall(bytes);
    if (slot != nullptr) std::memcpy(slot, host, bytes);
    runtime_->Copy(out.data, slot != nullptr ? slot : host, bytes);
  }

  void CopyOut(Tensor in, void* host) override {
    SHOAL_CHECK(in.contiguous() && !recording_);
    const int64_t bytes = in.bytes();
    if (bytes == 0) return;
    std::byte* const slot = TakeSmall(bytes);
    if (slot != nullptr) arrivals_.push_back({slot, host, bytes});
    runtime_->Copy(slot != nullptr ? slot : host, in.data, bytes);
  }

  absl::Status Synchronize() override {
    absl::Status status = runtime_->Synchronize();
    for (const std::weak_ptr<LinkReports>& weak : links_) {
      const std::shared_ptr<LinkReports> link = weak.lock();
      if (status.ok() && link != nullptr) status = link->Take();
    }
    if (status.ok()) {
      for (const Arrival& a : arrivals_) std::memcpy(a.host, a.slot, a.bytes);
    }
    arrivals_.clear();
    small_used_ = 0;
    return status;
  }

  absl::Status Replay(uint64_t key, const std::function<absl::Status()>& work) override {
    if (!use_graphs_) return work();
    std::unique_ptr<Graph>& graph = graphs_[key];
    if (graph == nullptr) {
      RETURN_IF_ERROR(runtime_->BeginGraph());
      recording_ = true;
      const absl::Status recorded = work();
      recording_ = false;
      absl::StatusOr<std::unique_ptr<Graph>> ended = runtime_->EndGraph();
      RETURN_IF_ERROR(recorded);
      if (!ended.ok()) return ended.status();
      graph = *std::move(ended);
    }
    graph->Launch();
    return absl::OkStatus();
  }

  bool records() const override { return use_graphs_; }

  absl::StatusOr<std::unique_ptr<PeerLink>> CreatePeerLink(const PeerLinkOptions& options) override {
    ASSIGN_OR_RETURN(std::unique_ptr<CudaPeerLink> link, CudaPeerLink::Create(runtime_, arena_, options));
    std::erase_if(links_, [](const std::weak_ptr<LinkReports>& gone) { return gone.expired(); });
    links_.push_back(link->reports());
    return link;
  }

  void* native_queue() const override { return runtime_->stream(); }

  Ops& ops() override { return *ops_; }
  const MemoryLedger& ledger() const override { return arena_.ledger(); }
  std::string description() const override {
    const GpuInfo& gpu = runtime_->info();
    return StrCat("cuda, ", gpu.name, ", ", gpu.multiprocessors, " multiprocessors, ", PathName(path_));
  }

 private:
  struct Arrival {
    const std::byte* slot;
    void* host;
    int64_t bytes;
  };

  // Page-locked bytes until the next Synchronize; null if these are too many.
  std::byte* TakeSmall(int64_t bytes) {
    const int64_t aligned = (bytes + 63) / 64 * 64;
    if (bytes > kSmallCopy || small_used_ + aligned > kSmallCopies) return nullptr;
    std::byte* const slot = small_ + small_used_;
    small_used_ += aligned;
    return slot;
  }

  absl::Status UploadBytes(const void* from, int64_t bytes, std::byte* to) {
    return staging_.Copy(to, bytes, [&](int64_t begin, int64_t n, std::byte* slot) {
      std::memcpy(slot, static_cast<const std::byte*>(from) + begin, n);
    });
  }

  // Rows pass through host memory of about a slot, read by many threads, then through the slots.
  absl::Status Upload(const WeightSource& source, const Weight& w) {
    if (source.bias != nullptr) RETURN_IF_ERROR(UploadBytes(source.bias, source.rows * 4, w.bias.data));
    const int64_t chunk = SourceChunkRows(source.format, source.cols, Staging::kSlotBytes);
    const int64_t part = std::min(chunk, SourceChunkRows(source.format, source.cols, kReadBytes));
    const RowBuffer buffer(source.format, std::min(chunk, source.rows), source.cols);
    ThreadPool pool(LoadThreads());
    for (int64_t begin = 0; begin < source.rows; begin += chunk) {
      const int64_t n = std::min(chunk, source.rows - begin);
      RETURN_IF_ERROR(ForChunks(pool, n, kRowBlock, part, [&](int64_t from, int64_t to) {
        return source.read(begin + from, begin + to, buffer.rows().From(source.format, source.cols, from));
      }));
      RETURN_IF_ERROR(UploadRows(buffer.rows(), begin, n, w));
    }
    return absl::OkStatus();
  }

  // `n` canonical rows as rows [begin, begin + n), where begin is a multiple of kRowBlock.
  absl::Status UploadRows(const HostRows& rows, int64_t begin, int64_t n, const Weight& w) {
    const int64_t row_bytes = RowBytes(w.format, w.cols), groups = w.cols / kWeightGroup;
    std::byte* const values = w.values.data + begin * row_bytes;
    if (rows.scales != nullptr) RETURN_IF_ERROR(UploadBytes(rows.scales, n * 4, w.scales.data + begin * 4));
    if (w.format != WeightFormat::kInt4) return UploadBytes(rows.values, n * row_bytes, values);
    RETURN_IF_ERROR(staging_.Copy(values, n * row_bytes, [&](int64_t from, int64_t bytes, std::byte* slot) {
      PackNibbles(reinterpret_cast<const uint8_t*>(rows.values) + from, bytes, reinterpret_cast<uint8_t*>(slot));
    }));
    RETURN_IF_ERROR(UploadBytes(rows.group_offsets, n * groups, w.group_offsets.data + begin * groups));
    std::byte* const scales = w.group_scales.data + begin * groups / 2;
    return staging_.Copy(scales, (n * groups + 1) / 2, [&](int64_t from, int64_t bytes, std::byte* slot) {
      PackGroupScales(rows.group_scales, 2 * from, n * groups, bytes, reinterpret_cast<uint8_t*>(slot));
    });
  }

  std::shared_ptr<Runtime> runtime_;
  Arena arena_;
  Staging staging_;
  Path path_;
  bool use_graphs_;
  bool recording_ = false;  // In Replay's work.
  std::unique_ptr<Buffer> workspace_;
  std::unique_ptr<CudaOps> ops_;
  std::vector<std::unique_ptr<Buffer>> owned_;
  std::map<uint64_t, std::unique_ptr<Graph>> graphs_;
  std::vector<std::weak_ptr<LinkReports>> links_;  // Those of links that still exist.
  std::byte* small_ = nullptr;                     // kSmallCopies
  int64_t small_used_ = 0;
  std::vector<Arrival> arrivals_;  // Copied on to their hosts by Synchronize.
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(std::unique_ptr<Runtime> runtime,
                                                       const CudaDeviceOptions& options) {
  if (options.memory_budget < 0 || options.workspace_bytes < 0) {
    return absl::InvalidArgumentError("cuda device: the memory budget and the workspace must not be negative");
  }
  ASSIGN_OR_RETURN(const Path path, ChoosePath(options.path, runtime->info()));
  auto device = std::make_unique<CudaDevice>(std::move(runtime), options, path);
  RETURN_IF_ERROR(device->Start(options.workspace_bytes));
  return device;
}

}  // namespace shoal::cuda
