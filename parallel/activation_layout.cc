#include "parallel/activation_layout.h"

#include <initializer_list>
#include <utility>

namespace shoal {
namespace {

// The forms an Activation needs to be read by weights of these formats.
struct Forms {
  bool dense = false;
  bool quantized = false;
};

Forms FormsFor(std::initializer_list<WeightFormat> formats) {
  Forms forms;
  for (WeightFormat format : formats) (IsQuantized(format) ? forms.quantized : forms.dense) = true;
  return forms;
}

void AddActivation(const std::string& name, int64_t rows, int64_t cols, int64_t group, const Forms& forms,
                   std::vector<BufferSpec>& out) {
  if (forms.dense) out.push_back({name + ".dense", rows, cols, DType::kF32});
  if (!forms.quantized) return;
  out.push_back({name + ".q", rows, cols, DType::kI8});
  out.push_back({name + ".scale", rows, cols / group, DType::kF32});
  out.push_back({name + ".sum", rows, cols / kWeightGroup, DType::kI32});
}

}  // namespace

std::vector<BufferSpec> ActivationBuffers(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank,
                                          int max_step_tokens, int max_sequences, int64_t max_context,
                                          int kv_block_tokens) {
  const int64_t T = max_step_tokens;
  const int64_t S = max_sequences;
  const int64_t E = shape.hidden;
  const int64_t D = shape.head_dim;
  const int64_t H = rank.heads.size();
  const int64_t K = rank.kv_heads.size();
  const int64_t F = rank.ffn.size();
  const int64_t blocks = (max_context + kv_block_tokens - 1) / kv_block_tokens;

  std::vector<BufferSpec> out = {
      {"ids", 1, T, DType::kI32},         {"positions", 1, T, DType::kI32},
      {"slots", 1, T, DType::kI32},       {"query_start", 1, S + 1, DType::kI32},
      {"context_len", 1, S, DType::kI32}, {"block_table", S, blocks, DType::kI32},
      {"sample_rows", 1, S, DType::kI32}, {"x", T, E, DType::kF32},
      {"delta", T, E, DType::kF64},       {"qkv", T, (H + 2 * K) * D, DType::kF32},
      {"rope_table", T, D, DType::kF32},  {"gate_up", T, 2 * F, DType::kF32},
  };
  // `h` feeds q/k/v and gate/up; the head is counted with them, so that a plan's bytes do not depend on the stage's
  // place.
  AddActivation("h", T, E, HiddenGroup(shape), FormsFor({formats.qkv, formats.gate_up, formats.lm_head}), out);
  // Attention adds up in float whatever is read of it later.
  AddActivation("attended", T, H * D, AttentionGroup(shape),
                {.dense = true, .quantized = IsQuantized(formats.attention_out)}, out);
  AddActivation("ffn", T, F, FfnGroup(shape), FormsFor({formats.down}), out);
  if (rank.vocab.size() > 0) {
    out.push_back({"last_x", S, E, DType::kF32});
    out.push_back({"last_delta", S, E, DType::kF64});
    AddActivation("last_h", S, E, HiddenGroup(shape), FormsFor({formats.lm_head}), out);
    out.push_back({"logits", S, rank.vocab.size(), DType::kF32});
    out.push_back({"candidate_values", S, kCandidatesMax, DType::kF32});
    out.push_back({"candidate_ids", S, kCandidatesMax, DType::kI32});
  }
  return out;
}

int64_t ActivationBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank, int max_step_tokens,
                        int max_sequences, int64_t max_context, int kv_block_tokens) {
  int64_t bytes = 0;
  for (const BufferSpec& buffer :
       ActivationBuffers(shape, formats, rank, max_step_tokens, max_sequences, max_context, kv_block_tokens)) {
    bytes += buffer.bytes();
  }
  return bytes;
}

}  // namespace shoal
