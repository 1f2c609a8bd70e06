// Passes of a model in a LocalCluster, without an engine: prompts in, logits out.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/support/local_cluster.h"

namespace shoal {

struct Prompt {
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;  // Whose logits are wanted, ascending.
};

// Prefills `prompt` into KV blocks first_block, first_block + 1, ... in chunks of `chunk` tokens and returns one row of
// all logits per wanted position. `chunk` 1 is decoding.
absl::StatusOr<std::vector<std::vector<float>>> RunPrompt(const ClusterView& view, const Prompt& prompt, int chunk,
                                                          int first_block = 0);

// As RunPrompt for several prompts side by side, each step holding up to `chunk` tokens of every one that is not
// finished.
absl::StatusOr<std::vector<std::vector<std::vector<float>>>> RunPrompts(const ClusterView& view,
                                                                        const std::vector<Prompt>& prompts, int chunk);

// Prompts of these lengths with ids below `vocab`, drawn from `seed`; the last `wanted` positions of each are wanted.
std::vector<Prompt> DrawPrompts(const std::vector<int>& lengths, int wanted, int vocab, uint32_t seed);

using Logits = std::vector<std::vector<std::vector<float>>>;  // [prompt][position][vocab]

// RunPrompts in a cluster of its own.
absl::StatusOr<Logits> RunPromptsOn(const LocalClusterOptions& options, const std::vector<Prompt>& prompts, int chunk);

// A path of this repository.
std::string SourcePath(const std::string& relative);

}  // namespace shoal
