#include "model/kv_cache.h"

#include "base/status_macros.h"

namespace shoal {

absl::StatusOr<KvCache> AllocateKvCache(const Plan& plan, const RankPlan& rank, Device& device) {
  const int64_t heads = rank.kv_heads.size();
  const int64_t dim = plan.shape.head_dim;
  const int64_t bytes =
      plan.kv_blocks * heads * plan.kv_block_tokens * dim * SizeOf(plan.formats.kv);  // k or v, one layer
  KvCache cache;
  ASSIGN_OR_RETURN(cache.buffer, device.Allocate(MemoryKind::kKv, 2 * bytes * rank.layers.size()));
  std::byte* next = cache.buffer->data();
  const auto take = [&] {
    const Tensor t = MakeTensor(next, plan.formats.kv, {plan.kv_blocks, heads, plan.kv_block_tokens, dim});
    next += bytes;
    return t;
  };
  for (int64_t i = 0; i < rank.layers.size(); ++i) {
    KvView view;
    view.k = take();
    view.v = take();
    cache.layers.push_back(view);
  }
  return cache;
}

}  // namespace shoal
