#include "server/worker_pool.h"

#include <utility>

namespace shoal {

WorkerPool::WorkerPool(int threads, size_t queue_max, size_t bytes_max, std::chrono::microseconds pace)
    : queue_max_(queue_max), bytes_max_(bytes_max), pace_(pace) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

WorkerPool::~WorkerPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool WorkerPool::Submit(std::function<void()> job, size_t bytes) {
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    if (stop_ || jobs_.size() >= queue_max_) return false;
    // Subtracted rather than added: `bytes` may be anything.
    if (bytes_max_ > 0 && bytes_ > 0 && (bytes_ >= bytes_max_ || bytes > bytes_max_ - bytes_)) return false;
    jobs_.push_back({std::move(job), bytes});
    bytes_ += bytes;
    wake = sleeping_ > 0;
  }
  // A system call only when somebody sleeps: the engine thread submits for every stream in every step.
  if (wake) wake_.notify_one();
  return true;
}

void WorkerPool::Work() {
  std::unique_lock lock(mutex_);
  auto next_round = std::chrono::steady_clock::now();
  bool paced = true;  // Since the queue was empty.
  while (true) {
    if (jobs_.empty()) {
      if (stop_) return;
      if (!paced) {
        paced = true;
        lock.unlock();
        std::this_thread::sleep_until(next_round);
        lock.lock();
        continue;
      }
      ++sleeping_;
      wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      --sleeping_;
      continue;
    }
    if (paced && pace_.count() > 0) {
      paced = false;
      next_round = std::chrono::steady_clock::now() + pace_;
    }
    std::function<void()> job = std::move(jobs_.front().run);
    bytes_ -= jobs_.front().bytes;
    jobs_.pop_front();
    lock.unlock();
    job();
    job = nullptr;  // What it holds is let go outside of the lock.
    lock.lock();
  }
}

}  // namespace shoal
