#include "parallel/shm_ring.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/stream_copy.h"
#include "parallel/communicator.h"
#include "parallel/shared_segment.h"

namespace shoal {
namespace {

// The receiver copies a piece out while the sender copies the next one in.
constexpr int64_t kSlotBytesMax = int64_t{64} << 10;

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Shape {
  int64_t slots;
  int64_t slot_bytes;
};

Shape ShapeFor(int64_t tensor_bytes) {
  const int64_t pieces = std::max<int64_t>(1, (tensor_bytes + kSlotBytesMax - 1) / kSlotBytesMax);
  return {kSendsInFlight * pieces, std::max<int64_t>(64, RoundUp((tensor_bytes + pieces - 1) / pieces, 64))};
}

}  // namespace

// Pieces so far: each end writes one word, in lines of its own. 64 bits never wrap around.
struct ShmRing::Control {
  alignas(kShmAlignment) std::atomic<uint64_t> written;
  alignas(kShmAlignment) std::atomic<uint64_t> read;
};

struct ShmRing::Piece {
  int64_t tensor_bytes;  // Of the whole tensor.
  uint64_t slot;
};

int64_t ShmRing::Bytes(int64_t tensor_bytes) {
  const Shape shape = ShapeFor(tensor_bytes);
  return RoundUp(sizeof(Control) + shape.slots * static_cast<int64_t>(sizeof(Piece)), kShmAlignment) +
         RoundUp(shape.slots * shape.slot_bytes, kShmAlignment);
}

ShmRing::ShmRing(std::span<std::byte> memory, int64_t tensor_bytes, int peer)
    : control_(reinterpret_cast<Control*>(memory.data())),
      pieces_(reinterpret_cast<Piece*>(memory.data() + sizeof(Control))),
      slot_bytes_(ShapeFor(tensor_bytes).slot_bytes),
      slot_count_(static_cast<uint32_t>(ShapeFor(tensor_bytes).slots)),
      peer_(peer) {
  SHOAL_CHECK_EQ(static_cast<int64_t>(memory.size()), Bytes(tensor_bytes));
  slots_ = memory.data() + memory.size() - RoundUp(slot_count_ * slot_bytes_, kShmAlignment);
}

absl::Status ShmRing::Send(const ShmWaiting& waiting, std::span<const std::byte> in) {
  const auto total = static_cast<int64_t>(in.size());
  do {
    uint64_t read = 0;
    const auto room = [&] { return done_ - (read = control_->read.load(std::memory_order_acquire)) < slot_count_; };
    if (!WaitFor(waiting, room)) {
      return absl::UnavailableError(
          StrCat("rank ", peer_, " of the group does not answer: a tensor unread for ", waiting.seconds, " seconds"));
    }
    // From the first slot on whenever all has been read: what is used stays small and in the caches.
    if (done_ == read) next_slot_ = 0;
    const size_t bytes = std::min(in.size(), static_cast<size_t>(slot_bytes_));
    StreamCopy(SlotOf(next_slot_), in.data(), static_cast<int64_t>(bytes));
    StreamFence();
    pieces_[done_ % slot_count_] = {.tensor_bytes = total, .slot = next_slot_};
    control_->written.store(++done_, std::memory_order_release);
    next_slot_ = (next_slot_ + 1) % slot_count_;
    in = in.subspan(bytes);
  } while (!in.empty());
  return absl::OkStatus();
}

absl::Status ShmRing::Receive(const ShmWaiting& waiting, std::span<std::byte> out) {
  const auto awaited = static_cast<int64_t>(out.size());
  int64_t left = 0;  // Of the tensor, whatever its size.
  int64_t tensor_bytes = 0;
  bool first = true;
  do {
    if (!WaitFor(waiting, [&] { return control_->written.load(std::memory_order_acquire) != done_; })) {
      return absl::UnavailableError(
          StrCat("rank ", peer_, " of the group does not answer: a tensor, ", waiting.seconds, " seconds"));
    }
    const Piece piece = pieces_[done_ % slot_count_];
    if (first) left = tensor_bytes = piece.tensor_bytes;
    if (piece.slot >= slot_count_ || piece.tensor_bytes != tensor_bytes || tensor_bytes < 0) {
      return absl::InternalError(StrCat("rank ", peer_, " of the group: shared memory is damaged"));
    }
    first = false;
    const int64_t bytes = std::min(left, slot_bytes_);
    if (tensor_bytes == awaited && bytes > 0) {
      std::memcpy(out.data() + (awaited - left), SlotOf(static_cast<uint32_t>(piece.slot)), static_cast<size_t>(bytes));
    }
    control_->read.store(++done_, std::memory_order_release);
    left -= bytes;
  } while (left > 0);
  if (tensor_bytes == awaited) return absl::OkStatus();
  return absl::InternalError(StrCat("rank ", peer_, " of the group sent a tensor of ", tensor_bytes, " bytes where ",
                                    awaited, " were awaited; the ranks are out of step"));
}

}  // namespace shoal
