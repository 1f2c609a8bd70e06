// What the MPI implementations of World and Communicator share. Include only from parallel/mpi_*.cc.
#pragma once

// The withdrawn C++ bindings would need a library of their own.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "parallel/backoff.h"
#include "parallel/mpi_world.h"
#include "parallel/world.h"

namespace shoal {

// OK for MPI_SUCCESS, else kUnavailable with MPI's text: "MPI_Improbe: ...".
absl::Status MpiStatus(int code, std::string_view call);

// Waits until `look` (-> StatusOr<bool>) is true, backing off between looks. Every MPI call moves all transfers of the
// process forward, so a wait for one message also pumps the sends still under way.
template <typename Look>
absl::Status WaitUntil(const BackoffPolicy& policy, Look look) {
  Backoff backoff(policy);
  while (true) {
    ASSIGN_OR_RETURN(const bool done, look());
    if (done) return absl::OkStatus();
    backoff.Pause();
  }
}

// Waits for all of `requests`, which then are null.
absl::Status WaitAll(const BackoffPolicy& policy, std::span<MPI_Request> requests);

// Messages up to this size go out at once, into memory that the receiver shares; a larger one moves on only while its
// sender is inside MPI, which it leaves for a whole stage's computing. So tensors, and the logits among the messages of
// World, travel in pieces of this size.
// MpiWorld::Create sets Open MPI's limit to it, unless the environment says otherwise.
constexpr size_t kEagerBytesMax = size_t{64} << 10;
constexpr size_t kPieceBytes = kEagerBytesMax - 1024;  // The rest is for MPI's headers.

// Messages to one receiver that it has not begun to read, in buffers of their own. Synchronous sends (MPI_Issend) are
// complete only when the receive has begun, so what is outstanding is what is unread.
class Outbox {
 public:
  // Queues a copy of `bytes` in pieces of at most kPieceBytes, one at least. `with_length`: the first piece begins with
  // the message's length, 8 bytes, for a receiver that does not know it. The caller has made room.
  absl::Status Send(MPI_Comm comm, int to, int tag, std::span<const std::byte> bytes, bool with_length);
  // Frees what has been read.
  absl::Status Reap();
  // Waits until fewer than `limit` messages are unread. Errors: kUnavailable after `seconds` (0: wait for ever).
  absl::Status WaitBelow(const BackoffPolicy& policy, int limit, double seconds, int to);
  // Messages, not pieces.
  int unread() const { return static_cast<int>(std::count(is_last_.begin(), is_last_.end(), true)); }

 private:
  absl::Status SendPiece(MPI_Comm comm, int to, int tag, std::span<const std::byte> head,
                         std::span<const std::byte> bytes, bool is_last);

  std::vector<MPI_Request> requests_;
  std::vector<std::vector<std::byte>> buffers_;  // Of the request at the same place.
  std::vector<bool> is_last_;                    // It is a message's last piece.
  std::vector<std::vector<std::byte>> spare_;    // Buffers to use again.
};

struct MpiWorld::Impl {
  MPI_Comm comm = MPI_COMM_NULL;  // A duplicate of MPI_COMM_WORLD that returns errors.
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  int local_size = 1;
  int core_sharers = 1;
  int core_share = 0;
  BackoffPolicy policy;
  WorldLimits limits;
  std::vector<Outbox> outboxes;  // By receiver.
  bool finalized = false;
};

}  // namespace shoal
