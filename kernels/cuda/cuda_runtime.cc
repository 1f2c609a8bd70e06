// The Runtime of a real GPU, and CreateCudaDevice.
//
// Runtime calls that fail leave their error with the thread, where the next look for a launch error would find it:
// whoever handles an error takes it away (TakeError).
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <string_view>
#include <utility>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/runtime.h"

namespace shoal::cuda {
namespace {

// What the driver hands out at least; cudaMalloc has no name for it.
constexpr int64_t kAllocationUnit = int64_t{2} << 20;
constexpr int kComputeCapabilityMin = 75;  // The oldest that CUDA 13 compiles for.

std::string ErrorText(cudaError_t error) {
  return StrCat(cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
}

// The error of a call that is handled here and now.
cudaError_t TakeError(cudaError_t error) {
  if (error != cudaSuccess) (void)cudaGetLastError();
  return error;
}

absl::Status NoGpu(std::string_view what) {
  return absl::FailedPreconditionError(StrCat("no usable GPU: ", what, "; set device to CPU or mend the driver"));
}

class CudaRuntime;

class CudaGraph final : public Graph {
 public:
  CudaGraph(CudaRuntime& runtime, cudaGraphExec_t graph) : runtime_(runtime), graph_(graph) {}
  ~CudaGraph() override { TakeError(cudaGraphExecDestroy(graph_)); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void Launch() override;

 private:
  CudaRuntime& runtime_;
  cudaGraphExec_t graph_;
};

class CudaRuntime final : public Runtime {
 public:
  explicit CudaRuntime(GpuInfo info) : info_(std::move(info)) {}
  ~CudaRuntime() override {
    if (stream_ == nullptr) return;
    TakeError(cudaStreamSynchronize(stream_));
    for (cudaEvent_t mark : marks_) {
      if (mark != nullptr) TakeError(cudaEventDestroy(mark));
    }
    TakeError(cudaStreamDestroy(stream_));
  }

  // The calling thread's GPU must be this one, then and whenever kernels are launched.
  absl::Status Start() {
    // Apart from the legacy default stream, on which libraries beside this one may work.
    Note(TakeError(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)), "cudaStreamCreate");
    for (cudaEvent_t& mark : marks_) {
      Note(TakeError(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming | cudaEventBlockingSync)),
           "cudaEventCreate");
    }
    return fault_;
  }

  const GpuInfo& info() const override { return info_; }
  Stream stream() const override { return stream_; }

  absl::StatusOr<std::byte*> Allocate(int64_t bytes) override {
    void* memory = nullptr;
    const size_t size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
    RETURN_IF_ERROR(OutOfMemory(TakeError(cudaMalloc(&memory, size)), bytes, "GPU"));
    const char* const what = "zeroing memory";
    Note(TakeError(cudaMemsetAsync(memory, 0, size, stream_)), what);
    Note(TakeError(cudaStreamSynchronize(stream_)), what);  // Zero for other streams and devices, too.
    if (!fault_.ok()) {
      Free(static_cast<std::byte*>(memory));
      return fault_;
    }
    return static_cast<std::byte*>(memory);
  }
  void Free(std::byte* memory) override { TakeError(cudaFree(memory)); }

  absl::StatusOr<std::byte*> AllocateHost(int64_t bytes) override {
    void* memory = nullptr;
    const size_t size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
    // Under unified addressing kernels, too, reach it at this address.
    const cudaError_t error = cudaHostAlloc(&memory, size, cudaHostAllocPortable | cudaHostAllocMapped);
    RETURN_IF_ERROR(OutOfMemory(TakeError(error), bytes, "page-locked host"));
    return static_cast<std::byte*>(memory);
  }
  void FreeHost(std::byte* memory) override { TakeError(cudaFreeHost(memory)); }

  int64_t FreeBytes() override {
    size_t free_bytes = 0, total_bytes = 0;
    Note(TakeError(cudaMemGetInfo(&free_bytes, &total_bytes)), "cudaMemGetInfo");
    return static_cast<int64_t>(free_bytes);
  }

  void Copy(void* to, const void* from, int64_t bytes) override {
    // Unified addressing tells the driver which side is the device.
    Note(TakeError(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream_)), "copy");
  }

  void Mark(int slot) override { Note(TakeError(cudaEventRecord(marks_[slot], stream_)), "cudaEventRecord"); }
  void WaitFor(int slot) override { Note(TakeError(cudaEventSynchronize(marks_[slot])), "work on the GPU"); }

