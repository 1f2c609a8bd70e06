// The CUDA runtime in host memory: kernels run at once, on the calling thread, by cuda_emulation. Provides
// CreateCudaDevice for test programs. Peer memory is that of the other threads of this process.
#include <unistd.h>

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/str_cat.h"
#include "kernels/cuda/cuda_device.h"
#include "tests/support/cuda_emulation.h"

namespace shoal::cuda {
namespace {

// What has been queued between BeginGraph and EndGraph of the runtime whose stream this is.
struct Recording {
  bool active = false;
  std::vector<std::function<void()>> steps;
};

class EmulatedGraph final : public Graph {
 public:
  explicit EmulatedGraph(std::vector<std::function<void()>> steps) : steps_(std::move(steps)) {}
  void Launch() override {
    for (const auto& step : steps_) step();
  }

 private:
  std::vector<std::function<void()>> steps_;
};

// Device memory of all emulated GPUs of this process. What has been imported stays until the last importer closes it,
// as memory that another process uses must.
class PeerMemory {
 public:
  static PeerMemory& Get() {
    static auto* const memory = new PeerMemory;
    return *memory;
  }
  void Add(std::byte* memory) {
    const std::lock_guard lock(mutex_);
    users_[memory] = 1;
  }
  // Whether somebody has it.
  bool Open(std::byte* memory) {
    const std::lock_guard lock(mutex_);
    const auto it = users_.find(memory);
    if (it == users_.end()) return false;
    ++it->second;
    return true;
  }
  void Close(std::byte* memory) {
    const std::lock_guard lock(mutex_);
    const auto it = users_.find(memory);
    SHOAL_CHECK(it != users_.end());
    if (--it->second > 0) return;
    users_.erase(it);
    ::operator delete (memory, std::align_val_t{256});
  }

 private:
  std::mutex mutex_;
  std::map<std::byte*, int> users_;
};

class EmulatedRuntime final : public Runtime {
 public:
  EmulatedRuntime() {
    info_.name = "emulated";
    info_.compute_capability = 86;
    info_.multiprocessors = 2;
    info_.total_bytes = int64_t{8} << 30;
    info_.allocation_unit = 1;  // Every buffer is an allocation of its own, so that AddressSanitizer sees its ends.
    info_.tensor_cores = true;
  }

  const GpuInfo& info() const override { return info_; }
  Stream stream() const override { return reinterpret_cast<Stream>(const_cast<Recording*>(&recording_)); }

  absl::StatusOr<std::byte*> Allocate(int64_t bytes) override {
    if (bytes > info_.total_bytes - used_) {
      return absl::ResourceExhaustedError(StrCat("the emulated GPU has ", info_.total_bytes - used_, " bytes left"));
    }
    auto* memory = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{256}));
    std::memset(memory, 0, bytes);
    used_ += bytes;
    sizes_[memory] = bytes;
    PeerMemory::Get().Add(memory);
    return memory;
  }
  void Free(std::byte* memory) override {
    used_ -= sizes_.at(memory);
    sizes_.erase(memory);
    PeerMemory::Get().Close(memory);
  }
  absl::StatusOr<std::byte*> AllocateHost(int64_t bytes) override { return new std::byte[bytes]; }
  void FreeHost(std::byte* memory) override { delete[] memory; }
  int64_t FreeBytes() override { return info_.total_bytes - used_; }

  void Copy(void* to, const void* from, int64_t bytes) override {
    Queue([=] { std::memcpy(to, from, bytes); });
  }
  void Mark(int) override {}
  void WaitFor(int) override {}
  absl::Status Synchronize() override {
    SHOAL_CHECK(!recording_.active);
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
    SHOAL_CHECK(!recording_.active);
    recording_.active = true;
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<Graph>> EndGraph() override {
    SHOAL_CHECK(recording_.active);
    recording_.active = false;
    return std::make_unique<EmulatedGraph>(std::exchange(recording_.steps, {}));
  }

 private:
  struct PeerAddress {
    pid_t process;
    std::byte* memory;
  };

  void Queue(std::function<void()> step) {
    if (recording_.active) {
      recording_.steps.push_back(std::move(step));
    } else {
      step();
    }
  }

  GpuInfo info_;
  Recording recording_;
  int64_t used_ = 0;
  std::map<std::byte*, int64_t> sizes_;
};

}  // namespace
}  // namespace shoal::cuda

namespace shoal {

namespace cuda_emulation {

void Launch(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st* stream, std::function<void()> kernel) {
  auto* recording = reinterpret_cast<cuda::Recording*>(stream);
  auto step = [=, kernel = std::move(kernel)] { RunGrid(grid, block, shared_bytes, kernel); };
  if (recording != nullptr && recording->active) {
    recording->steps.push_back(std::move(step));
  } else {
    step();
  }
}

}  // namespace cuda_emulation

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const CudaDeviceOptions& options) {
  return cuda::MakeCudaDevice(std::make_unique<cuda::EmulatedRuntime>(), options);
}

}  // namespace shoal
