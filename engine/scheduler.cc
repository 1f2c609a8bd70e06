#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace shoal {
namespace {

// Splitting a prompt over the pipeline pays only while a chunk still keeps a stage busy.
constexpr int64_t kPrefillChunkMin = 32;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), blocks_(options.kv_blocks, options.kv_block_tokens) {
  SHOAL_CHECK_GT(options.max_sequences, 0);
  SHOAL_CHECK_GT(options.max_step_tokens, 0);
  SHOAL_CHECK_GT(options.prefill_chunk_tokens, 0);
  SHOAL_CHECK_GT(options.depth, 0);
}

void Scheduler::Add(RequestId id, Request request) {
  std::unique_ptr<Sequence> sequence = MakeSequence(id, next_arrival_++, std::move(request));
  SHOAL_CHECK_GT(sequence->prompt_tokens, 0);
  SHOAL_CHECK_GT(sequence->request.max_tokens, sequence->output_tokens());
  // The last token of the output is never computed on.
  SHOAL_CHECK_LE(blocks_.BlocksFor(sequence->prompt_tokens + sequence->request.max_tokens - 1), blocks_.num_blocks());
  waiting_.insert(sequence.get());
  SHOAL_CHECK(sequences_.emplace(id, std::move(sequence)).second);
}

void Scheduler::End(RequestId id) {
  const auto it = sequences_.find(id);
  SHOAL_CHECK(it != sequences_.end());
  Sequence& sequence = *it->second;
  SHOAL_CHECK(!sequence.ended);
  sequence.ended = true;
  if (sequence.steps_in_flight == 0) Release(sequence);
}

std::optional<Scheduler::Step> Scheduler::Schedule() {
  if (static_cast<int>(in_flight_.size()) >= options_.depth) return std::nullopt;
  Step step;
  InFlight flight;
  step.plan.query_start.push_back(0);
  step.plan.block_start.push_back(0);
  flight.step = step.plan.step = next_step_;
  AddDecodes(step, flight);
  AddPrefills(step, flight);
  if (step.plan.num_tokens() == 0) return std::nullopt;

  for (const Sequence* sequence : flight.sampled) {
    const int needed = sequence->candidates_needed();
    if (sequence == flight.sampled.front()) step.plan.candidates = needed;
    const bool all = needed == 0 || step.plan.candidates == 0;
    step.plan.candidates = all ? 0 : std::max(step.plan.candidates, needed);
  }
  ++next_step_;
  prefill_tokens_in_flight_ += flight.prefill_tokens;
  in_flight_.push_back(std::move(flight));
  return step;
}

void Scheduler::AddDecodes(Step& step, InFlight& flight) {
  std::vector<Sequence*> ready;
  int64_t decoding = 0;
  bool prompts = !waiting_.empty() && num_running() < options_.max_sequences;
  for (Sequence* sequence : running_) {
    if (sequence->ended) continue;
    if (sequence->pending() > 1) {
      prompts = true;
      continue;
    }
    ++decoding;
    if (sequence->pending() == 1) ready.push_back(sequence);
  }
  // Stable: those of one step stay in order of (priority, arrival).
  std::stable_sort(ready.begin(), ready.end(),
                   [](const Sequence* a, const Sequence* b) { return a->last_step < b->last_step; });
  // Decodes never take so much of a step that prompts, which hold their blocks already, stand still.
  const int64_t kept_back = prompts ? std::min<int64_t>(kPrefillChunkMin, options_.max_step_tokens / 2) : 0;
  const int64_t share = std::min<int64_t>(CeilDiv(decoding, options_.depth), options_.max_step_tokens - kept_back);
  for (Sequence* sequence : ready) {
    if (step.plan.num_sequences() >= share) break;
    if (sequence->blocks.empty()) continue;  // Preempted since by one before it in this loop.
    if (GrowOrPreempt(*sequence)) AddTokens(*sequence, 1, step, flight);
  }
}

void Scheduler::AddPrefills(Step& step, InFlight& flight) {
  std::vector<Sequence*> prompts;
  for (Sequence* sequence : running_) {
    if (!sequence->ended && sequence->pending() > 1) prompts.push_back(sequence);
  }
  int64_t budget = PrefillBudget(step.plan.num_tokens());
  size_t next = 0;
  bool may_admit = true;
  while (budget > 0) {
    Sequence* sequence = next < prompts.size() ? prompts[next] : nullptr;
    if (may_admit && !waiting_.empty() && (sequence == nullptr || RunsBefore(**waiting_.begin(), *sequence))) {
      sequence = Admit(step);
      if (sequence == nullptr) {
        may_admit = false;  // Nobody overtakes the first of the queue.
        continue;
      }
    } else if (sequence != nullptr) {
      ++next;
    } else {
      break;
    }
    const int64_t count = std::min(budget, sequence->pending());
    AddTokens(*sequence, count, step, flight);
    flight.prefill_tokens += count;
    budget -= count;
  }
}

