// Counts the bytes that several threads read, for a listener on one of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

#include "absl/status/status.h"

namespace shoal {

// Called with the bytes done so far and in all, by the thread that began the work. An error ends the work, which then
// returns it.
using LoadProgress = std::function<absl::Status(int64_t done, int64_t total)>;

class ReadCounter {
 public:
  // `progress` may be null. Only the thread that makes the counter calls it.
  ReadCounter(const LoadProgress& progress, int64_t total) : progress_(progress), total_(total) {}

  // Any thread.
  absl::Status Add(int64_t bytes) {
    const int64_t done = done_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    return std::this_thread::get_id() == owner_ ? Report(done) : absl::OkStatus();
  }
  // For the owner, at the end: other threads may have counted the last bytes.
  absl::Status Finish() { return Report(done_); }

 private:
  absl::Status Report(int64_t done) {
    if (!progress_ || done == reported_) return absl::OkStatus();
    reported_ = done;
    return progress_(done, total_);
  }

  const LoadProgress& progress_;
  const int64_t total_;
  const std::thread::id owner_ = std::this_thread::get_id();
  std::atomic<int64_t> done_{0};
  int64_t reported_ = -1;  // The owner's.
};

}  // namespace shoal
