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
  // At most `queue_max` jobs wait, and no more than `bytes_max` with them (0: no limit). A thread that has emptied the
  // queue starts again `pace` after it began at the earliest: jobs that come meanwhile wait for one another and wake
  // nobody.
  WorkerPool(int threads, size_t queue_max, size_t bytes_max = 0,
             std::chrono::microseconds pace = std::chrono::microseconds(0));
  // Runs what is queued, then joins.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // `bytes`: memory that the job holds while it waits. False if the queue is full; a job that is larger than the whole
  // queue still gets into an empty one. Never blocks for longer than a push.
  [[nodiscard]] bool Submit(std::function<void()> job, size_t bytes = 0);

 private:
  struct Job {
    std::function<void()> run;
    size_t bytes;
  };

  void Work();

  const size_t queue_max_;
  const size_t bytes_max_;
  const std::chrono::microseconds pace_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  size_t bytes_ = 0;  // Of jobs_.
  int sleeping_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace shoal