  absl::Status Synchronize() override {
    Note(cudaGetLastError(), "kernel launch");  // <<<>>> returns nothing.
    Note(TakeError(cudaStreamSynchronize(stream_)), "work on the GPU");
    return fault_;
  }

  absl::StatusOr<std::byte*> RegisterHost(std::byte* memory, int64_t bytes) override {
    const cudaError_t error = TakeError(
        cudaHostRegister(memory, static_cast<size_t>(bytes), cudaHostRegisterPortable | cudaHostRegisterMapped));
    if (error == cudaSuccess) {
      registered_.insert(memory);
    } else if (error != cudaErrorHostMemoryAlreadyRegistered) {
      return Unavailable(error, "cudaHostRegister");
    }
    void* device_address = nullptr;
    if (const cudaError_t found = TakeError(cudaHostGetDevicePointer(&device_address, memory, 0));
        found != cudaSuccess) {
      UnregisterHost(memory);
      return Unavailable(found, "cudaHostGetDevicePointer");
    }
    return static_cast<std::byte*>(device_address);
  }
  void UnregisterHost(std::byte* memory) override {
    if (registered_.erase(memory) > 0) TakeError(cudaHostUnregister(memory));
  }

  absl::StatusOr<Handle> Export(std::byte* memory) override {
    cudaIpcMemHandle_t ipc;
    static_assert(sizeof(ipc) == sizeof(Handle));
    if (const cudaError_t error = TakeError(cudaIpcGetMemHandle(&ipc, memory)); error != cudaSuccess) {
      return Unavailable(error, "cudaIpcGetMemHandle");
    }
    Handle handle;
    std::memcpy(handle.data(), &ipc, sizeof(ipc));
    return handle;
  }
  absl::StatusOr<std::byte*> Import(const Handle& handle) override {
    cudaIpcMemHandle_t ipc;
    std::memcpy(&ipc, handle.data(), sizeof(ipc));
    void* memory = nullptr;
    const cudaError_t error = TakeError(cudaIpcOpenMemHandle(&memory, ipc, cudaIpcMemLazyEnablePeerAccess));
    if (error != cudaSuccess) return Unavailable(error, "cudaIpcOpenMemHandle");
    return static_cast<std::byte*>(memory);
  }
  void CloseImport(std::byte* memory) override { TakeError(cudaIpcCloseMemHandle(memory)); }

