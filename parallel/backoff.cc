#include "parallel/backoff.h"

#include <sched.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>

#include "base/cores.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace shoal {
namespace {

void PauseInstruction() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

BackoffPolicy BackoffFor(int local_ranks) {
  BackoffPolicy policy;
  if (local_ranks > CoresAllowed()) {
    policy.spin_us = 0;
    policy.yield_us = 150;
  }
  return policy;
}

BackoffPolicy BackoffInStep(BackoffPolicy policy) {
  // Also ranks that share a core go on yielding: a sleep costs them more than the core's other rank gains.
  policy.yield_us = 5000;
  return policy;
}

void SetPreciseSleep() {
  // Without it a sleep of 20 us takes 70 us. Failing changes speed only.
  (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
}

int64_t Backoff::waited_us() const {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start_).count();
}

void Backoff::Pause() {
  const int64_t waited = waited_us();
  slept_ = false;
  if (waited < policy_.spin_us) {
    for (int i = 0; i < 4; ++i) PauseInstruction();
    return;
  }
  if (waited < policy_.yield_us) {
    sched_yield();
    return;
  }
  const int64_t sleep_us = std::clamp(waited / 8, policy_.sleep_us_min, policy_.sleep_us_max);
  const timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(sleep_us * 1000)};
  nanosleep(&time, nullptr);
  slept_ = true;
}

}  // namespace shoal
