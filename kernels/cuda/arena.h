// Device memory in large pieces under a hard budget.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/runtime.h"
#include "kernels/device.h"

namespace shoal::cuda {

// Buffers of less than kArenaShared bytes are cut one after another from pieces of kArenaPiece, where the driver rounds
// every allocation up to 2 MiB, which hundreds of weights would pay for. Larger ones get a piece of their own: cut from
// shared pieces they would leave ends that nothing fits in. A piece goes back to the driver with its last buffer.
// Buffers may outlive the arena, not the runtime.
class Arena {
 public:
  Arena(std::shared_ptr<Runtime> runtime, int64_t budget);

  // As Device::Allocate; aligned to 256 bytes. `alone`: a piece of its own, as Runtime::Export wants it.
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(MemoryKind kind, int64_t bytes, bool alone = false);

  const MemoryLedger& ledger() const;
  // Bytes of all pieces: what the driver has given. With large buffers about 1 MiB each more than the ledger shows.
  int64_t driver_bytes() const;

  struct State;

 private:
  std::shared_ptr<State> state_;
};

constexpr int64_t kArenaPiece = int64_t{32} << 20;
constexpr int64_t kArenaShared = int64_t{4} << 20;

}  // namespace shoal::cuda
