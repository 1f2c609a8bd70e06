// Ranks that show one another what they have: the step that sums in shared memory are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "parallel/shm_wait.h"

namespace shoal {

// One rank's end. In an exchange every rank writes its slot, publishes it, and reads the slots of the others. A rank
// has two slots, which take turns: who publishes exchange e has read all it wanted of exchange e - 1, so when all
// others have been awaited in e, the slot of e - 1 is free for e + 1, and nobody need say that he has read.
class ShmExchange {
 public:
  // Bytes for all ranks, a multiple of kShmAlignment. slot_bytes: so, too.
  static int64_t Bytes(int ranks, int64_t slot_bytes);

  // `memory`: Bytes(), aligned to kShmAlignment and zeroed, the same on all ranks.
  ShmExchange(std::span<std::byte> memory, int rank, int ranks, int64_t slot_bytes);

  // This rank's slot in the next exchange, slot_bytes() long.
  std::byte* slot() const { return SlotOf(rank_, epoch_ + 1); }
  int64_t slot_bytes() const { return slot_bytes_; }

  // Begins the exchange with what lies in slot(). `label`: what all ranks must agree on, as the length of a sum.
  void Publish(int64_t label);

  // The slot of another rank in this exchange; valid until the next Publish. All others must be awaited before that.
  // Errors: kUnavailable if it does not publish in time; kInternal if its label is another.
  absl::StatusOr<const std::byte*> Await(const ShmWaiting& waiting, int from);

 private:
  struct Flag;
  Flag& FlagOf(int rank, uint64_t epoch) const;
  std::byte* SlotOf(int rank, uint64_t epoch) const;

  std::byte* memory_;  // Flags of all ranks, then their slots; two each.
  int rank_, ranks_;
  int64_t slot_bytes_;
  uint64_t epoch_ = 0;  // Of the exchange under way; 64 bits never wrap around.
  int64_t label_ = 0;
};

}  // namespace shoal
