#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/check.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

// How long a thread watches for a change before it gives its core away, and before it sleeps. Between two phases of a
// step lie a few microseconds. With more threads than cores the one we wait for may need our core: hence the yields.
constexpr std::chrono::microseconds kSpin{10};
constexpr std::chrono::microseconds kYield{80};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Returns once `value` is no longer `old`.
void WaitWhile(const std::atomic<int>& value, int old) {
  const Clock::time_point start = Clock::now();
  for (Clock::duration waited{}; waited < kYield; waited = Clock::now() - start) {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      Pause();
    }
    if (waited >= kSpin) sched_yield();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

// Where the share of a worker begins: shares are contiguous, of whole grains, as equal as they can be.
int64_t ShareBegin(int64_t n, int64_t grain, int worker, int workers) {
  const int64_t grains = (n + grain - 1) / grain;
  return std::min(grains * worker / workers * grain, n);
}

// Where the next piece of a worker's share begins.
struct alignas(64) NextPiece {
  std::atomic<int64_t> begin{0};
};

}  // namespace

struct ThreadPool::State {
  // On lines of their own: workers poll `round`, and count `running` down, while the others work.
  alignas(64) std::atomic<int> round{0};
  alignas(64) std::atomic<int> running{0};
  const std::function<void(int)>* work = nullptr;  // Written before `round` changes; null ends the workers.
  std::vector<std::thread> workers;
  std::vector<NextPiece> next;  // By worker, of BalancedFor.

  void Work(int worker) {
    for (int seen = 0;;) {
      WaitWhile(round, seen);
      seen = round.load(std::memory_order_acquire);
      if (work == nullptr) return;
      (*work)(worker);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }

  // Lets all workers do `next`.
  void Start(const std::function<void(int)>* next) {
    work = next;
    running.store(static_cast<int>(workers.size()), std::memory_order_relaxed);
    // Unsigned arithmetic inside: wraps after 2^32 rounds, and only a change matters.
    round.fetch_add(1, std::memory_order_acq_rel);
    round.notify_all();
  }

  // Waits until no worker is running.
  void Join() {
    for (int left = running.load(std::memory_order_acquire); left != 0;
         left = running.load(std::memory_order_acquire)) {
      WaitWhile(running, left);
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  SHOAL_CHECK_GE(threads, 1);
  state_->next = std::vector<NextPiece>(threads);
  for (int i = 1; i < threads; ++i) {
    state_->workers.emplace_back([state = state_.get(), i] { state->Work(i); });
  }
}

ThreadPool::~ThreadPool() {
  state_->Start(nullptr);
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::Run(const std::function<void(int worker)>& work) {
  if (state_->workers.empty()) {
    work(0);
    return;
  }
  state_->Start(&work);
  work(0);
  state_->Join();
}

void ThreadPool::ParallelFor(int64_t n, int64_t grain,
                             const std::function<void(int64_t begin, int64_t end, int worker)>& work) {
  SHOAL_CHECK_GE(grain, 1);
  if (n <= 0) return;
  if (n <= grain || state_->workers.empty()) {
    work(0, n, 0);
    return;
  }
  const int count = threads();
  Run([&](int worker) {
    const int64_t begin = ShareBegin(n, grain, worker, count), end = ShareBegin(n, grain, worker + 1, count);
    if (begin < end) work(begin, end, worker);
  });
}

void ThreadPool::BalancedFor(int64_t n, int64_t grain,
                             const std::function<void(int64_t begin, int64_t end, int worker)>& work) {
  SHOAL_CHECK_GE(grain, 1);
  if (n <= 0) return;
  if (n <= grain || state_->workers.empty()) {
    work(0, n, 0);
    return;
  }
  const int count = threads();
  for (int i = 0; i < count; ++i) {
    state_->next[i].begin.store(ShareBegin(n, grain, i, count), std::memory_order_relaxed);
  }
  Run([&](int worker) {
    for (int i = 0; i < count; ++i) {
      const int owner = (worker + i) % count;
      const int64_t end = ShareBegin(n, grain, owner + 1, count);
      std::atomic<int64_t>& next = state_->next[owner].begin;
      for (int64_t begin = next.fetch_add(grain, std::memory_order_relaxed); begin < end;
           begin = next.fetch_add(grain, std::memory_order_relaxed)) {
        work(begin, std::min(begin + grain, end), worker);
      }
    }
  });
}

}  // namespace shoal
