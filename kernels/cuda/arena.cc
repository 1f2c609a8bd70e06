#include "kernels/cuda/arena.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/host_memory.h"

namespace shoal::cuda {
namespace {

constexpr int64_t kAlignment = 256;

// Memory from the driver, freed with its last owner.
struct Piece {
  Piece(std::shared_ptr<Arena::State> state_in, std::byte* data_in, int64_t bytes_in);
  ~Piece();
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;

  std::shared_ptr<Arena::State> state;
  std::byte* data;
  int64_t bytes;
  int64_t used = 0;
};

}  // namespace

struct Arena::State {
  std::shared_ptr<Runtime> runtime;
  MemoryLedger ledger;
  int64_t driver_bytes = 0;
  std::weak_ptr<Piece> open;  // Where small buffers are cut from.
};

namespace {

Piece::Piece(std::shared_ptr<Arena::State> state_in, std::byte* data_in, int64_t bytes_in)
    : state(std::move(state_in)), data(data_in), bytes(bytes_in) {
  state->driver_bytes += bytes;
}

Piece::~Piece() {
  state->driver_bytes -= bytes;
  state->runtime->Free(data);
}

class ArenaBuffer final : public Buffer {
 public:
  ArenaBuffer(std::shared_ptr<Piece> piece, std::byte* data, MemoryKind kind, int64_t bytes)
      : piece_(std::move(piece)), data_(data), kind_(kind), bytes_(bytes) {
    used() += bytes_;
  }
  ~ArenaBuffer() override { used() -= bytes_; }
  std::byte* data() const override { return data_; }

 private:
  int64_t& used() { return piece_->state->ledger.used[static_cast<size_t>(kind_)]; }

  std::shared_ptr<Piece> piece_;
  std::byte* data_;
  MemoryKind kind_;
  int64_t bytes_;
};

}  // namespace

Arena::Arena(std::shared_ptr<Runtime> runtime, int64_t budget) : state_(std::make_shared<State>()) {
  state_->runtime = std::move(runtime);
  state_->ledger.budget = budget;
}

const MemoryLedger& Arena::ledger() const { return state_->ledger; }
int64_t Arena::driver_bytes() const { return state_->driver_bytes; }

absl::StatusOr<std::unique_ptr<Buffer>> Arena::Allocate(MemoryKind kind, int64_t bytes, bool alone) {
  SHOAL_CHECK_GE(bytes, 0);
  const MemoryLedger& ledger = state_->ledger;
  const int64_t left = ledger.budget == 0 ? std::numeric_limits<int64_t>::max() : ledger.budget - ledger.total();
  if (bytes > left || bytes > std::numeric_limits<int64_t>::max() / 2) {
    return absl::ResourceExhaustedError(
        StrCat("out of memory: ", bytes, " bytes of ", MemoryKindName(kind), " wanted, ", left, " left"));
  }
  const int64_t driver_unit = state_->runtime->info().allocation_unit;
  const bool shared = !alone && bytes < kArenaShared && driver_unit > kAlignment;
  const int64_t unit = shared ? kAlignment : driver_unit;
  const int64_t aligned = (std::max<int64_t>(bytes, shared) + unit - 1) / unit * unit;
  std::shared_ptr<Piece> piece = shared ? state_->open.lock() : nullptr;
  if (piece == nullptr || piece->bytes - piece->used < aligned) {
    // The last piece is no larger than what the budget has left, so that the driver gives what the ledger shows.
    const int64_t rest = ledger.budget == 0 ? kArenaPiece : ledger.budget - state_->driver_bytes;
    int64_t size = shared ? std::clamp(rest, aligned, std::max(aligned, kArenaPiece)) : aligned;
    absl::StatusOr<std::byte*> data = state_->runtime->Allocate(size);
    if (!data.ok() && size > aligned) data = state_->runtime->Allocate(size = aligned);
    if (!data.ok()) {
      return absl::ResourceExhaustedError(
          StrCat("out of memory: ", bytes, " bytes of ", MemoryKindName(kind), " wanted; ", data.status().message()));
    }
    piece = std::make_shared<Piece>(state_, *data, size);
    if (shared) state_->open = piece;
  }
  std::byte* const data = piece->data + piece->used;
  piece->used += aligned;
  return std::make_unique<ArenaBuffer>(std::move(piece), data, kind, bytes);
}

}  // namespace shoal::cuda
