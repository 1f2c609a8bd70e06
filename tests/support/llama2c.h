// Models of the llama2.c project as Hugging Face folders, for tests with real small weights.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tokenizer_spec.h"

namespace shoal {

// Reads a legacy llama2.c checkpoint and writes config.json and model.safetensors (float32) into `out_dir`. Rows of q
// and k are put into the half-split rotary order.
absl::Status ConvertLlama2c(const std::string& checkpoint, const std::string& out_dir);

// Reads a llama2.c tokenizer: SentencePiece-like merges by score, byte fallback, BOS 1 in front.
absl::StatusOr<TokenizerSpec> ReadLlama2cTokenizer(const std::string& path, int vocab_size);

}  // namespace shoal
