#include "parallel/memory_model.h"

#include <algorithm>

#include "parallel/activation_layout.h"
#include "parallel/communicator.h"
#include "parallel/shm_communicator.h"

namespace shoal {
namespace {

int64_t VectorBytes(int64_t elements) { return AlignedBytes(elements * SizeOf(DType::kF32)); }

}  // namespace

int64_t LayerWeightBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank) {
  const int64_t D = shape.head_dim;
  const int64_t E = shape.hidden;
  const int64_t qkv_rows = (rank.heads.size() + 2 * rank.kv_heads.size()) * D;
  int64_t bytes = WeightBytes(formats.qkv, qkv_rows, E, shape.qkv_bias);
  bytes += WeightBytes(formats.attention_out, E, rank.heads.size() * D, /*has_bias=*/false);
  bytes += WeightBytes(formats.gate_up, 2 * rank.ffn.size(), E, /*has_bias=*/false);
  bytes += WeightBytes(formats.down, E, rank.ffn.size(), /*has_bias=*/false);
  bytes += 2 * VectorBytes(E);
  if (shape.qk_norm) bytes += 2 * VectorBytes(D);
  return bytes;
}

int64_t HeadWeightBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank) {
  if (rank.vocab.size() == 0) return 0;
  return WeightBytes(formats.lm_head, rank.vocab.size(), shape.hidden, /*has_bias=*/false) + VectorBytes(shape.hidden);
}

int64_t EmbeddingBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank) {
  if (!rank.has_embedding) return 0;
  const DType dtype = formats.embedding == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
  return AlignedBytes(shape.vocab * shape.hidden * SizeOf(dtype));
}

int64_t TotalWeightBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank) {
  return rank.layers.size() * LayerWeightBytes(shape, formats, rank) + HeadWeightBytes(shape, formats, rank) +
         EmbeddingBytes(shape, formats, rank) + VectorBytes(shape.head_dim / 2);
}

int64_t KvBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank, int kv_block_tokens,
                int64_t blocks) {
  const int64_t elements = blocks * rank.kv_heads.size() * kv_block_tokens * shape.head_dim;
  int64_t bytes = AlignedBytes(elements * SizeOf(formats.kv));
  if (formats.kv == DType::kI8) bytes += AlignedBytes(elements / kKvGroup * SizeOf(DType::kF16));
  return rank.layers.size() * 2 * bytes;
}

int64_t CommunicationBytes(const ModelShape& shape, const RankPlan& rank, int next_ranks, int max_step_tokens) {
  int64_t bytes = 0;
  if (rank.tp_size > 1) {
    const int64_t sum = max_step_tokens * shape.hidden * SizeOf(DType::kF64);
    // By MPI or in shared memory: which of them is known only once the memory has been asked for.
    bytes += std::max(rank.tp_size * std::min(sum, kAllReduceChunkBytes), ShmSumBytesPerRank(sum));
  }
  const int receivers = std::max(0, (next_ranks - rank.tp_rank + rank.tp_size - 1) / rank.tp_size);
  // A sender's share of shared memory; MPI's copies of as many tensors take a little less.
  bytes += receivers * ShmHopBytes(max_step_tokens * shape.hidden * SizeOf(DType::kF32));
  return bytes;
}

}  // namespace shoal
