// Waiting for another rank without burning a core.
#pragma once

#include <chrono>
#include <cstdint>

namespace shoal {

// How long a wait stays hot: it spins, then yields, then sleeps for an eighth of the time waited so far. So no wait is
// lengthened by more than an eighth, and an idle rank, whose every look costs 10-20 us, looks 400 times a second.
struct BackoffPolicy {
  int64_t spin_us = 40;    // Up to this time of waiting, spins with the pause instruction.
  int64_t yield_us = 300;  // Up to this time, gives the core away between looks.
  int64_t sleep_us_min = 20;
  int64_t sleep_us_max = 2500;
};

// The policy for `local_ranks` ranks on a host whose cores this process may use: a rank that shares its core must not
// spin while the rank it waits for has no core to run on.
BackoffPolicy BackoffFor(int local_ranks);

// The same for waits inside of a step, where another rank is about to answer: they sleep much later.
BackoffPolicy BackoffInStep(BackoffPolicy policy);

// Sleeps of this thread end within about a microsecond of their time instead of the kernel's usual 50.
void SetPreciseSleep();

// One wait: call Pause() between looks.
class Backoff {
 public:
  explicit Backoff(const BackoffPolicy& policy) : policy_(policy), start_(std::chrono::steady_clock::now()) {}

  // Spins, yields or sleeps, by the time waited so far.
  void Pause();

  // Since construction.
  int64_t waited_us() const;

  // The last Pause slept: a good moment for work that need not run at every look.
  bool slept() const { return slept_; }

 private:
  BackoffPolicy policy_;
  std::chrono::steady_clock::time_point start_;
  bool slept_ = false;
};

}  // namespace shoal
