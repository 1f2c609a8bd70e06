#include "server/job_watch.h"

#include <signal.h>

#include <chrono>
#include <utility>

#include "base/log.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

sigset_t EndSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void BlockEndSignals() {
  const sigset_t set = EndSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void UnblockEndSignals() {
  const sigset_t set = EndSignals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

JobWatch::JobWatch(std::function<void(std::string_view)> end_job, double overrun_seconds)
    : end_job_(std::move(end_job)), overrun_seconds_(overrun_seconds), thread_([this] { Run(); }) {}

JobWatch::~JobWatch() {
  stop_ = true;
  thread_.join();
}

void JobWatch::Serving(ShoalServer* server, const EngineClient* engine, double step_seconds_max) {
  const std::lock_guard lock(mutex_);
  server_ = server;
  engine_ = engine;
  step_seconds_max_ = step_seconds_max;
  steps_since_ = Clock::now();
}

void JobWatch::Ended() {
  const std::lock_guard lock(mutex_);
  server_ = nullptr;
  ended_ = true;
}

void JobWatch::Run() {
  const sigset_t set = EndSignals();
  const timespec look{0, 100'000'000};
  while (!stop_) {
    const bool signalled = sigtimedwait(&set, nullptr, &look) > 0;
    const std::lock_guard lock(mutex_);
    if (ended_) continue;
    if (signalled) OnSignal();
    if (server_ == nullptr) continue;
    CheckDrain();
    if (!ended_) CheckStep();
  }
}

void JobWatch::OnSignal() {
  if (server_ == nullptr) {
    ended_ = true;
    end_job_("stopped while loading: signal received");
    return;
  }
  LogInfo("draining: signal received");
  server_->Drain();
}

void JobWatch::CheckDrain() {
  const std::optional<Clock::time_point> deadline = server_->drain_deadline();
  if (!deadline || Clock::now() < *deadline + std::chrono::duration<double>(overrun_seconds_)) return;
  EndStuckJob(StrCat("the drain is ", overrun_seconds_, " seconds past its deadline and a step has not come back"));
}

void JobWatch::CheckStep() {
  const EngineLoads loads = engine_->loads();
  const Clock::time_point now = Clock::now();
  if (loads.steps != steps_ || loads.num_running == 0) {
    steps_ = loads.steps;
    steps_since_ = now;
  } else if (now - steps_since_ > std::chrono::duration<double>(step_seconds_max_)) {
    EndStuckJob(StrCat("a step has not come back after ", step_seconds_max_, " seconds (limits.step_seconds)"));
  }
}

void JobWatch::EndStuckJob(std::string_view why) {
  ended_ = true;
  server_->Shutdown(/*grace_seconds=*/0);
  end_job_(StrCat(why, ": a rank is stuck or far too slow; ending the job"));
}

}  // namespace shoal