  absl::Status BeginGraph() override {
    Note(cudaGetLastError(), "kernel launch");
    RETURN_IF_ERROR(fault_);
    // Relaxed: a kernel's first launch may load its code, and another rank's thread may allocate meanwhile.
    return Call(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  }

  absl::StatusOr<std::unique_ptr<Graph>> EndGraph() override {
    const cudaError_t launch = cudaGetLastError();  // Says more than the capture that it has spoiled.
    cudaGraph_t recorded = nullptr;
    const cudaError_t end = TakeError(cudaStreamEndCapture(stream_, &recorded));
    cudaGraphExec_t graph = nullptr;
    cudaError_t ready = cudaSuccess;
    if (launch == cudaSuccess && end == cudaSuccess) {
      ready = TakeError(cudaGraphInstantiate(&graph, recorded, 0));
      // Its device memory is taken now, not by the first launch.
      if (ready == cudaSuccess) ready = TakeError(cudaGraphUpload(graph, stream_));
    }
    if (recorded != nullptr) TakeError(cudaGraphDestroy(recorded));
    if (launch == cudaSuccess && end == cudaSuccess && ready == cudaSuccess) {
      return std::make_unique<CudaGraph>(*this, graph);
    }
    if (graph != nullptr) TakeError(cudaGraphExecDestroy(graph));
    RETURN_IF_ERROR(Call(launch, "kernel launch while recording"));
    RETURN_IF_ERROR(Call(end, "cudaStreamEndCapture"));
    return Call(ready, "cudaGraphInstantiate");
  }

  // Keeps the first fault. What is queued after one fails as well, and says less.
  void Note(cudaError_t error, std::string_view what) {
    if (error != cudaSuccess && fault_.ok()) {
      fault_ = absl::InternalError(StrCat(info_.name, ": ", what, ": ", ErrorText(error)));
    }
  }

  cudaStream_t queue() const { return stream_; }

 private:
  // For calls whose failure is the caller's to handle and leaves the GPU as it was.
  absl::Status Call(cudaError_t error, std::string_view what) {
    if (TakeError(error) == cudaSuccess) return absl::OkStatus();
    return absl::InternalError(StrCat(info_.name, ": ", what, ": ", ErrorText(error)));
  }

  absl::Status Unavailable(cudaError_t error, std::string_view what) const {
    return absl::UnavailableError(StrCat(info_.name, ": ", what, ": ", ErrorText(error)));
  }

  // A failed allocation is no fault: the caller may ask for less.
  absl::Status OutOfMemory(cudaError_t error, int64_t bytes, std::string_view kind) {
    if (error == cudaSuccess) return absl::OkStatus();
    if (error != cudaErrorMemoryAllocation) {
      Note(error, "allocation");
      return fault_;
    }
    return absl::ResourceExhaustedError(StrCat("the driver has no ", bytes, " bytes of ", kind, " memory; ",
                                               FreeBytes(), " of ", info_.total_bytes, " bytes of ", info_.name,
                                               " are free"));
  }

  GpuInfo info_;
  cudaStream_t stream_ = nullptr;
  std::array<cudaEvent_t, kMarks> marks_{};
  std::set<std::byte*> registered_;  // Host memory that this runtime, and not another, has registered.
  absl::Status fault_;
};

void CudaGraph::Launch() { runtime_.Note(TakeError(cudaGraphLaunch(graph_, runtime_.queue())), "graph launch"); }

absl::StatusOr<GpuInfo> Describe(int index) {
  cudaDeviceProp properties;
  if (const cudaError_t error = TakeError(cudaGetDeviceProperties(&properties, index)); error != cudaSuccess) {
    return NoGpu(StrCat("number ", index, ": ", ErrorText(error)));
  }
  GpuInfo info;
  info.name = properties.name;
  info.compute_capability = 10 * properties.major + properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  info.allocation_unit = kAllocationUnit;
  // GeForce GTX 1650 and 1660 report the 7.5 of the RTX 20 series and execute mma, but on the ordinary units, many
  // times slower than dp4a; the driver offers no attribute that tells, so the name has to.
  info.tensor_cores = info.compute_capability != 75 || info.name.find("GTX 16") == std::string::npos;
  if (info.compute_capability < kComputeCapabilityMin) {
    return NoGpu(StrCat("number ", index, " (", info.name, ") has compute capability ", properties.major, ".",
                        properties.minor, ", and 7.5 is the least (GeForce GTX 16, RTX 20 and later)"));
  }
  return info;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Runtime>> CreateRuntime(int index) {
  int count = 0;
  if (const cudaError_t error = TakeError(cudaGetDeviceCount(&count)); error != cudaSuccess) {
    return NoGpu(ErrorText(error));
  }
  if (index < 0 || index >= count) {
    return NoGpu(StrCat("number ", index, " is wanted and this process sees ", count));
  }
  ASSIGN_OR_RETURN(GpuInfo info, Describe(index));
  // A waiting thread polls, which saves the tens of microseconds that waking takes in every step, but lets others have
  // its core: there may be more ranks than cores. The context comes to life here.
  cudaError_t error = TakeError(cudaInitDevice(index, cudaDeviceScheduleYield, cudaInitDeviceFlagsAreValid));
  if (error == cudaSuccess || error == cudaErrorSetOnActiveProcess) {  // The latter: an earlier runtime's flags hold.
    error = TakeError(cudaSetDevice(index));
  }
  if (error != cudaSuccess) return NoGpu(StrCat(info.name, ": ", ErrorText(error)));
  auto runtime = std::make_unique<CudaRuntime>(std::move(info));
  RETURN_IF_ERROR(runtime->Start());
  return runtime;
}

}  // namespace shoal::cuda

namespace shoal {

int CudaGpuCount() {
  int count = 0;
  return cuda::TakeError(cudaGetDeviceCount(&count)) == cudaSuccess ? count : 0;
}

absl::StatusOr<CudaGpu> ProbeCudaGpu(int index) {
  ASSIGN_OR_RETURN(const std::unique_ptr<cuda::Runtime> runtime, cuda::CreateRuntime(index));
  return CudaGpu{runtime->info().name, runtime->FreeBytes(), runtime->info().total_bytes};
}

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const CudaDeviceOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<cuda::Runtime> runtime, cuda::CreateRuntime(options.index));
  return cuda::MakeCudaDevice(std::move(runtime), options);
}

}  // namespace shoal
