// Zeroed host memory under a hard budget, for devices that live in host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "base/thread_pool.h"
#include "kernels/device.h"

namespace shoal {

// "weights", "kv", "activations", "communication".
const char* MemoryKindName(MemoryKind kind);

// Keeps the ledger of one device. Buffers may outlive it.
class HostMemory {
 public:
  // `budget` in bytes; 0: no limit. `pool`, if not null, must outlive this: its threads share the clearing of pages.
  explicit HostMemory(int64_t budget, ThreadPool* pool = nullptr);

  // As Device::Allocate. Memory of 2 MiB and more comes in huge pages where the system has them; so do all but the
  // smallest weights, which lie behind one another for that. Their pages come at the first write: from the memory next
  // to the core that writes.
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(MemoryKind kind, int64_t bytes);

  const MemoryLedger& ledger() const { return *ledger_; }

 private:
  // Zeroed; null if the system has none.
  std::shared_ptr<std::byte> Take(MemoryKind kind, int64_t bytes);
  std::shared_ptr<std::byte> TakeOfRegion(int64_t bytes);
  // Gives every page its memory; false if there is none left.
  bool Populate(std::byte* data, int64_t bytes);

  ThreadPool* pool_;
  std::shared_ptr<MemoryLedger> ledger_;
  // The pages that weights are being taken from, one behind the other; they live as long as any of their buffers.
  std::shared_ptr<std::byte> region_;
  int64_t region_bytes_ = 0;
  int64_t region_used_ = 0;
};

// The shape that `source` promises to the kernels. A violation is a bug of the loader: CHECK.
void CheckWeightSource(const WeightSource& source);

}  // namespace shoal
