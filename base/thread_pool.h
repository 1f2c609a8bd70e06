// A fork-join pool: one caller, fixed workers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace shoal {

// Owned and used by one thread, which is worker 0. Workers sleep when idle for about 0.1 ms; `work` must not throw.
class ThreadPool {
 public:
  // `threads` >= 1 counts the caller. Workers may run where the caller may at this moment (base/cores.h).
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Runs `work(worker)` for worker = 0 .. threads - 1, all at once, and returns when all have returned.
  void Run(const std::function<void(int worker)>& work);

  // Splits [0, n) into contiguous ranges, one per worker, of a multiple of `grain` (the last may be shorter), and runs
  // `work(begin, end, worker)` on each non-empty one.
  void ParallelFor(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end, int worker)>& work);

  // The same shares, but each worker takes its own in pieces of `grain`, in order, and then pieces that are left of the
  // others': a worker that lost its core for a while, or has a slower one, does not hold up the rest.
  void BalancedFor(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end, int worker)>& work);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal
