// Attention: work items and their sharing. Loops: attention_kernels.h.
// Bound: decode, one read of each sequence's K and V; prefill, 4 * D float operations per query head and visible key.
#include <algorithm>
#include <cmath>

#include "kernels/attention_partition.h"
#include "kernels/cpu/cpu_ops.h"

namespace shoal::cpu {
namespace {

// Tokens of one sequence that share each read of K and V.
constexpr int64_t kTileTokens = 16;

}  // namespace

void CpuOps::PlanAttention(const AttentionPlan& plan, const HeadMap& heads, int64_t tokens, int64_t block) {
  items_.clear();
  const int32_t* start = plan.query_start.As<int32_t>();
  const int64_t sequences = plan.context_len.rows();
  SHOAL_CHECK_EQ(start[sequences], tokens);
  // Few sequences and KV heads would leave workers idle: then a group's query heads are split, which costs reading
  // K and V again but changes no bit.
  const int64_t groups = sequences * heads.kv_heads;
  const int64_t parts = tokens > sequences ? 1 : (pool_.threads() + groups - 1) / std::max<int64_t>(groups, 1);
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t begin = start[s], end = start[s + 1];
    const int64_t context = plan.context_len.As<int32_t>()[s];
    SHOAL_CHECK_LE(begin, end);
    SHOAL_CHECK_GE(context, end - begin);
    SHOAL_CHECK_LE(context, plan.block_table.cols() * block);
    for (int head = 0; head < heads.heads;) {
      const int kv_head = heads.KvOf(head);
      SHOAL_CHECK(kv_head >= 0 && kv_head < heads.kv_heads);
      int last = head + 1;
      while (last < heads.heads && heads.KvOf(last) == kv_head) ++last;
      const int64_t each = std::min<int64_t>((last - head + parts - 1) / parts, kAttentionRows);
      const int64_t tile = std::clamp<int64_t>(kAttentionRows / each, 1, kTileTokens);
      for (int64_t first = head; first < last; first += each) {
        for (int64_t t = begin; t < end; t += tile) {
          AttentionItem item{};
          item.blocks = plan.block_table.Row<int32_t>(s);
          item.token = t;
          item.tokens = std::min(tile, end - t);
          item.visible = context - (end - 1 - t);
          item.kv_head = kv_head;
          item.head = first;
          item.heads = std::min<int64_t>(each, last - first);
          items_.push_back(item);
        }
      }
      head = last;
    }
  }
}

void CpuOps::Attention(Tensor q, KvView cache, const AttentionPlan& plan, const HeadMap& heads, const Activation& out) {
  const int64_t tokens = q.rows(), width = static_cast<int64_t>(heads.heads) * heads.head_dim;
  SHOAL_CHECK(q.dtype == DType::kF32 && cache.k.dtype == cache.v.dtype);
  const KvType kv_type = KvTypeOf(cache);
  SHOAL_CHECK_EQ(q.cols(), width);
  SHOAL_CHECK_EQ(cache.k.dims[1], heads.kv_heads);
  SHOAL_CHECK_EQ(cache.k.dims[3], heads.head_dim);
  const ActivationOut to = MakeActivationOut(out, tokens, width);
  PlanAttention(plan, heads, tokens, cache.k.dims[2]);

  AttentionArgs args{};
  args.q = q.As<float>();
  args.q_stride = q.row_stride;
  args.k = cache.k.data;
  args.v = cache.v.data;
  args.kv_type = kv_type;
  args.k_scale = cache.k_scale.As<uint16_t>();
  args.v_scale = cache.v_scale.As<uint16_t>();
  args.kv_heads = heads.kv_heads;
  args.block = cache.k.dims[2];
  args.blocks_per_partition = BlocksPerPartition(static_cast<int>(args.block));
  args.head_dim = heads.head_dim;
  args.scale = 1.0f / std::sqrt(static_cast<float>(heads.head_dim));
  args.out = to.dense;
  args.out_stride = to.dense_stride;
  if (args.out == nullptr) {
    attention_rows_.resize(std::max<size_t>(attention_rows_.size(), tokens * width));
    args.out = attention_rows_.data();
    args.out_stride = width;
  }

  // Items cost in proportion to their context, so each worker takes the next one when it is free.
  next_item_ = 0;
  const auto work = [&](int worker) {
    std::vector<float>& scratch = scratch_[worker];
    scratch.resize(std::max<size_t>(scratch.size(), AttentionScratch(args.head_dim)));
    const int64_t n = static_cast<int64_t>(items_.size());
    for (int64_t i = next_item_++; i < n; i = next_item_++) kernels_.attention(args, items_[i], scratch.data());
  };
  int64_t keys = 0;
  for (const AttentionItem& item : items_) keys += item.tokens * (item.visible + item.tokens) * item.heads;
  if (items_.size() < 2 || keys * args.head_dim < (1 << 18)) {
    work(0);
  } else {
    pool_.Run(work);
  }
  if (to.q == nullptr) return;
  Parallel(tokens, width / 4,
           [&](int64_t begin, int64_t end) { kernels_.quantize(args.out, args.out_stride, width, to, begin, end); });
}

}  // namespace shoal::cpu
