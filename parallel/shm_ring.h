// Tensors on their way from one rank to another through shared memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "parallel/shm_wait.h"

namespace shoal {

// One end, the sender's or the receiver's. Tensors travel in pieces, one per slot; there are slots for kSendsInFlight
// tensors of the size it was made for. Data moves while neither end is inside of a call for the other.
class ShmRing {
 public:
  // For tensors of up to `tensor_bytes`; a multiple of kShmAlignment. Longer ones may be sent, but fewer before the
  // sender waits.
  static int64_t Bytes(int64_t tensor_bytes);

  // `memory`: Bytes(), aligned to kShmAlignment and zeroed, the same at both ends. `peer`: the other end's rank in the
  // group, for errors.
  ShmRing(std::span<std::byte> memory, int64_t tensor_bytes, int peer);

  // Copies a tensor in. Errors: kUnavailable if there is no room in time.
  absl::Status Send(const ShmWaiting& waiting, std::span<const std::byte> in);
  // Copies the next tensor out. Errors: kUnavailable if it does not come in time; kInternal, once, if it has another
  // size, whereupon it is gone.
  absl::Status Receive(const ShmWaiting& waiting, std::span<std::byte> out);

 private:
  struct Control;
  struct Piece;
  std::byte* SlotOf(uint32_t slot) const { return slots_ + slot * slot_bytes_; }

  Control* control_;
  Piece* pieces_;  // By number modulo slot_count_.
  std::byte* slots_;
  int64_t slot_bytes_;
  uint32_t slot_count_;
  int peer_;
  uint64_t done_ = 0;       // Pieces that this end has written or read.
  uint32_t next_slot_ = 0;  // The sender's.
};

}  // namespace shoal
