// Checkpoints of known shapes with random weights: for speed work and for tests.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "model/weights.h"

namespace shoal {

// Names that WriteRandomModel knows: "deepseek-r1-distill-qwen-1.5b", "tiny-qwen2", ...
std::vector<std::string_view> RandomModelShapes();

struct RandomModelOptions {
  DType dtype = DType::kBF16;  // kBF16 or kF32
  uint64_t seed = 1;
  int64_t shard_bytes_max = int64_t{4} << 30;
  LoadProgress progress;  // Called with the bytes written so far and in all; may be null.
};

// Writes a folder that loads and serves like the model of that name: its config.json, normal weights of a size that
// keeps activations sane, and a tokenizer of single bytes whose other ids decode to made-up words. The same shape, type
// and seed give the same bytes. `out_dir` must not exist; it appears complete or not at all. Errors:
// kInvalidArgument (unknown shape, with the list); otherwise as PrepareModel.
absl::Status WriteRandomModel(std::string_view shape, const std::string& out_dir,
                              const RandomModelOptions& options = {});

}  // namespace shoal
