// Zeroed host memory under a hard budget, for devices that live in host memory.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device.h"

namespace shoal {

// "weights", "kv", "activations", "communication".
const char* MemoryKindName(MemoryKind kind);

// Keeps the ledger of one device. Buffers may outlive it.
class HostMemory {
 public:
  // `budget` in bytes; 0: no limit.
  explicit HostMemory(int64_t budget);

  // As Device::Allocate. Memory of 2 MiB and more comes in huge pages where the system has them.
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(MemoryKind kind, int64_t bytes);

  const MemoryLedger& ledger() const { return *ledger_; }

 private:
  std::shared_ptr<MemoryLedger> ledger_;
};

// The shape that `host` promises to the kernels. A violation is a bug of the loader: CHECK.
void CheckHostWeight(const HostWeight& host);

}  // namespace shoal
