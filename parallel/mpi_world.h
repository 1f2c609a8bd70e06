// World over MPI: the processes that mpirun started.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/world.h"

namespace shoal {

// Ends every process of the job at once with this exit code, from any state and any thread. For the error paths of a
// rank: returning from main instead would leave the others waiting. Exits only this process if MPI is not running.
[[noreturn]] void AbortWorld(int code);

// One per process; the thread that creates it is the only one that may use it. Communicators made from it must be
// destroyed first.
class MpiWorld : public World {
 public:
  // Starts MPI. argc and argv may be null. Errors: kFailedPrecondition (already started), kUnavailable (MPI's own).
  static absl::StatusOr<std::unique_ptr<MpiWorld>> Create(int* argc, char*** argv, const WorldLimits& limits = {});

  // Finalize(); an error is logged, and mpirun then ends the job because this rank left MPI running.
  ~MpiWorld() override;
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  // Waits for all ranks to come here, then stops MPI. Collective; a second call does nothing.
  // Errors: kDeadlineExceeded if some rank does not come, or leaves messages unread, for 15 seconds.
  absl::Status Finalize();

  // Ranks of this host, this one included, that may run on exactly the cores that this one may run on.
  int core_sharers() const;
  // Which of them this one is, in order of rank.
  int core_share() const;

  // Moves transfers of this process forward, as every other call does: for long waits outside of MPI.
  void Progress();

  int rank() const override;
  int size() const override;
  int local_rank() const override;
  int local_size() const override;
  absl::Status Send(int to, Channel channel, std::span<const std::byte> bytes) override;
  absl::StatusOr<std::vector<std::byte>> Receive(int from, Channel channel) override;
  absl::StatusOr<std::optional<Message>> TryReceive(Channel channel) override;
  absl::StatusOr<std::vector<std::vector<std::byte>>> AllGather(std::span<const std::byte> bytes) override;

  // The MPI objects, for parallel/mpi_*.cc only.
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  explicit MpiWorld(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
