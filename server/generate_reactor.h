// One Generate call, from its request to its final status.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "proto/shoal/v1/inference.pb.h"
#include "server/serving.h"

namespace shoal {

// Threads and what they do here:
//   gRPC      checks the request; OnWriteDone, OnCancel, OnDone
//   prompts   text to ids, Submit
//   engine    OnToken only appends to a queue and wakes `texts`
//   texts     ids to text, stop strings, StartWrite
//   watcher   CheckStalled
// The engine and the pools hold references, so the object lives until the last of them and gRPC are done with it. No
// lock is held while the engine is called. gRPC is called under the lock, so that no write starts once another thread
// has finished the call (gRPC runs reactions on its own threads, never inside these calls). At most one write is in
// flight; what comes meanwhile grows into one chunk, so a client that reads slowly costs memory for its own tokens only
// and nobody waits for it.
class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                              public RegisteredStream,
                              public std::enable_shared_from_this<GenerateReactor> {
 public:
  // `serving` must outlive the gRPC server. The request is copied.
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Start(Serving* serving, grpc::CallbackServerContext* context,
                                                               const v1::GenerateRequest& request);
  GenerateReactor(Serving* serving, grpc::CallbackServerContext* context) : serving_(serving), context_(context) {}

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void Abort() override;
  void CheckStalled() override;
  void ForceEnd() override;

 private:
  // Why the engine was asked to end the request early; the first reason stays.
  enum class Reason { kNone, kClientGone, kAborted, kStopString, kStalled };

  absl::Status Begin(const v1::GenerateRequest& request);
  void Prepare();
  absl::Status SubmitToEngine();
  void OnToken(const TokenEvent& event);
  void ProcessEvents();
  void TakeToken(const TokenEvent& event, v1::Chunk* chunk);
  void SetOutcome(const TokenEvent& event);
  void AppendChunk(v1::Chunk&& chunk);
  void EndEarly(Reason reason);
  void EndWith(absl::Status status);
  void Pump();
  void FinishLocked();
  v1::Complete MakeComplete(const TokenEvent& event) const;
  absl::Status CancelledStatus() const;

  Serving* const serving_;
  grpc::CallbackServerContext* const context_;  // Until OnDone.
  GenerateCall call_;                           // Written before `prompts` runs, then only by it.
  std::string id_;                              // Set once registered.
  uint64_t seed_ = 0;
  size_t prompt_tokens_ = 0;

  // Of the `texts` thread.
  std::optional<TextStream> text_;
  int64_t next_position_ = 0;
  bool text_done_ = false;

  std::mutex events_mutex_;
  std::vector<TokenEvent> events_;  // Not yet looked at; at most max_tokens + 1.
  bool scheduled_ = false;          // A job of ours waits in `texts`.

  std::mutex mutex_;                       // Guards all below.
  std::shared_ptr<GenerateReactor> self_;  // Until OnDone.
  Reason reason_ = Reason::kNone;
  bool submitted_ = false;
  bool engine_done_ = false;
  bool engine_cancelled_ = false;
  RequestId engine_id_ = 0;
  std::deque<v1::GenerateResponse> outgoing_;  // Chunks; the last one grows while a write is in flight.
  v1::GenerateResponse writing_;               // gRPC reads it until OnWriteDone.
  std::optional<v1::Complete> complete_;
  std::optional<absl::Status> status_;  // Set: nothing more will come.
  bool write_in_flight_ = false;
  std::chrono::steady_clock::time_point write_started_;  // Of the write in flight, or of the finish.
  bool finished_ = false;                                // Finish was called.
  bool reset_ = false;  // The call was cut off because its client reads nothing at all.
};

}  // namespace shoal
