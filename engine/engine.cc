#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/validate.h"

namespace shoal {
namespace {

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// An event without a token.
TokenEvent LastEvent(Finish finish, absl::Status status = absl::OkStatus()) {
  TokenEvent event;
  event.finish = finish;
  event.status = std::move(status);
  return event;
}

// Tokens per second over windows of about a second of work.
class RateMeter {
 public:
  // Work starts (again): time since the last Add does not count.
  void Resume(double now) {
    start_ = now;
    count_ = 0;
  }
  void Add(double now, uint64_t count) {
    count_ += count;
    const double elapsed = now - start_;
    if (elapsed <= 0) return;
    if (elapsed >= kWindowSeconds || rate_ == 0) rate_ = static_cast<double>(count_) / elapsed;
    if (elapsed >= kWindowSeconds) Resume(now);
  }
  double rate() const { return rate_; }

 private:
  static constexpr double kWindowSeconds = 1.0;
  double start_ = 0;
  uint64_t count_ = 0;
  double rate_ = 0;
};

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, Executor& executor, std::function<double()> now)
      : options_(options),
        executor_(executor),
        now_(now ? std::move(now) : SteadySeconds),
        scheduler_({.kv_blocks = options.kv_blocks,
                    .kv_block_tokens = options.kv_block_tokens,
                    .max_sequences = options.max_sequences,
                    .max_step_tokens = options.max_step_tokens,
                    .prefill_chunk_tokens = options.prefill_chunk_tokens,
                    .depth = executor.depth()}) {
    SHOAL_CHECK_GT(options.vocab_size, 0);
    SHOAL_CHECK_GT(options.max_context, 0);
    SHOAL_CHECK_GT(options.max_waiting, 0);
    PublishLoads();
  }

  absl::StatusOr<RequestId> Submit(Request request, TokenCallback on_token) override;
  void Cancel(RequestId id) override;
  void Drain(double deadline_seconds) override;
  EngineState state() const override;
  EngineLoads loads() const override;
  absl::Status Run() override;

 private:
  struct Incoming {
    RequestId id;
    Request request;
    TokenCallback on_token;
    double arrival;
  };
  // A request that has not had its last event.
  struct Active {
    TokenCallback on_token;
    RequestTimes times;
  };

  // Below: the engine thread only. None holds mutex_ while it calls back.
  absl::Status Loop();
  void TakeInputs();
  absl::Status FillPipeline();
  absl::Status ProcessOutput(const StepOutput& output);
  void DeliverToken(Sequence& sequence, const StepOutput::Row& row);
  void EndRequest(RequestId id, TokenEvent event);
  void EndAll(const absl::Status& status);
  void PublishLoads();
  bool StopIfDrained();
  void WaitForInput();
  void Fail(const absl::Status& status);

  const EngineOptions options_;
  Executor& executor_;
  const std::function<double()> now_;

  Scheduler scheduler_;
  std::map<RequestId, Active> active_;  // In order of arrival.
  EngineLoads totals_;                  // Counters only.
  RateMeter rate_;

  mutable std::mutex mutex_;
  std::condition_variable input_;
  // Guarded by mutex_:
  EngineState state_ = EngineState::kServing;
  RequestId next_id_ = 1;
  std::deque<Incoming> incoming_;
  int waiting_ = 0;                            // Requests in the scheduler's queue.
  std::unordered_set<RequestId> cancellable_;  // Not ended, not cancelled: bounds `cancels_`.
  std::vector<RequestId> cancels_;
  std::optional<double> deadline_;  // Of the drain, on now_'s clock.
  EngineLoads loads_;
};

absl::StatusOr<RequestId> EngineImpl::Submit(Request request, TokenCallback on_token) {
  RETURN_IF_ERROR(ValidateRequest(options_, request));
  const double arrival = now_();
  std::lock_guard lock(mutex_);
  if (state_ == EngineState::kFailed) return absl::UnavailableError("the engine has failed; retry on another server");
  if (state_ != EngineState::kServing)
    return absl::UnavailableError("the server is shutting down; retry on another one");
  const int queued = static_cast<int>(incoming_.size()) + waiting_;
  if (queued >= options_.max_waiting) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full with ", queued, " requests; retry later"));
  }
  const RequestId id = next_id_++;
  cancellable_.insert(id);
  incoming_.push_back({id, std::move(request), std::move(on_token), arrival});
  input_.notify_one();
  return id;
}

