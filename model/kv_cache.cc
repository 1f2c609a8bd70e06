#include "model/kv_cache.h"

#include "base/status_macros.h"
#include "parallel/activation_layout.h"
#include "parallel/memory_model.h"

namespace shoal {

absl::StatusOr<KvCache> AllocateKvCache(const Plan& plan, const RankPlan& rank, Device& device) {
  const int64_t heads = rank.kv_heads.size();
  const int64_t dim = plan.shape.head_dim;
  const int64_t bytes = KvBytes(plan.shape, plan.formats, rank, plan.kv_block_tokens, plan.kv_blocks);
  KvCache cache;
  ASSIGN_OR_RETURN(cache.buffer, device.Allocate(MemoryKind::kKv, bytes));
  std::byte* next = cache.buffer->data();
  const auto take = [&](DType type, int64_t columns) {
    const Tensor t = MakeTensor(next, type, {plan.kv_blocks, heads, plan.kv_block_tokens, columns});
    next += AlignedBytes(t.bytes());
    return t;
  };
  for (int64_t i = 0; i < rank.layers.size(); ++i) {
    KvView view;
    view.k = take(plan.formats.kv, dim);
    view.v = take(plan.formats.kv, dim);
    if (plan.formats.kv == DType::kI8) {
      view.k_scale = take(DType::kF16, dim / kKvGroup);
      view.v_scale = take(DType::kF16, dim / kKvGroup);
    }
    cache.layers.push_back(view);
  }
  SHOAL_CHECK_EQ(next - cache.buffer->data(), bytes);
  return cache;
}

}  // namespace shoal
