#include "parallel/plan_cost.h"

#include "parallel/memory_model.h"

namespace shoal {
namespace {

// Bytes of one token's keys and values in all layers of the rank.
int64_t KvTokenBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank) {
  const int64_t values = 2 * rank.layers.size() * rank.kv_heads.size() * shape.head_dim;
  return values * SizeOf(formats.kv) + (formats.kv == DType::kI8 ? values / kKvGroup * SizeOf(DType::kF16) : 0);
}

}  // namespace

StepCost CostOfStep(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank, int64_t sequences,
                    int64_t tokens, int64_t context, int64_t sampled) {
  StepCost cost;
  cost.bytes = rank.layers.size() * LayerWeightBytes(shape, formats, rank);
  if (sampled > 0) cost.bytes += HeadWeightBytes(shape, formats, rank);
  cost.bytes += sequences * (context + tokens) * KvTokenBytes(shape, formats, rank);
  const int64_t attention = (rank.heads.size() + 2 * rank.kv_heads.size()) * shape.head_dim;
  const int64_t layer =
      shape.hidden * attention + rank.heads.size() * shape.head_dim * shape.hidden + 3 * shape.hidden * rank.ffn.size();
  cost.ops = 2 * sequences * tokens * rank.layers.size() * layer;
  cost.ops += 2 * sampled * shape.hidden * rank.vocab.size();
  return cost;
}

}  // namespace shoal
