// Ranks as threads of one process: World and Communicator through shared memory, for tests and single-process tools.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/world.h"

namespace shoal {

class ThreadPost;

// One rank of RunRanks. Used by its own thread only.
class ThreadRank {
 public:
  ThreadRank(std::shared_ptr<ThreadPost> post, int rank);
  ~ThreadRank();
  ThreadRank(const ThreadRank&) = delete;
  ThreadRank& operator=(const ThreadRank&) = delete;

  int rank() const;
  int size() const;
  World& world() { return *world_; }

  // As CreateMpiCommunicator: every rank calls it, each with its own group, in the same order. It outlives nothing but
  // may be destroyed at any time.
  absl::StatusOr<std::unique_ptr<Communicator>> CreateCommunicator(std::span<const int> group);

  // Makes every wait of every rank return kAborted with this reason, now and for ever.
  void Abort(const absl::Status& reason);

 private:
  std::shared_ptr<ThreadPost> post_;
  int rank_;
  int communicators_ = 0;  // Made so far: gives the next one's streams their number.
  std::unique_ptr<World> world_;
};

// Runs body on `ranks` threads and waits for all of them. A rank that returns an error aborts the others' waits.
// Returns the error of the rank that failed first: "rank 1: ...".
absl::Status RunRanks(int ranks, const std::function<absl::Status(ThreadRank&)>& body, const WorldLimits& limits = {});

}  // namespace shoal
