// What every call of the server works on.
#pragma once

#include <atomic>
#include <chrono>
#include <string>

#include "engine/engine.h"
#include "model/tokenizer.h"
#include "proto/shoal/v1/inference.pb.h"
#include "server/generate_call.h"
#include "server/prompt.h"
#include "server/stream_registry.h"
#include "server/worker_pool.h"

namespace shoal {

// Made by the composition root. What is pointed to must outlive the server.
struct ServingModel {
  EngineClient* engine = nullptr;
  const Tokenizer* tokenizer = nullptr;
  ChatRenderer render_chat;  // Empty: the model has no chat template.
  GenerationDefaults defaults;
  v1::GetModelInfoResponse info;  // vocab_size and max_context_length are the limits of requests.
  v1::GetPlanResponse plan;       // Its ranks' memory is what GetLoads reports.
};

// Shared by all reactors. Threads: immutable but for the parts that are thread-safe themselves.
struct Serving {
  ServingModel model;
  RequestLimits limits;
  size_t running_max = 320;  // Generate calls that run or wait for it; more are refused at once.
  double stalled_reader_seconds = 30;
  double drain_seconds = 30;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();

  std::atomic<bool> ready{false};  // Requests are taken.
  std::atomic<bool> draining{false};

  // In order of destruction: pools join their threads before the registry goes.
  StreamRegistry streams;
  // Text to ids: seldom, but long for long prompts.
  WorkerPool prompts{2, 4096, size_t{64} << 20};
  // Ids to text. One thread keeps streams in step; the queue holds each open stream at most once.
  // It rests for a moment between rounds, so that tokens which come faster than anyone reads share a message: on a
  // machine without a GPU every message costs compute.
  WorkerPool texts{1, size_t{1} << 20, /*bytes_max=*/0, std::chrono::milliseconds(3)};

  // OK if new requests are taken. Errors: kUnavailable.
  absl::Status CheckServing() const;
  v1::ServerState state() const;
  // Refuses new requests and tells the engine, every time: of several deadlines it takes the earliest.
  void Drain(double deadline_seconds);
};

}  // namespace shoal
