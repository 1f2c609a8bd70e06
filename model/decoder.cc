#include "model/decoder.h"

#include "base/status_macros.h"
#include "parallel/sharded_linear.h"

namespace shoal {
namespace {

// RETURN_IF_ERROR and `return` of a Status mark exactly the lines that talk to another rank.

// From a.h, the block's normalised input, to the ffn's: a.x with the attention's output added, and a.h its norm.
absl::Status AttentionBlock(DecoderContext& c, const LayerWeights& w, KvView kv, const StepInput& in,
                            const Activations& a) {
  const int64_t dim = c.heads.head_dim;
  const Tensor q = a.qkv.Cols(0, c.heads.heads * dim);                       // [T, H*D]
  const Tensor k = a.qkv.Cols(q.cols(), c.heads.kv_heads * dim);             // [T, K*D]
  const Tensor v = a.qkv.Cols(q.cols() + k.cols(), c.heads.kv_heads * dim);  // [T, K*D]
  ColumnParallelLinear(c.ops, a.h, w.qkv, a.qkv);                            // [T, (H + 2K)*D]
  if (!w.q_norm.empty()) {
    c.ops.HeadRmsNorm(w.q_norm, c.config.norm_eps, q);
    c.ops.HeadRmsNorm(w.k_norm, c.config.norm_eps, k);
  }
  c.ops.Rope(a.rope, a.qkv.Cols(0, q.cols() + k.cols()));
  c.ops.StoreKv(k, v, in.kv_slots, kv);
  c.ops.Attention(q, kv, in.attention, c.heads, a.attended);  // [T, H*D]
  return RowParallelLinearAddRmsNorm(c.ops, c.tp, a.attended, w.attention_out, a.delta, w.ffn_norm, c.config.norm_eps,
                                     a.x, a.h);
}

// From a.h to the next layer's a.h. The last layer leaves its output in a.delta: the head needs few rows of the sum,
// the next stage all of it and no norm.
absl::Status FfnBlock(DecoderContext& c, const LayerWeights& w, const LayerWeights* next, const Activations& a) {
  c.ops.LinearSiluMul(a.h, w.gate_up, a.gate_up, a.ffn);                               // [T, F]
  if (next == nullptr) return RowParallelLinear(c.ops, c.tp, a.ffn, w.down, a.delta);  // [T, E], summed over ranks
  return RowParallelLinearAddRmsNorm(c.ops, c.tp, a.ffn, w.down, a.delta, next->attention_norm, c.config.norm_eps, a.x,
                                     a.h);
}

// Final norm and vocabulary head, for the sampled rows only.
void Head(DecoderContext& c, const StepInput& in, const Activations& a) {
  const int64_t n = in.sample_rows.rows();
  if (n == 0) return;
  const Tensor x = c.act.last_x.Rows(n);
  const Tensor delta = c.act.last_delta.Rows(n);
  const Activation h = c.act.last_h.Rows(n);
  c.ops.GatherRows(a.x, in.sample_rows, x);          // [n, E]
  c.ops.GatherRows(a.delta, in.sample_rows, delta);  // [n, E]
  c.ops.AddRmsNorm(delta, c.weights.final_norm, c.config.norm_eps, x, h);
  ColumnParallelLinear(c.ops, h, c.weights.lm_head, c.act.logits.Rows(n));  // [n, V / R]
}

}  // namespace

absl::Status Forward(DecoderContext& c, const StepInput& in) {
  const DecoderWeights& w = c.weights;
  const float eps = c.config.norm_eps;
  const Activations a = c.act.Rows(in.positions.rows());
  const bool is_last_stage = c.rank.vocab.size() > 0;
  if (c.rank.has_embedding) c.ops.Embed(w.embedding, in.ids, a.x);  // [T, E]
  c.ops.RopeTable(in.positions, c.inv_freq, 1.0f, a.rope);          // [T, D]
  c.ops.RmsNorm(a.x, w.layers.front().attention_norm, eps, a.h);
  for (size_t i = 0; i < w.layers.size(); ++i) {
    const LayerWeights& layer = w.layers[i];
    RETURN_IF_ERROR(AttentionBlock(c, layer, c.kv[i], in, a));
    RETURN_IF_ERROR(FfnBlock(c, layer, i + 1 < w.layers.size() ? &w.layers[i + 1] : nullptr, a));
  }
  if (is_last_stage) {
    Head(c, in, a);
  } else {
    c.ops.AddResidual(a.delta, a.x);
  }
  return absl::OkStatus();
}

}  // namespace shoal
