#include "server/generate_reactor.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "server/grpc_status.h"

namespace shoal {
namespace {

// A chunk that has grown to this is not joined with more: clients refuse messages of 4 MiB.
constexpr size_t kChunkTextBytes = 64 << 10;
constexpr int kChunkTokens = 1024;

bool IsFull(size_t text_bytes, int tokens) { return text_bytes >= kChunkTextBytes || tokens >= kChunkTokens; }

bool HasContent(const v1::Chunk& chunk) { return chunk.token_ids_size() > 0 || !chunk.text().empty(); }

void AddLogprobs(const TokenEvent& event, v1::Chunk* chunk) {
  if (event.logprobs.empty()) return;
  v1::PositionLogprobs* position = chunk->add_logprobs();
  for (size_t i = 0; i < event.logprobs.size(); ++i) {
    v1::TokenLogprob* logprob = i == 0 ? position->mutable_token() : position->add_top();
    logprob->set_token_id(event.logprobs[i].id);
    logprob->set_logprob(event.logprobs[i].logprob);
  }
}

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

v1::PerfMetrics MakeMetrics(const TokenEvent& event) {
  const double wall = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const double offset = wall - SteadySeconds();
  const RequestTimes& times = event.times;
  const auto at = [&](double steady) { return steady == 0 ? 0 : steady + offset; };
  const auto span = [](double from, double to) { return from == 0 || to == 0 ? 0 : (to - from) * 1e3; };
  v1::PerfMetrics metrics;
  metrics.set_arrival_time(at(times.arrival));
  metrics.set_first_scheduled_time(at(times.first_scheduled));
  metrics.set_first_token_time(at(times.first_token));
  metrics.set_last_token_time(at(times.last_token));
  metrics.set_queue_ms(span(times.arrival, times.first_scheduled));
  metrics.set_prefill_ms(span(times.first_scheduled, times.first_token));
  metrics.set_decode_ms(span(times.first_token, times.last_token));
  metrics.set_preemptions(event.preemptions);
  return metrics;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerateReactor::Start(Serving* serving,
                                                                       grpc::CallbackServerContext* context,
                                                                       const v1::GenerateRequest& request) {
  auto reactor = std::make_shared<GenerateReactor>(serving, context);
  reactor->self_ = reactor;
  if (const absl::Status status = reactor->Begin(request); !status.ok()) reactor->EndWith(RetryIfFull(status));
  return reactor.get();
}

absl::Status GenerateReactor::Begin(const v1::GenerateRequest& request) {
  RETURN_IF_ERROR(serving_->CheckServing());
  if (context_->deadline() <= std::chrono::system_clock::now()) return CancelledStatus();
  ASSIGN_OR_RETURN(call_, CheckGenerateRequest(request, serving_->limits, serving_->model.defaults));
  seed_ = call_.request.sampling.seed;
  ASSIGN_OR_RETURN(id_, serving_->streams.Add(call_.request_id, weak_from_this(), serving_->running_max));
  if (!serving_->prompts.Submit([self = shared_from_this()] { self->Prepare(); }, request.ByteSizeLong())) {
    return absl::ResourceExhaustedError("too many prompts wait to be read; try again later");
  }
  return absl::OkStatus();
}

void GenerateReactor::Prepare() {
  if (const absl::Status status = SubmitToEngine(); !status.ok()) EndWith(RetryIfFull(status));
}

absl::Status GenerateReactor::SubmitToEngine() {
  {
    std::lock_guard lock(mutex_);
    if (status_) return *status_;
    if (reason_ == Reason::kClientGone) return CancelledStatus();
  }
  ASSIGN_OR_RETURN(std::vector<int32_t> prompt,
                   EncodePrompt(call_.input, *serving_->model.tokenizer, serving_->model.render_chat));
  call_.input = {};
  prompt_tokens_ = prompt.size();
  RETURN_IF_ERROR(SetPrompt(std::move(prompt), serving_->limits, &call_.request));
  text_.emplace(serving_->model.tokenizer, std::move(call_.text));
  ASSIGN_OR_RETURN(
      const RequestId engine_id,
      serving_->model.engine->Submit(std::move(call_.request),
                                     [self = shared_from_this()](const TokenEvent& event) { self->OnToken(event); }));
  bool cancel = false;
  {
    std::lock_guard lock(mutex_);
    engine_id_ = engine_id;
    submitted_ = true;
    cancel = reason_ != Reason::kNone && !engine_done_ && !engine_cancelled_;
    engine_cancelled_ = engine_cancelled_ || cancel;
  }
  if (cancel) serving_->model.engine->Cancel(engine_id);
  return absl::OkStatus();
}

void GenerateReactor::OnToken(const TokenEvent& event) {
  {
    std::lock_guard lock(events_mutex_);
    events_.push_back(event);
    if (std::exchange(scheduled_, true)) return;
  }
  // The queue has room for more streams than can be open; if it had not, the stream ends rather than hangs.
  if (!serving_->texts.Submit([self = shared_from_this()] { self->ProcessEvents(); })) {
    EndWith(absl::ResourceExhaustedError("the server has too many open streams"));
  }
}

void GenerateReactor::ProcessEvents() {
  std::vector<TokenEvent> events;
  {
    std::lock_guard lock(events_mutex_);
    events.swap(events_);
    scheduled_ = false;
  }
  v1::Chunk chunk;
  chunk.set_position(next_position_);
  for (const TokenEvent& event : events) {
    if (IsFull(chunk.text().size(), chunk.token_ids_size())) {
      AppendChunk(std::move(chunk));
      chunk.Clear();
      chunk.set_position(next_position_);
    }
    TakeToken(event, &chunk);
    if (event.finish != Finish::kNone && !std::exchange(text_done_, true)) {
      chunk.mutable_text()->append(text_->Finish());
    }
  }
  if (HasContent(chunk)) AppendChunk(std::move(chunk));
  // Only now: once the outcome is set, the end of a write in flight may finish the call.
  if (!events.empty() && events.back().finish != Finish::kNone) SetOutcome(events.back());
  Pump();
}

void GenerateReactor::TakeToken(const TokenEvent& event, v1::Chunk* chunk) {
  if (event.token < 0 || text_done_) return;
  chunk->add_token_ids(event.token);
  AddLogprobs(event, chunk);
  ++next_position_;
  if (event.finish == Finish::kStop && !text_->include_stop()) {
    text_->Skip();
    return;
  }
  chunk->mutable_text()->append(text_->Push(event.token));
  if (text_->stopped()) {
    text_done_ = true;
    if (event.finish == Finish::kNone) EndEarly(Reason::kStopString);
  }
}

void GenerateReactor::SetOutcome(const TokenEvent& event) {
  std::lock_guard lock(mutex_);
  engine_done_ = true;
  serving_->streams.EngineDone(id_);
  if (status_) return;
  if (event.finish == Finish::kError && reason_ == Reason::kNone) {
    status_ = event.status.ok() ? absl::InternalError("the engine ended the request without a reason") : event.status;
  } else if (reason_ == Reason::kClientGone) {
    status_ = CancelledStatus();
  } else {
    complete_ = MakeComplete(event);
    status_ = absl::OkStatus();
  }
}

v1::Complete GenerateReactor::MakeComplete(const TokenEvent& event) const {
  v1::Complete complete;
  if (text_->stopped()) {
    complete.set_finish_reason(v1::FINISH_REASON_STOP);
    complete.set_matched_stop_str(text_->matched_stop());
  } else if (event.finish == Finish::kStop) {
    complete.set_finish_reason(v1::FINISH_REASON_STOP);
    if (event.matched_stop_id >= 0) complete.set_matched_token_id(event.matched_stop_id);
  } else {
    complete.set_finish_reason(event.finish == Finish::kLength ? v1::FINISH_REASON_LENGTH : v1::FINISH_REASON_ABORT);
  }
  v1::Usage* usage = complete.mutable_usage();
  usage->set_prompt_tokens(static_cast<int64_t>(prompt_tokens_));
  usage->set_completion_tokens(text_->tokens());
  usage->set_total_tokens(static_cast<int64_t>(prompt_tokens_) + text_->tokens());
  *complete.mutable_metrics() = MakeMetrics(event);
  complete.set_request_id(id_);
  complete.set_seed(seed_);
  return complete;
}

void GenerateReactor::AppendChunk(v1::Chunk&& chunk) {
  std::lock_guard lock(mutex_);
  if (finished_) return;
  v1::Chunk* last = outgoing_.empty() ? nullptr : outgoing_.back().mutable_chunk();
  if (last == nullptr ||
      IsFull(last->text().size() + chunk.text().size(), last->token_ids_size() + chunk.token_ids_size())) {
    *outgoing_.emplace_back().mutable_chunk() = std::move(chunk);
    return;
  }
  last->mutable_token_ids()->MergeFrom(chunk.token_ids());
  last->mutable_text()->append(chunk.text());
  last->mutable_logprobs()->MergeFrom(chunk.logprobs());
}

// Starts the next write, or finishes, if nothing is in flight.
void GenerateReactor::Pump() {
  std::lock_guard lock(mutex_);
  if (finished_ || write_in_flight_) return;
  // A client that is gone needs no more text.
  if (!outgoing_.empty() && reason_ != Reason::kClientGone) {
    writing_ = std::move(outgoing_.front());
    outgoing_.pop_front();
    write_in_flight_ = true;
    write_started_ = std::chrono::steady_clock::now();
    StartWrite(&writing_);
  } else if (status_) {
    FinishLocked();
  }
}

void GenerateReactor::FinishLocked() {
  finished_ = true;
  // A client that stopped reading before has been given time already.
  if (!write_in_flight_) write_started_ = std::chrono::steady_clock::now();
  // Before the client can know that the request has ended and use the id again.
  if (!id_.empty()) serving_->streams.Finish(id_);
  if (!status_->ok()) {
    Finish(ToGrpcStatus(*status_));
  } else {
    *writing_.mutable_complete() = *complete_;
    StartWriteAndFinish(&writing_, grpc::WriteOptions(), grpc::Status::OK);
  }
}

// Ends the call now, even behind a write in flight.
void GenerateReactor::EndWith(absl::Status status) {
  std::lock_guard lock(mutex_);
  if (finished_) return;
  status_ = std::move(status);
  outgoing_.clear();
  FinishLocked();
}

// Asks the engine, once, to end the request.
void GenerateReactor::EndEarly(Reason reason) {
  RequestId id = 0;
  {
    std::lock_guard lock(mutex_);
    if (reason_ == Reason::kNone || reason == Reason::kClientGone) reason_ = reason;
    if (!submitted_ || engine_done_ || std::exchange(engine_cancelled_, true)) return;
    id = engine_id_;
  }
  serving_->model.engine->Cancel(id);
}

void GenerateReactor::OnWriteDone(bool ok) {
  if (!ok) EndEarly(Reason::kClientGone);
  {
    std::lock_guard lock(mutex_);
    write_in_flight_ = false;
  }
  Pump();
}

void GenerateReactor::OnCancel() {
  EndEarly(Reason::kClientGone);
  Pump();
}

void GenerateReactor::OnDone() {
  serving_->streams.Remove(this);
  std::shared_ptr<GenerateReactor> self;
  std::lock_guard lock(mutex_);
  // Our last use of `this` is the release of `self`, after the lock: declared first, destroyed last.
  self = std::move(self_);
}

void GenerateReactor::Abort() { EndEarly(Reason::kAborted); }

void GenerateReactor::ForceEnd() {
  EndWith(absl::UnavailableError("the server is shutting down"));
  EndEarly(Reason::kAborted);
}

void GenerateReactor::CheckStalled() {
  {
    std::lock_guard lock(mutex_);
    if (self_ == nullptr || (!write_in_flight_ && !finished_)) return;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - write_started_).count();
    if (finished_) {
      // The end waits behind unread text, or is itself not read. Who does not take it in the same time again is cut
      // off.
      if (seconds >= 2 * serving_->stalled_reader_seconds && !std::exchange(reset_, true)) context_->TryCancel();
      return;
    }
    if (seconds < serving_->stalled_reader_seconds) return;
  }
  EndWith(
      absl::ResourceExhaustedError(StrCat("the client has not read its stream for ", serving_->stalled_reader_seconds,
                                          " seconds (limits.stalled_reader_seconds of the server)")));
  EndEarly(Reason::kStalled);
}

absl::Status GenerateReactor::CancelledStatus() const {
  if (context_->deadline() <= std::chrono::system_clock::now()) {
    return absl::DeadlineExceededError("the deadline of the request passed before it was finished");
  }
  return absl::CancelledError("the client cancelled the request");
}

}  // namespace shoal
