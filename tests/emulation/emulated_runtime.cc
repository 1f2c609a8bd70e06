// The CUDA runtime in host memory: kernels run on the calling thread, by cuda_emulation. Provides CreateCudaDevice for
// test programs. Peer memory is that of the other threads of this process.
#include "tests/emulation/emulated_runtime.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/cuda/cuda_device.h"
#include "tests/support/cuda_emulation.h"

namespace shoal::cuda {
namespace {

using cuda_emulation::EmulatedGpu;
using Step = std::function<void()>;

constexpr int64_t kMapped = 4 << 20;

// What its runtime's stream points to.
struct Queue {
  EmulatedGpu gpu;
  bool recording = false;  // Between BeginGraph and EndGraph.
  std::vector<Step> recorded;
  std::deque<Step> waiting;  // Of a late GPU.
  int64_t queued = 0;        // Steps since the start; `queued - waiting.size()` of them have run.

  void Add(Step step) {
    if (recording) {
      recorded.push_back(std::move(step));
      return;
    }
    ++queued;
    if (gpu.late) {
      waiting.push_back(std::move(step));
    } else {
      step();
    }
  }
  // Runs what waits until `n` steps have run.
  void RunUntil(int64_t n) {
    while (queued - static_cast<int64_t>(waiting.size()) < n) {
      const Step step = std::move(waiting.front());
      waiting.pop_front();
      step();
    }
  }
};

class EmulatedGraph final : public Graph {
 public:
  EmulatedGraph(Queue& queue, std::vector<Step> steps) : queue_(queue), steps_(std::move(steps)) {}
  void Launch() override {
    for (const Step& step : steps_) queue_.Add(step);
  }

 private:
  Queue& queue_;
  std::vector<Step> steps_;
};

// Device memory of all emulated GPUs of this process. What has been imported stays until the last importer closes it,
// as memory that another process uses must.
class PeerMemory {
 public:
  static PeerMemory& Get() {
    static auto* const memory = new PeerMemory;
    return *memory;
  }
  void Add(std::byte* memory, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    blocks_[memory] = {1, bytes};
  }
  // Whether somebody has it.
  bool Open(std::byte* memory) {
    const std::lock_guard lock(mutex_);
    const auto it = blocks_.find(memory);
    if (it == blocks_.end()) return false;
    ++it->second.users;
    return true;
  }
  void Close(std::byte* memory) {
    const std::lock_guard lock(mutex_);
    const auto it = blocks_.find(memory);
    SHOAL_CHECK(it != blocks_.end());
    if (--it->second.users > 0) return;
    const int64_t bytes = it->second.bytes;
    blocks_.erase(it);
    if (bytes >= kMapped) {
      munmap(memory, bytes);
    } else {
      ::operator delete (memory, std::align_val_t{256});
    }
  }

 private:
  struct Block {
    int users;
    int64_t bytes;
  };
  std::mutex mutex_;
  std::map<std::byte*, Block> blocks_;
};

class EmulatedRuntime final : public Runtime {
 public:
  explicit EmulatedRuntime(const EmulatedGpu& gpu) {
    queue_.gpu = gpu;
    info_.name = "emulated";
    info_.compute_capability = gpu.compute_capability;
    info_.multiprocessors = 2;
    info_.total_bytes = gpu.total_bytes;
    info_.allocation_unit = gpu.allocation_unit;
    info_.tensor_cores = gpu.tensor_cores;
  }

  const GpuInfo& info() const override { return info_; }
  Stream stream() const override { return reinterpret_cast<Stream>(const_cast<Queue*>(&queue_)); }

