// What a Hugging Face folder's config.json and generation_config.json say, or a GGUF file's metadata, checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/plan.h"

namespace shoal {

// Rotary embedding frequencies. kLlama3 rescales low frequencies; kFactors divides each by its own factor.
// Source: transformers modeling_rope_utils `_compute_llama3_parameters`, `_compute_longrope_parameters`; `linear`
// divides all by `factor`.
struct RopeConfig {
  enum class Kind : uint8_t { kDefault, kLinear, kLlama3, kFactors };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_max_position = 8192;
  std::vector<float> factors = {};  // kFactors: [D / 2]
  bool operator==(const RopeConfig&) const = default;
};

struct ModelConfig {
  std::string architecture;  // "Qwen2ForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM"
  std::string model_type;    // "qwen2", "llama", "qwen3"
  ModelShape shape;
  float norm_eps = 1e-6f;
  RopeConfig rope;
  bool tie_word_embeddings = false;
  int64_t max_position_embeddings = 0;
  std::vector<int32_t> eos_token_ids;  // Of generation_config.json if there, else of config.json.
  int32_t bos_token_id = -1;           // -1: none.
  // Sampling defaults of generation_config.json; negative: not given.
  float temperature = -1, top_p = -1, repetition_penalty = -1, min_p = -1;
  int top_k = -1;
  // Settings of generation_config.json ("no_repeat_ngram_size") that would change the output and are not supported.
  std::vector<std::string> ignored_generation_settings;
};

// Reads and checks model_dir/config.json (and generation_config.json if present), or the GGUF file that `model_dir`
// names (it ends in ".gguf"). Every number is bounded before use.
// Errors: kNotFound, kInvalidArgument (file, field, value, what is supported), kUnimplemented for features that would
// change results and are not supported (sliding window in use, attention_bias on o_proj, mlp_bias, other activations or
// rope types).
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);

// The same from the texts of the two files; `generation_text` may be empty. `model_dir` is for the messages.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view text, std::string_view generation_text,
                                             const std::string& model_dir);

// Frequencies of the D/2 rotated pairs.
std::vector<float> RopeInverseFrequencies(const RopeConfig& rope, int64_t head_dim);

}  // namespace shoal
