// One request on its way through the engine: its tokens, how far they are computed, and its KV blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "engine/sampler.h"

namespace shoal {

// Fields are the scheduler's to change; others read them.
struct Sequence {
  RequestId id = 0;
  uint64_t arrival = 0;  // Order of Scheduler::Add.
  Request request;       // Without its prompt and output_prefix, which are in `tokens`.

  std::vector<int32_t> tokens;  // Prompt, then output.
  int64_t prompt_tokens = 0;
  // Tokens [0, scheduled) are in the KV cache or in a step in flight. Equal to tokens.size(): the next token is being
  // made.
  int64_t scheduled = 0;
  int steps_in_flight = 0;
  uint64_t last_step = 0;       // Number of the last step it was in.
  std::vector<int32_t> blocks;  // Of the KV cache, in order of position.
  bool ended = false;           // Nobody wants its tokens; its blocks are freed when no step is in flight.
  int preemptions = 0;
  TokenHistory history;

  int64_t output_tokens() const { return static_cast<int64_t>(tokens.size()) - prompt_tokens; }
  // Tokens whose keys and values nobody has been asked to compute yet.
  int64_t pending() const { return static_cast<int64_t>(tokens.size()) - scheduled; }
  // The stop ids must not be sampled at the next position.
  bool bans_stop_ids() const { return output_tokens() < request.min_tokens && !request.stop_ids.empty(); }
  // What the sampler needs for the next token.
  SampleInput sample_input() const;
  int candidates_needed() const { return CandidatesNeeded(request.sampling, bans_stop_ids()); }

  // Adds a sampled token to the output.
  void Append(int32_t token);
};

// From a validated request (engine/validate.h).
std::unique_ptr<Sequence> MakeSequence(RequestId id, uint64_t arrival, Request request);

// Lower priority value first, then order of arrival.
bool RunsBefore(const Sequence& a, const Sequence& b);

}  // namespace shoal
