// Waiting for a word that another rank writes into shared memory.
#pragma once

#include <functional>

#include "parallel/backoff.h"

namespace shoal {

struct ShmWaiting {
  BackoffPolicy policy;
  double seconds = 10;              // Then the other rank counts as gone.
  std::function<void()> meanwhile;  // If set, called now and then during waits that do not end at once.
};

// Waits until `look` (-> bool, in which the word is loaded with memory_order_acquire) is true. False if it still is not
// after waiting.seconds.
template <typename Look>
bool WaitFor(const ShmWaiting& waiting, Look look) {
  // The clock costs as much as several looks, and a rank in step with this one has written already.
  constexpr int kLooksWithoutClock = 16;
  for (int i = 0; i < kLooksWithoutClock; ++i) {
    if (look()) return true;
  }
  Backoff backoff(waiting.policy);
  while (!look()) {
    const int64_t waited = backoff.waited_us();
    if (static_cast<double>(waited) > waiting.seconds * 1e6) return look();  // This rank may have been stopped.
    if (waited >= waiting.policy.spin_us && waiting.meanwhile) waiting.meanwhile();
    backoff.Pause();
  }
  return true;
}

}  // namespace shoal
