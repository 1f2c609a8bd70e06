// An engine without a model: one thread gives every running request one scripted token per step.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace shoal::testing {

class FakeEngine final : public EngineClient {
 public:
  // The token of a request at an output position.
  using Script = std::function<int32_t(const Request& request, int position)>;

  // The output is the prompt, over and over.
  static int32_t Echo(const Request& request, int position) {
    return request.prompt[static_cast<size_t>(position) % request.prompt.size()];
  }

  explicit FakeEngine(Script script = Echo, std::chrono::microseconds step = {}, size_t max_requests = 1000)
      : script_(std::move(script)), step_(step), max_requests_(max_requests), thread_([this] { Run(); }) {}
  ~FakeEngine() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  absl::StatusOr<RequestId> Submit(Request request, TokenCallback on_token) override {
    std::lock_guard lock(mutex_);
    if (state_ != EngineState::kServing) return absl::UnavailableError("the engine is draining");
    if (running_.size() >= max_requests_) return absl::ResourceExhaustedError("the queue is full");
    const RequestId id = next_id_++;
    last_request_ = request;
    running_[id] = {std::move(request), std::move(on_token)};
    wake_.notify_all();
    return id;
  }

  void Cancel(RequestId id) override {
    std::lock_guard lock(mutex_);
    ++cancels_[id];
    const auto found = running_.find(id);
    if (found != running_.end()) found->second.cancelled = true;
    wake_.notify_all();
  }

  void Drain(double deadline_seconds) override {
    std::lock_guard lock(mutex_);
    drain_deadlines_.push_back(deadline_seconds);
    state_ = running_.empty() ? EngineState::kStopped : EngineState::kDraining;
  }

  EngineState state() const override {
    std::lock_guard lock(mutex_);
    return state_;
  }

  EngineLoads loads() const override {
    std::lock_guard lock(mutex_);
    EngineLoads loads;
    loads.num_running = static_cast<int>(running_.size());
    loads.kv_blocks_used = 3;
    loads.kv_blocks_total = 12;
    loads.kv_block_tokens = 32;
    loads.generation_tokens = tokens_;
    loads.stages.resize(2);
    loads.stages[1].busy_fraction = 0.5;
    return loads;
  }

  // Holds all steps while true.
  void Pause(bool pause) {
    std::lock_guard lock(mutex_);
    paused_ = pause;
    wake_.notify_all();
  }
  // Ends every running request with an error, as a dead rank does.
  void Fail(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    failure_ = status;
    wake_.notify_all();
  }

  size_t running() const {
    std::lock_guard lock(mutex_);
    return running_.size();
  }
  uint64_t submitted() const {
    std::lock_guard lock(mutex_);
    return next_id_ - 1;
  }
  // Cancel calls, at most of one request, and in all.
  std::pair<int, int> cancels() const {
    std::lock_guard lock(mutex_);
    std::pair<int, int> most_and_sum{0, 0};
    for (const auto& [id, n] : cancels_) {
      most_and_sum.first = std::max(most_and_sum.first, n);
      most_and_sum.second += n;
    }
    return most_and_sum;
  }
  Request last_request() const {
    std::lock_guard lock(mutex_);
    return last_request_;
  }
  // Of every Drain call.
  std::vector<double> drain_deadlines() const {
    std::lock_guard lock(mutex_);
    return drain_deadlines_;
  }
  // False if it takes longer than 5 seconds until no request runs.
  bool WaitIdle() const {
    for (int i = 0; i < 5000 && running() > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return running() == 0;
  }

 private:
  struct Running {
    Request request;
    TokenCallback on_token;
    int position = 0;
    bool cancelled = false;
  };

  TokenEvent Step(Running& running) {
    TokenEvent event;
    event.times.arrival = 1;
    if (!failure_.ok()) {
      event.finish = Finish::kError;
      event.status = failure_;
      return event;
    }
    if (running.cancelled) {
      event.finish = Finish::kCancelled;
      return event;
    }
    event.token = script_(running.request, running.position);
    event.position = running.position++;
    ++tokens_;
    if (running.request.sampling.top_logprobs >= 0) {
      event.logprobs.push_back({event.token, -0.5f});
      for (int i = 0; i < running.request.sampling.top_logprobs; ++i) event.logprobs.push_back({i, -1.0f});
    }
    for (const int32_t id : running.request.stop_ids) {
      if (id != event.token || running.position <= running.request.min_tokens) continue;
      event.finish = Finish::kStop;
      event.matched_stop_id = id;
      return event;
    }
    if (running.position >= running.request.max_tokens) event.finish = Finish::kLength;
    return event;
  }

  void Run() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      wake_.wait(lock,
                 [this] { return stop_ || (!running_.empty() && (!paused_ || AnyCancelled() || !failure_.ok())); });
      std::vector<std::pair<TokenCallback, TokenEvent>> events;
      for (auto it = running_.begin(); it != running_.end();) {
        if (paused_ && !it->second.cancelled && failure_.ok()) {
          ++it;
          continue;
        }
        events.emplace_back(it->second.on_token, Step(it->second));
        it = events.back().second.finish == Finish::kNone ? std::next(it) : running_.erase(it);
      }
      if (running_.empty() && state_ == EngineState::kDraining) state_ = EngineState::kStopped;
      lock.unlock();
      for (const auto& [on_token, event] : events) on_token(event);
      events.clear();
      if (step_.count() > 0) std::this_thread::sleep_for(step_);
      lock.lock();
    }
  }
  bool AnyCancelled() const {
    for (const auto& [id, running] : running_) {
      if (running.cancelled) return true;
    }
    return false;
  }

  const Script script_;
  const std::chrono::microseconds step_;
  const size_t max_requests_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::map<RequestId, Running> running_;
  std::map<RequestId, int> cancels_;
  Request last_request_;
  std::vector<double> drain_deadlines_;
  RequestId next_id_ = 1;
  uint64_t tokens_ = 0;
  EngineState state_ = EngineState::kServing;
  absl::Status failure_;
  bool paused_ = false;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace shoal::testing
