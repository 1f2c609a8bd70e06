// Bytes of one rank by kind, from its cuts. The device's ledger must come to the same sums.
#pragma once

#include <cstdint>

#include "parallel/plan.h"

namespace shoal {

// Quantized or dense matrices, biases and norm gains of one layer.
int64_t LayerWeightBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank);

// The vocabulary head's rows and the final norm; 0 where rank.vocab is empty.
int64_t HeadWeightBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank);

// The embedding table, if the rank has it.
int64_t EmbeddingBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank);

// All of the above for the rank's layers, and the table of rotary frequencies.
int64_t TotalWeightBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank);

// Keys and values of `blocks` KV blocks in all of the rank's layers.
int64_t KvBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank, int kv_block_tokens,
                int64_t blocks);

// Buffers of the communicators: others' parts of a sum, and tensors on their way to the `next_ranks` ranks of the next
// stage (0: this is the last), of which rank i receives from rank i mod tp_size of this one.
int64_t CommunicationBytes(const ModelShape& shape, const RankPlan& rank, int next_ranks, int max_step_tokens);

}  // namespace shoal
