// Rank 0's watch over the end of the job: signals, and drains that do not come to an end.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string_view>
#include <thread>

#include "engine/engine.h"
#include "server/server.h"

namespace shoal {

// Blocks SIGTERM and SIGINT in this thread and those it starts, so that only a JobWatch sees them; or undoes that.
void BlockEndSignals();
void UnblockEndSignals();

// A thread that takes SIGTERM and SIGINT, which every other thread blocks. While no server runs yet a signal ends the
// job at once; then it drains the server. A rank that is stuck ends the job too, its streams with UNAVAILABLE, then all
// ranks: seen by a step that takes too long, or by a drain whose engine still runs `overrun_seconds` after the
// deadline.
class JobWatch {
 public:
  // `end_job` is called with the reason, on the watch's thread, and should not return: it ends all ranks at once.
  explicit JobWatch(std::function<void(std::string_view why)> end_job, double overrun_seconds = 5);
  ~JobWatch();
  JobWatch(const JobWatch&) = delete;
  JobWatch& operator=(const JobWatch&) = delete;

  // Both must outlive the watch, or the call of Ended().
  void Serving(ShoalServer* server, const EngineClient* engine, double step_seconds_max);
  // The engine has ended, and so will the job: signals change nothing any more.
  void Ended();

 private:
  void Run();
  void OnSignal();
  void CheckDrain();
  void CheckStep();
  void EndStuckJob(std::string_view why);

  const std::function<void(std::string_view)> end_job_;
  const double overrun_seconds_;
  std::mutex mutex_;  // Held while the thread acts, so that Ended() waits for it.
  ShoalServer* server_ = nullptr;
  const EngineClient* engine_ = nullptr;
  double step_seconds_max_ = 0;
  uint64_t steps_ = 0;                                 // Done when last looked at,
  std::chrono::steady_clock::time_point steps_since_;  // and since when there are so many, or nothing to do.
  bool ended_ = false;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace shoal
