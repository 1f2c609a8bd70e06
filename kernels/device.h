// One accelerator, or the host CPU: its memory, and the single in-order queue of work on it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/peer_link.h"
#include "kernels/tensor.h"
#include "kernels/weight_source.h"

namespace shoal {

class Ops;

// What a rank's memory is used for.
enum class MemoryKind : uint8_t { kWeights, kKv, kActivations, kCommunication };
constexpr int kMemoryKinds = 4;

// Bytes in use by kind, and the hard limit.
struct MemoryLedger {
  std::array<int64_t, kMemoryKinds> used{};
  int64_t budget = 0;

  int64_t total() const {
    int64_t sum = 0;
    for (int64_t n : used) sum += n;
    return sum;
  }
};

// Owns device memory; freed when destroyed.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual std::byte* data() const = 0;
};

// Used by one thread only. Copies and ops return once queued; Synchronize waits for them.
class Device {
 public:
  virtual ~Device() = default;

  // Takes zeroed memory, aligned to 64 bytes, from the rank's budget. Start-up only: nothing allocates once the server
  // is ready. Errors: kResourceExhausted, with the kind, the bytes asked for and the bytes left.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(MemoryKind kind, int64_t bytes) = 0;

  // Takes in a matrix, in the layout that its Ops read, in device memory owned by this Device. Start-up only. Uses
  // WeightBytes(...) bytes of kWeights, and beside them no more host memory than some megabytes. Returns once all rows
  // are read; copies may still be on their way. Errors: as Allocate; those of the source.
  virtual absl::StatusOr<Weight> LoadWeight(const WeightSource& source) = 0;
  absl::StatusOr<Weight> LoadWeight(const HostWeight& host) { return LoadWeight(SourceOf(host)); }

  // The same for a row-major table (embedding) or vector (norm gain).
  virtual absl::StatusOr<Tensor> LoadTensor(const TableSource& source) = 0;
  absl::StatusOr<Tensor> LoadTensor(const Tensor& host) { return LoadTensor(SourceOf(host)); }

  // `host` must stay valid until the next Synchronize. Contiguous tensors only.
  virtual void CopyIn(const void* host, Tensor out) = 0;
  virtual void CopyOut(Tensor in, void* host) = 0;

  // Waits for all queued work. Returns the first fault since start-up, for ever after.
  virtual absl::Status Synchronize() = 0;

  // Queues what `work` queues on this device, and nothing else that matters: a device that records() does so under
  // `key` the first time and only replays the record later. So whatever differs between calls of one key must be in
  // device memory, and `work` waits for nothing and copies nothing to or from the host. Errors: what `work` returns, or
  // the driver.
  virtual absl::Status Replay(uint64_t key, const std::function<absl::Status()>& work) = 0;
  virtual bool records() const { return false; }

  // This rank's end of a link to the devices of other ranks, with its memory (kCommunication). Start-up only. Errors:
  // kUnimplemented for devices that have none; kInvalidArgument for options out of range; as Allocate; kUnavailable if
  // the device cannot share memory.
  virtual absl::StatusOr<std::unique_ptr<PeerLink>> CreatePeerLink(const PeerLinkOptions& options);

  // The queue as libraries beside this one take it: a cudaStream_t. Null for devices without one.
  virtual void* native_queue() const { return nullptr; }

  virtual Ops& ops() = 0;
  virtual const MemoryLedger& ledger() const = 0;
  // For people: "cpu, 2 threads, avx512-vnni".
  virtual std::string description() const = 0;
};

struct CpuDeviceOptions {
  int threads = 0;            // 0: one per core that this process may use.
  int64_t memory_budget = 0;  // Bytes; 0: no limit.
  // "", or one of "portable", "avx2", "avxvnni", "avx512", "amx" to force a kernel path (tests, measurements), or, for
  // tests on machines without the instructions, "amx-emulated" and "avxvnni-emulated": the same kernels over others.
  std::string isa;
};

// Errors: kInvalidArgument for an unknown isa; kFailedPrecondition if this CPU lacks it.
absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(const CpuDeviceOptions& options);

struct CudaDeviceOptions {
  int index = 0;              // Which GPU of this process.
  int64_t memory_budget = 0;  // Bytes; 0: no limit but the GPU's.
  // "", or one of "dp4a", "sm75", "sm80" to force the instructions of matrix products (tests, measurements).
  std::string path;
  bool graphs = true;                           // False: Replay runs its work every time.
  int64_t workspace_bytes = int64_t{32} << 20;  // Device memory for ops, from the budget.
};

// A GPU's memory, with this process's context in place.
struct CudaGpu {
  std::string name;
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};

// These three come from one of three libraries, which the program chooses by linking: the CUDA back end, its emulation
// for tests, or neither.
//
// GPUs that this process sees; 0 without CUDA in this build, a driver or a GPU.
int CudaGpuCount();
// Errors: kFailedPrecondition if there is no such GPU, or it is too old.
absl::StatusOr<CudaGpu> ProbeCudaGpu(int index);
// Errors: as ProbeCudaGpu; kInvalidArgument for an unknown path; kResourceExhausted if the budget does not hold the
// workspace.
absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const CudaDeviceOptions& options);

// Plain double-precision loops: the oracle of the conformance suite.
std::unique_ptr<Device> CreateReferenceDevice();

}  // namespace shoal