void EngineImpl::Cancel(RequestId id) {
  std::lock_guard lock(mutex_);
  if (cancellable_.erase(id) == 0) return;
  cancels_.push_back(id);
  input_.notify_one();
}

void EngineImpl::Drain(double deadline_seconds) {
  const double deadline = now_() + std::max(deadline_seconds, 0.0);
  std::lock_guard lock(mutex_);
  if (state_ == EngineState::kServing) state_ = EngineState::kDraining;
  deadline_ = std::min(deadline_.value_or(deadline), deadline);  // A second call can only hurry.
  input_.notify_one();
}

EngineState EngineImpl::state() const {
  std::lock_guard lock(mutex_);
  return state_;
}

EngineLoads EngineImpl::loads() const {
  std::lock_guard lock(mutex_);
  return loads_;
}

absl::Status EngineImpl::Run() {
  if (absl::Status status = Loop(); !status.ok()) {
    Fail(status);
    return status;
  }
  return executor_.Shutdown();
}

absl::Status EngineImpl::Loop() {
  rate_.Resume(now_());
  while (true) {
    TakeInputs();
    RETURN_IF_ERROR(FillPipeline());
    PublishLoads();
    if (executor_.in_flight() > 0) {
      ASSIGN_OR_RETURN(const StepOutput output, executor_.Wait());
      RETURN_IF_ERROR(ProcessOutput(output));
      continue;
    }
    SHOAL_CHECK(scheduler_.empty());  // Work that nothing in flight can unblock would wait for ever.
    if (StopIfDrained()) return absl::OkStatus();
    WaitForInput();
  }
}

// Moves new requests to the scheduler and ends those that were cancelled or are past the drain's deadline.
void EngineImpl::TakeInputs() {
  std::deque<Incoming> incoming;
  std::vector<RequestId> cancels;
  std::optional<double> deadline;
  {
    std::lock_guard lock(mutex_);
    incoming.swap(incoming_);
    cancels.swap(cancels_);
    deadline = deadline_;
    waiting_ = scheduler_.num_waiting() + static_cast<int>(incoming.size());
  }
  for (Incoming& in : incoming) {
    scheduler_.Add(in.id, std::move(in.request));
    active_[in.id] = {.on_token = std::move(in.on_token), .times = {.arrival = in.arrival}};
  }
  for (const RequestId id : cancels) {
    if (active_.contains(id)) EndRequest(id, LastEvent(Finish::kCancelled));
  }
  if (deadline.has_value() && !active_.empty() && now_() >= *deadline) {
    EndAll(absl::UnavailableError("the server shut down before the request was done; retry on another one"));
  }
}

