// Which tokens go into the next step. Pure: queues and block counts in, plans out; no clock, device or threads.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "engine/block_manager.h"
#include "engine/engine.h"
#include "engine/sequence.h"
#include "engine/step_plan.h"

namespace shoal {

struct SchedulerOptions {
  int64_t kv_blocks = 0;
  int kv_block_tokens = 0;
  int max_sequences = 64;
  int max_step_tokens = 512;
  int prefill_chunk_tokens = 256;
  int depth = 1;  // Steps in flight at once.
};

// Continuous batching over `depth` micro-batches.
// - Sequences that make tokens ("decode") are dealt evenly over the micro-batches, least recently run first; one with
//   its next token in flight waits for it. What is left of a step goes to prompts in chunks, by (priority, arrival).
//   Chunks of one prompt may be in flight together: steps keep their order on every rank.
// - A sequence starts when blocks for all its tokens are free, and one more for each running sequence to grow into.
// - When a decode finds no block free, the last running sequence by (priority, arrival) without a step in flight gives
//   up its blocks and waits again, to be computed anew from the very same tokens. Only later sequences make room for
//   earlier ones, so the first one always goes on and every one becomes first in the end.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // Queues a request that fits (BlocksFor(prompt + max_tokens - 1) <= num_blocks: CHECK). `id` must be new.
  void Add(RequestId id, Request request);

  // Ends a request: it gets no more tokens. Its blocks are free at once, or as soon as its steps in flight have come
  // back.
  void End(RequestId id);

  struct Step {
    StepPlan plan;
    std::vector<RequestId> admitted;  // Left the waiting queue with this step (again, after a preemption).
  };
  // The next step, now in flight; none if nothing can run before a step in flight comes back.
  std::optional<Step> Schedule();

  // The oldest step in flight came back. For each of its sampled rows the sequence that gets the token, or null if that
  // was ended. Pointers live until End().
  std::vector<Sequence*> Complete(uint64_t step);

  // The token that the last completed step gave to a sequence.
  void Append(Sequence& sequence, int32_t token);

  // Null if ended or unknown.
  const Sequence* Find(RequestId id) const;

  int num_running() const { return static_cast<int>(running_.size()); }
  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  // No sequence and no step in flight.
  bool empty() const { return sequences_.empty() && in_flight_.empty(); }
  const BlockManager& blocks() const { return blocks_; }
  uint64_t preemptions() const { return preemptions_; }

 private:
  struct Before {
    bool operator()(const Sequence* a, const Sequence* b) const { return RunsBefore(*a, *b); }
  };
  struct InFlight {
    uint64_t step = 0;
    int64_t prefill_tokens = 0;
    std::vector<Sequence*> sequences;  // One entry per sequence of the plan.
    std::vector<Sequence*> sampled;    // One entry per sampled row.
  };

  void AddDecodes(Step& step, InFlight& flight);
  void AddPrefills(Step& step, InFlight& flight);
  void AddTokens(Sequence& sequence, int64_t count, Step& step, InFlight& flight);
  int64_t PrefillBudget(int64_t step_tokens) const;
  // The first of the waiting queue, now running with blocks for all its tokens; null if it must wait.
  Sequence* Admit(Step& step);
  // Makes room for one more token; false if the sequence must wait.
  bool GrowOrPreempt(Sequence& sequence);
  void Preempt(Sequence& victim);
  void Release(Sequence& sequence);

  const SchedulerOptions options_;
  BlockManager blocks_;
  std::unordered_map<RequestId, std::unique_ptr<Sequence>> sequences_;
  std::set<Sequence*, Before> waiting_;
  std::set<Sequence*, Before> running_;  // Ended ones with steps in flight among them.
  std::deque<InFlight> in_flight_;       // Oldest first.
  int64_t prefill_tokens_in_flight_ = 0;
  uint64_t next_arrival_ = 0;
  uint64_t next_step_ = 1;
  uint64_t preemptions_ = 0;
};

}  // namespace shoal