  absl::StatusOr<std::byte*> Allocate(int64_t bytes) override {
    if (bytes > info_.total_bytes || RoundUp(bytes) > FreeBytes()) {
      return absl::ResourceExhaustedError(StrCat("the emulated GPU has ", FreeBytes(), " bytes left"));
    }
    // Of large ones only the pages that are used cost time: every test's device has a workspace.
    auto* memory = static_cast<std::byte*>(
        bytes >= kMapped ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                         : std::memset(::operator new (bytes, std::align_val_t{256}), 0, bytes));
    SHOAL_CHECK(memory != MAP_FAILED);
    sizes_[memory] = bytes;
    used_ += RoundUp(bytes);
    PeerMemory::Get().Add(memory, bytes);
    return memory;
  }
  // Waits for queued work, as cudaFree does.
  void Free(std::byte* memory) override {
    queue_.RunUntil(queue_.queued);
    const int64_t bytes = sizes_.at(memory);
    used_ -= RoundUp(bytes);
    sizes_.erase(memory);
    PeerMemory::Get().Close(memory);
  }
  absl::StatusOr<std::byte*> AllocateHost(int64_t bytes) override { return new std::byte[bytes]; }
  void FreeHost(std::byte* memory) override { delete[] memory; }
  int64_t FreeBytes() override { return info_.total_bytes - used_; }

  void Copy(void* to, const void* from, int64_t bytes) override {
    queue_.Add([=] { std::memcpy(to, from, bytes); });
  }
  void Mark(int slot) override { marks_[slot] = queue_.queued; }
  void WaitFor(int slot) override { queue_.RunUntil(marks_[slot]); }
  absl::Status Synchronize() override {
    SHOAL_CHECK(!queue_.recording);
    queue_.RunUntil(queue_.queued);
    return absl::OkStatus();
  }

  absl::StatusOr<std::byte*> RegisterHost(std::byte* memory, int64_t) override { return memory; }
  void UnregisterHost(std::byte*) override {}

  absl::StatusOr<Handle> Export(std::byte* memory) override {
    SHOAL_CHECK(sizes_.count(memory) == 1);
    const PeerAddress address{getpid(), memory};
    Handle handle{};
    std::memcpy(handle.data(), &address, sizeof(address));
    return handle;
  }
  absl::StatusOr<std::byte*> Import(const Handle& handle) override {
    PeerAddress address{};
    std::memcpy(&address, handle.data(), sizeof(address));
    if (address.process != getpid() || !PeerMemory::Get().Open(address.memory)) {
      return absl::UnavailableError("the emulated GPU reaches memory of its own process only");
    }
    return address.memory;
  }
  void CloseImport(std::byte* memory) override { PeerMemory::Get().Close(memory); }

  absl::Status BeginGraph() override {
    SHOAL_CHECK(!queue_.recording);
    queue_.recording = true;
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<Graph>> EndGraph() override {
    SHOAL_CHECK(queue_.recording);
    queue_.recording = false;
    return std::make_unique<EmulatedGraph>(queue_, std::exchange(queue_.recorded, {}));
  }

 private:
  struct PeerAddress {
    pid_t process;
    std::byte* memory;
  };

  int64_t RoundUp(int64_t bytes) const {
    return (bytes + info_.allocation_unit - 1) / info_.allocation_unit * info_.allocation_unit;
  }

  GpuInfo info_;
  Queue queue_;
  std::array<int64_t, kMarks> marks_{};
  int64_t used_ = 0;
  std::map<std::byte*, int64_t> sizes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Runtime>> CreateRuntime(int) { return cuda_emulation::MakeEmulatedRuntime({}); }

}  // namespace shoal::cuda

namespace shoal {

namespace cuda_emulation {

void Launch(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st* stream, std::function<void()> kernel) {
  auto* queue = reinterpret_cast<cuda::Queue*>(stream);
  if (queue == nullptr) return RunGrid(grid, block, shared_bytes, kernel);  // Of a test that has no device.
  queue->Add([=, order = queue->gpu.lane_order, kernel = std::move(kernel)] {
    SetLaneOrder(order);
    RunGrid(grid, block, shared_bytes, kernel);
  });
}

std::unique_ptr<cuda::Runtime> MakeEmulatedRuntime(const EmulatedGpu& gpu) {
  return std::make_unique<cuda::EmulatedRuntime>(gpu);
}

}  // namespace cuda_emulation

int CudaGpuCount() { return 1; }

absl::StatusOr<CudaGpu> ProbeCudaGpu(int) { return CudaGpu{"emulated", int64_t{8} << 30, int64_t{8} << 30}; }

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const CudaDeviceOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<cuda::Runtime> runtime, cuda::CreateRuntime(options.index));
  return cuda::MakeCudaDevice(std::move(runtime), options);
}

}  // namespace shoal
