#include "parallel/shm_exchange.h"

#include <atomic>

#include "base/check.h"
#include "base/str_cat.h"
#include "kernels/stream_copy.h"
#include "parallel/shared_segment.h"

namespace shoal {

// `epoch` is written last: whoever has seen it sees the label and the slot, too.
struct alignas(kShmAlignment) ShmExchange::Flag {
  std::atomic<uint64_t> epoch;
  int64_t label;
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

int64_t ShmExchange::Bytes(int ranks, int64_t slot_bytes) {
  return 2 * ranks * (static_cast<int64_t>(sizeof(Flag)) + slot_bytes);
}

ShmExchange::ShmExchange(std::span<std::byte> memory, int rank, int ranks, int64_t slot_bytes)
    : memory_(memory.data()), rank_(rank), ranks_(ranks), slot_bytes_(slot_bytes) {
  SHOAL_CHECK(static_cast<int64_t>(memory.size()) == Bytes(ranks, slot_bytes) && slot_bytes % kShmAlignment == 0);
}

ShmExchange::Flag& ShmExchange::FlagOf(int rank, uint64_t epoch) const {
  return reinterpret_cast<Flag*>(memory_)[2 * rank + static_cast<int>(epoch & 1)];
}

std::byte* ShmExchange::SlotOf(int rank, uint64_t epoch) const {
  const int64_t slots = static_cast<int64_t>(sizeof(Flag)) * 2 * ranks_;
  return memory_ + slots + (2 * rank + static_cast<int>(epoch & 1)) * slot_bytes_;
}

void ShmExchange::Publish(int64_t label) {
  label_ = label;
  Flag& mine = FlagOf(rank_, ++epoch_);
  mine.label = label;
  StreamFence();
  mine.epoch.store(epoch_, std::memory_order_release);
}

absl::StatusOr<const std::byte*> ShmExchange::Await(const ShmWaiting& waiting, int from) {
  const Flag& theirs = FlagOf(from, epoch_);
  // Equal, not at least: it cannot be further, since its next exchange but one would need this rank.
  if (!WaitFor(waiting, [&] { return theirs.epoch.load(std::memory_order_acquire) == epoch_; })) {
    return absl::UnavailableError(
        StrCat("rank ", from, " of the group does not answer: a sum, ", waiting.seconds, " seconds"));
  }
  if (theirs.label != label_) {
    return absl::InternalError(StrCat("rank ", from, " of the group adds up ", theirs.label, " numbers where ", label_,
                                      " were awaited; the ranks are out of step"));
  }
  return SlotOf(from, epoch_);
}

}  // namespace shoal
