#include "engine/sequence.h"

#include <algorithm>
#include <utility>

namespace shoal {

SampleInput Sequence::sample_input() const {
  return {.params = request.sampling,
          .history = history,
          .banned_ids = bans_stop_ids() ? std::span<const int32_t>(request.stop_ids) : std::span<const int32_t>(),
          .position = static_cast<uint32_t>(output_tokens())};
}

void Sequence::Append(int32_t token) {
  tokens.push_back(token);
  if (UsesPenalties(request.sampling)) ++history.output_counts[token];
}

std::unique_ptr<Sequence> MakeSequence(RequestId id, uint64_t arrival, Request request) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->arrival = arrival;
  sequence->tokens = std::exchange(request.prompt, {});
  sequence->prompt_tokens = static_cast<int64_t>(sequence->tokens.size());
  const std::vector<int32_t> prefix = std::exchange(request.output_prefix, {});
  sequence->request = std::move(request);
  if (UsesPenalties(sequence->request.sampling)) {
    std::vector<int32_t>& ids = sequence->history.prompt_ids;
    ids = sequence->tokens;
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  }
  for (const int32_t token : prefix) sequence->Append(token);
  return sequence;
}

bool RunsBefore(const Sequence& a, const Sequence& b) {
  if (a.request.priority != b.request.priority) return a.request.priority < b.request.priority;
  return a.arrival < b.arrival;
}

}  // namespace shoal