absl::Status EngineImpl::FillPipeline() {
  while (executor_.in_flight() < executor_.depth()) {
    const std::optional<Scheduler::Step> step = scheduler_.Schedule();
    if (!step.has_value()) break;
    const double now = now_();
    for (const RequestId id : step->admitted) {
      RequestTimes& times = active_.at(id).times;
      if (times.first_scheduled == 0) times.first_scheduled = now;
    }
    PublishLoads();  // This rank's own part runs in Submit: who watches us must see what runs, above all if it hangs.
    RETURN_IF_ERROR(executor_.Submit(step->plan));
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::ProcessOutput(const StepOutput& output) {
  if (output.step != totals_.steps + 1) {
    return absl::InternalError(absl::StrCat("the ranks answered step ", output.step, ", not ", totals_.steps + 1));
  }
  const std::vector<Sequence*> sampled = scheduler_.Complete(output.step);
  if (sampled.size() != output.rows.size()) {
    return absl::InternalError(
        absl::StrCat("step ", output.step, " brought ", output.rows.size(), " rows of logits, not ", sampled.size()));
  }
  ++totals_.steps;
  const uint64_t tokens_before = totals_.generation_tokens;
  for (size_t i = 0; i < sampled.size(); ++i) {
    if (sampled[i] != nullptr) DeliverToken(*sampled[i], output.rows[i]);
  }
  rate_.Add(now_(), totals_.generation_tokens - tokens_before);
  return absl::OkStatus();
}

// Samples the next token of a sequence and sends it on.
void EngineImpl::DeliverToken(Sequence& sequence, const StepOutput::Row& row) {
  const RequestId id = sequence.id;
  absl::StatusOr<SampledToken> token = Sample(row, options_.vocab_size, sequence.sample_input());
  if (!token.ok()) {
    LogWarning("request ", id, " ended: ", token.status().ToString());
    EndRequest(id, LastEvent(Finish::kError, token.status()));
    return;
  }
  Active& active = active_.at(id);
  active.times.last_token = now_();
  if (active.times.first_token == 0) {
    active.times.first_token = active.times.last_token;
    totals_.prompt_tokens += sequence.prompt_tokens;
  }
  ++totals_.generation_tokens;
  TokenEvent event;
  event.token = token->id;
  event.position = static_cast<int32_t>(sequence.output_tokens());
  event.logprobs = std::move(token->logprobs);
  scheduler_.Append(sequence, token->id);
  const std::vector<int32_t>& stops = sequence.request.stop_ids;
  if (sequence.output_tokens() >= sequence.request.min_tokens &&
      std::find(stops.begin(), stops.end(), token->id) != stops.end()) {
    event.finish = Finish::kStop;
    event.matched_stop_id = token->id;
  } else if (sequence.output_tokens() >= sequence.request.max_tokens) {
    event.finish = Finish::kLength;
  }
  if (event.finish == Finish::kNone) {
    active.on_token(event);
  } else {
    EndRequest(id, std::move(event));
  }
}

// Sends the last event of a request; its blocks are free at once or when its steps in flight have come back.
void EngineImpl::EndRequest(RequestId id, TokenEvent event) {
  const auto it = active_.find(id);
  SHOAL_CHECK(it != active_.end());
  const Active active = std::move(it->second);
  active_.erase(it);
  event.times = active.times;
  event.preemptions = scheduler_.Find(id)->preemptions;
  scheduler_.End(id);
  switch (event.finish) {
    case Finish::kCancelled:
      ++totals_.requests_cancelled;
      break;
    case Finish::kError:
      ++totals_.requests_failed;
      break;
    default:
      ++totals_.requests_finished;
  }
  {
    std::lock_guard lock(mutex_);
    cancellable_.erase(id);
  }
  active.on_token(event);
}

void EngineImpl::EndAll(const absl::Status& status) {
  while (!active_.empty()) EndRequest(active_.begin()->first, LastEvent(Finish::kError, status));
}

void EngineImpl::PublishLoads() {
  EngineLoads loads = totals_;
  loads.num_running = scheduler_.num_running();
  loads.num_waiting = scheduler_.num_waiting();
  loads.kv_blocks_total = scheduler_.blocks().num_blocks();
  loads.kv_blocks_used = loads.kv_blocks_total - scheduler_.blocks().num_free();
  loads.kv_block_tokens = options_.kv_block_tokens;
  loads.max_context = options_.max_context;
  loads.preemptions = scheduler_.preemptions();
  loads.generation_tokens_per_second = rate_.rate();
  loads.stages = executor_.stage_loads();
  std::lock_guard lock(mutex_);
  waiting_ = loads.num_waiting;
  loads_ = std::move(loads);
}

bool EngineImpl::StopIfDrained() {
  std::lock_guard lock(mutex_);
  if (state_ != EngineState::kDraining || !incoming_.empty()) return false;
  state_ = EngineState::kStopped;
  return true;
}

// Sleeps until another thread brings something.
void EngineImpl::WaitForInput() {
  std::unique_lock lock(mutex_);
  input_.wait(lock, [this] { return !incoming_.empty() || !cancels_.empty() || state_ == EngineState::kDraining; });
  lock.unlock();
  rate_.Resume(now_());
}

// Nothing can run any more: every request ends with the reason, and no new one gets in.
void EngineImpl::Fail(const absl::Status& status) {
  LogError("the engine failed: ", status.ToString());
  {
    std::lock_guard lock(mutex_);
    state_ = EngineState::kFailed;
  }
  TakeInputs();
  // Only these two tell a client the truth: try again, or report it.
  const bool retry = status.code() == absl::StatusCode::kUnavailable;
  EndAll(absl::Status(retry ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal,
                      absl::StrCat("the engine failed: ", status.message())));
  PublishLoads();
}

}  // namespace

std::unique_ptr<Engine> CreateEngine(const EngineOptions& options, Executor& executor, std::function<double()> now) {
  return std::make_unique<EngineImpl>(options, executor, std::move(now));
}

}  // namespace shoal
