// What the CUDA back end needs of the CUDA runtime. Two implementations: cuda_runtime.cc over the real one, and
// tests/emulation/emulated_runtime.cc in host memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {

struct GpuInfo {
  std::string name;        // "NVIDIA GeForce RTX 3060"
  int compute_capability;  // 86 for sm_86.
  int multiprocessors;
  int64_t total_bytes;
  int64_t allocation_unit;  // Bytes to which the driver rounds an allocation up.
  bool tensor_cores;        // False for GTX 16xx, which runs mma without them.
};

// A recorded sequence of launches and copies.
class Graph {
 public:
  virtual ~Graph() = default;
  // Queues all of it.
  virtual void Launch() = 0;
};

// One GPU and one in-order stream. Used by one thread. Queued work reports faults at Synchronize.
class Runtime {
 public:
  virtual ~Runtime() = default;

  virtual const GpuInfo& info() const = 0;
  virtual Stream stream() const = 0;

  // Device memory, zeroed. Errors: kResourceExhausted.
  virtual absl::StatusOr<std::byte*> Allocate(int64_t bytes) = 0;
  virtual void Free(std::byte* memory) = 0;
  // Page-locked host memory, which copies reach at the speed of the link, and kernels at the same address (real:
  // cudaHostAlloc with cudaHostAllocPortable | cudaHostAllocMapped, under unified addressing). Errors:
  // kResourceExhausted.
  virtual absl::StatusOr<std::byte*> AllocateHost(int64_t bytes) = 0;
  virtual void FreeHost(std::byte* memory) = 0;
  // What is left of the GPU's memory, whoever uses it.
  virtual int64_t FreeBytes() = 0;

  // Queue a copy between host (page-locked or not) and device, either way.
  virtual void Copy(void* to, const void* from, int64_t bytes) = 0;

  // Marks this point of the queue as slot's (0..kMarks - 1) latest, and waits until the queue has passed it. A slot
  // that was never marked is passed.
  static constexpr int kMarks = 4;
  virtual void Mark(int slot) = 0;
  virtual void WaitFor(int slot) = 0;

  // Waits for all queued work. The first fault since the start, for ever after.
  virtual absl::Status Synchronize() = 0;

  // Makes host memory that is shared with other processes (whole pages of a mapping) reachable by kernels, and returns
  // its address for them, until UnregisterHost(memory). Two devices of one process may each register the same memory.
  //   Real: cudaHostRegister(memory, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped), where
  //   cudaErrorHostMemoryAlreadyRegistered counts as success (clear it with cudaGetLastError; only who registered
  //   unregisters), then cudaHostGetDevicePointer(&p, memory, 0). UnregisterHost: cudaHostUnregister, errors ignored.
  // Errors: kUnavailable with what the driver says.
  virtual absl::StatusOr<std::byte*> RegisterHost(std::byte* memory, int64_t bytes) = 0;
  virtual void UnregisterHost(std::byte* memory) = 0;

  // A handle with which other processes of this host open memory that Allocate returned (not an address inside of it).
  //   Real: cudaIpcGetMemHandle; cudaIpcMemHandle_t has these 64 bytes, copied as they are.
  // Errors: kUnavailable with what the driver says.
  using Handle = std::array<std::byte, 64>;
  virtual absl::StatusOr<Handle> Export(std::byte* memory) = 0;
  // The memory behind another process's handle, as kernels of this device reach it, until CloseImport.
  //   Real: cudaIpcOpenMemHandle(&p, handle, cudaIpcMemLazyEnablePeerAccess), which also refuses devices without peer
  //   access (cudaErrorPeerAccessUnsupported) and handles of this same process (cudaErrorInvalidContext or
  //   DeviceUninitialized): all of them are kUnavailable, and cudaGetLastError must be called so that they do not
  //   stick. CloseImport: cudaIpcCloseMemHandle, errors ignored. Nothing that uses the memory is queued any more then.
  virtual absl::StatusOr<std::byte*> Import(const Handle& handle) = 0;
  virtual void CloseImport(std::byte* memory) = 0;

  // Between the two calls work is recorded, not run. Errors: what the driver says.
  virtual absl::Status BeginGraph() = 0;
  virtual absl::StatusOr<std::unique_ptr<Graph>> EndGraph() = 0;
};

// Provided by one of the two. `index`: which GPU of this process; its runtimes share one context. The calling thread is
// the one that uses it. Errors: kFailedPrecondition where there is no such GPU, or the driver or the GPU is too old.
absl::StatusOr<std::unique_ptr<Runtime>> CreateRuntime(int index);

}  // namespace shoal::cuda
