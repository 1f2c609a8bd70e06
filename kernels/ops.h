// Every operation a decoder needs, once per back end.
//
// Ops are queued in order; inputs come first, outputs last. They return void: a wrong shape is a bug (CHECK), memory is
// reserved before serving, and a device fault surfaces at Device::Synchronize.
//
// Every row of an output depends only on the same row of the inputs (and its sequence's KV), with a fixed order of
// additions: the bits do not depend on the batch, the chunk or the number of threads.
//
// Letters: T tokens in the step, S sequences, E hidden size, H/K this rank's query/KV heads, D head size, F this rank's
// FFN width, V vocabulary, B KV block size. Tensors are f32 unless said otherwise; [T, n] inputs may be column ranges.
#pragma once

#include "kernels/tensor.h"
#include "kernels/weight.h"

namespace shoal {

// Which rows of one step belong together, for attention.
struct AttentionPlan {
  // First token of each sequence, then the total. Sequences of 4 and 3 tokens: [0, 4, 7].
  Tensor query_start;  // [S + 1] i32
  // Keys visible to the sequence's last token, itself included. Its earlier tokens see one less each.
  Tensor context_len;  // [S] i32
  // KV block ids of each sequence, in order of position; entries past ceil(context_len / B) are not read. No block
  // belongs to two sequences of a step.
  Tensor block_table;  // [S, max_blocks] i32
};

// One layer's paged key and value storage on this rank.
struct KvView {
  Tensor k;  // [num_blocks, K, B, D] f32, f16 or i8
  Tensor v;  // [num_blocks, K, B, D] same type
  // i8 only: value = k * k_scale, one scale for kKvGroup values of a head.
  Tensor k_scale = {};  // [num_blocks, K, B, D / kKvGroup] f16
  Tensor v_scale = {};
};

// Head sizes of an i8 cache are multiples of this.
constexpr int64_t kKvGroup = 32;

// CHECKs types, and the scales of an i8 cache.
void CheckKvView(const KvView& cache);

// Query head h of this rank reads this rank's KV head (h + first) / heads_per_kv - kv_first, where all three are
// numbers of the whole model: a shard may begin inside a group of query heads.
struct HeadMap {
  int heads = 0;         // This rank's query heads (H).
  int kv_heads = 0;      // This rank's KV heads (K).
  int first = 0;         // First query head of this rank.
  int kv_first = 0;      // First KV head of this rank.
  int heads_per_kv = 1;  // Query heads per KV head, whole model.
  int head_dim = 0;      // D

  int KvOf(int head) const { return (head + first) / heads_per_kv - kv_first; }
};

class Ops {
 public:
  virtual ~Ops() = default;

  // out[i] = table[ids[i]].   table: [V, E] f32 or bf16; ids: [T] i32, all in [0, V); out: [T, E].
  virtual void Embed(Tensor table, Tensor ids, Tensor out) = 0;

  // out = x / sqrt(mean(x^2) + eps) * gain, row by row.   x: [T, E]; gain: [E]; out: [T, E].
  // Source: Zhang and Sennrich 2019, as in Hugging Face LlamaRMSNorm in float32.
  virtual void RmsNorm(Tensor x, Tensor gain, float eps, const Activation& out) = 0;

  // residual += float(delta), then out = RmsNorm(residual).   delta: [T, E] f64; residual: [T, E].
  virtual void AddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual, const Activation& out) = 0;

  // residual += float(delta).   delta: [T, E] f64; residual: [T, E].
  virtual void AddResidual(Tensor delta, Tensor residual) = 0;

  // RMSNorm of each head on its own, in place (Qwen3).   gain: [D]; heads: [T, n*D].
  virtual void HeadRmsNorm(Tensor gain, float eps, Tensor heads) = 0;

  // out = x W^T + bias.   x: [T, in]; weight: [out, in]; out: [T, out].
  // Quantized: out = bias + scale[row] * sum over groups, in order, by fma, of float(int32 of the group) * x.scale.
  virtual void Linear(const Activation& x, const Weight& weight, Tensor out) = 0;

  // This rank's part of x W^T when ranks hold column ranges of W: out = sum over groups of
  // RoundToQuantum(float(int32) * x.scale * scale[row]), two float products in this order (dense: RoundToQuantum of the
  // group's float dot product). Exact in double, so ranks may add their parts in any order. out: [T, out] f64; no bias.
  virtual void LinearPartial(const Activation& x, const Weight& weight, Tensor out) = 0;

  // out = silu(gate) * up with [gate; up] = x W^T.   weight: [2F, in], gate's rows first; scratch: [T, 2F]; out: [T,
  // F].
  virtual void LinearSiluMul(const Activation& x, const Weight& gate_up, Tensor scratch, const Activation& out) = 0;

  // Row i: cos of positions[i] * inv_freq, then sin, times `scale`.   positions: [T] i32; inv_freq: [D/2]; out: [T, D].
  // The angle is the float product, as Hugging Face computes it: at position 10^5 double would differ by 0.004.
  virtual void RopeTable(Tensor positions, Tensor inv_freq, float scale, Tensor out) = 0;

  // Rotates pairs (i, i + D/2) of each head, in place.   table: [T, D] of RopeTable; heads: [T, n*D], any n.
  // Source: Su et al. 2021, eq. 34, in the half-split order of Hugging Face `rotate_half`.
  virtual void Rope(Tensor table, Tensor heads) = 0;

  // Writes row i of k and v to slot slots[i] = block * B + offset; a negative slot is skipped. To i8, per group: scale
  // = half(max |x| / 127) and q = round-half-even(clamp(x * (1 / scale), -127, 127)); q is 0 where the scale is 0, and
  // where it or a value is not finite, when it becomes NaN.
  //   k, v: [T, K*D]; slots: [T] i32.
  virtual void StoreKv(Tensor k, Tensor v, Tensor slots, KvView cache) = 0;

  // Causal softmax(q k^T / sqrt(D)) v of each token over its own sequence: online over KV blocks in order of position,
  // in partitions (attention_partition.h) that are merged in order.
  //   q: [T, H*D]; out: [T, H*D].
  virtual void Attention(Tensor q, KvView cache, const AttentionPlan& plan, const HeadMap& heads,
                         const Activation& out) = 0;

  // out[i] = x[rows[i]].   rows: [n] i32; x: [T, E] of any type; out: [n, E] of the same type.
  virtual void GatherRows(Tensor x, Tensor rows, Tensor out) = 0;

  // The k largest of each row, largest first, ties to the lowest id; NaN counts as -infinity.   logits: [n, V]; values:
  // [n, k]; ids: [n, k] i32.
  virtual void TopK(Tensor logits, Tensor values, Tensor ids) = 0;
};

}  // namespace shoal