int64_t Scheduler::PrefillBudget(int64_t step_tokens) const {
  const int64_t chunk_max = options_.prefill_chunk_tokens;
  const int64_t enough = chunk_max * options_.depth;
  // All prompt tokens in sight, dealt evenly over the micro-batches.
  int64_t tokens = prefill_tokens_in_flight_;
  for (const Sequence* sequence : running_) {
    if (!sequence->ended && sequence->pending() > 1) tokens += sequence->pending();
  }
  for (auto it = waiting_.begin(); it != waiting_.end() && tokens < enough; ++it) tokens += (*it)->pending();
  const int64_t even = std::max(CeilDiv(tokens, options_.depth), kPrefillChunkMin);
  return std::min({even, chunk_max, options_.max_step_tokens - step_tokens});
}

Sequence* Scheduler::Admit(Step& step) {
  if (num_running() >= options_.max_sequences) return nullptr;
  Sequence* sequence = *waiting_.begin();
  const auto tokens = static_cast<int64_t>(sequence->tokens.size());
  if (blocks_.num_free() < blocks_.BlocksFor(tokens) + num_running()) return nullptr;
  SHOAL_CHECK(blocks_.Grow(tokens, sequence->blocks));
  waiting_.erase(waiting_.begin());
  running_.insert(sequence);
  step.admitted.push_back(sequence->id);
  return sequence;
}

void Scheduler::AddTokens(Sequence& sequence, int64_t count, Step& step, InFlight& flight) {
  StepPlan& plan = step.plan;
  const int block_tokens = blocks_.block_tokens();
  for (int64_t position = sequence.scheduled; position < sequence.scheduled + count; ++position) {
    plan.ids.push_back(sequence.tokens[position]);
    plan.positions.push_back(static_cast<int32_t>(position));
    plan.kv_slots.push_back(sequence.blocks[position / block_tokens] * block_tokens +
                            static_cast<int32_t>(position % block_tokens));
  }
  sequence.scheduled += count;
  sequence.last_step = plan.step;
  ++sequence.steps_in_flight;
  plan.query_start.push_back(plan.num_tokens());
  plan.context_len.push_back(static_cast<int32_t>(sequence.scheduled));
  const int64_t seen_blocks = blocks_.BlocksFor(sequence.scheduled);  // Blocks for the rest of the prompt stay out.
  plan.blocks.insert(plan.blocks.end(), sequence.blocks.begin(), sequence.blocks.begin() + seen_blocks);
  plan.block_start.push_back(static_cast<int32_t>(plan.blocks.size()));
  flight.sequences.push_back(&sequence);
  if (sequence.pending() == 0) {
    plan.sample_rows.push_back(plan.num_tokens() - 1);
    flight.sampled.push_back(&sequence);
  }
}

bool Scheduler::GrowOrPreempt(Sequence& sequence) {
  while (!blocks_.Grow(static_cast<int64_t>(sequence.tokens.size()), sequence.blocks)) {
    Sequence* victim = nullptr;
    for (auto it = running_.rbegin(); it != running_.rend() && *it != &sequence; ++it) {
      if ((*it)->steps_in_flight == 0) {
        victim = *it;
        break;
      }
    }
    // The later ones are all in flight, or there is none: blocks come back with a step, or when an earlier one ends.
    if (victim == nullptr) return false;
    Preempt(*victim);
  }
  return true;
}

void Scheduler::Preempt(Sequence& victim) {
  SHOAL_CHECK_EQ(victim.steps_in_flight, 0);
  blocks_.Free(victim.blocks);
  victim.scheduled = 0;
  ++victim.preemptions;
  ++preemptions_;
  running_.erase(&victim);
  waiting_.insert(&victim);  // Before all of its priority that came later.
}

std::vector<Sequence*> Scheduler::Complete(uint64_t step) {
  SHOAL_CHECK(!in_flight_.empty());
  InFlight flight = std::move(in_flight_.front());
  in_flight_.pop_front();
  SHOAL_CHECK_EQ(flight.step, step);
  prefill_tokens_in_flight_ -= flight.prefill_tokens;
  for (Sequence*& sequence : flight.sampled) {
    if (sequence->ended) sequence = nullptr;
  }
  for (Sequence* sequence : flight.sequences) {
    SHOAL_CHECK_GT(sequence->steps_in_flight, 0);
    if (--sequence->steps_in_flight == 0 && sequence->ended) Release(*sequence);
  }
  return std::move(flight.sampled);
}

void Scheduler::Append(Sequence& sequence, int32_t token) {
  SHOAL_CHECK(!sequence.ended);
  SHOAL_CHECK_EQ(sequence.pending(), 0);
  sequence.Append(token);
}

const Sequence* Scheduler::Find(RequestId id) const {
  const auto it = sequences_.find(id);
  return it == sequences_.end() || it->second->ended ? nullptr : it->second.get();
}

void Scheduler::Release(Sequence& sequence) {
  blocks_.Free(sequence.blocks);
  waiting_.erase(&sequence);
  running_.erase(&sequence);
  sequences_.erase(sequence.id);
}

}  // namespace shoal
