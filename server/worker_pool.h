// A few threads that run small jobs from one bounded queue.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace shoal {

// Thread-safe. Jobs may start in any order on more than one thread; on one thread they run in order of submission.
class WorkerPool {
 public:
  // At most `queue_max` jobs wait. A thread that has emptied the queue starts again `pace` after it began at the
  // earliest: jobs that come meanwhile wait for one another and wake nobody.
  WorkerPool(int threads, size_t queue_max, std::chrono::microseconds pace = std::chrono::microseconds(0));
  // Runs what is queued, then joins.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // False if the queue is full. Never blocks for longer than a push.
  [[nodiscard]] bool Submit(std::function<void()> job);

 private:
  void Work();

  const size_t queue_max_;
  const std::chrono::microseconds pace_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  int sleeping_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace shoal
