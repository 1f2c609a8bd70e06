// The tokenizer that a GGUF file carries in its metadata.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/gguf.h"
#include "model/tokenizer_spec.h"

namespace shoal {

// In a folder that was prepared from a GGUF file: its metadata, with tokenizer and chat template, without tensors.
inline constexpr std::string_view kGgufTokenizerFile = "tokenizer.gguf";

// Byte-level BPE (`tokenizer.ggml.model` "gpt2") with the pre-tokenizers gpt-2, qwen2, deepseek-r1-qwen, llama-bpe and
// deepseek-coder, and SentencePiece-like BPE by scores ("llama"). Text is normalized as the tokenizer.json of these
// models says. Errors: kInvalidArgument for what is missing or does not fit together; kUnimplemented, by name, for
// other kinds.
absl::StatusOr<TokenizerSpec> ReadGgufTokenizer(const GgufMetadata& metadata);

// The GGUF file that has the tokenizer of a model: the model itself, or the one in a prepared folder. Empty if the
// folder has a tokenizer.json or neither.
std::string GgufTokenizerPath(const std::string& model_dir);

}  // namespace shoal
