// BuildPlan and FitMemory: from stages to every rank's part and bytes.
#include <algorithm>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "parallel/memory_model.h"
#include "parallel/plan_text.h"
#include "parallel/planner.h"
#include "parallel/shard.h"

namespace shoal {
namespace {

// Adds the ranks of one stage, which begins with layer `first_layer`; `next_ranks` is the size of the next, 0 for the
// last.
absl::Status AddStage(const PlanRequest& request, const StageSpec& spec, int first_layer, int next_ranks, Plan& plan) {
  const ModelShape& shape = request.shape;
  const std::vector<double> shares = spec.shares.empty() ? std::vector<double>(spec.ranks, 1.0) : spec.shares;
  ASSIGN_OR_RETURN(const std::vector<Range> heads, CutHeads(shape, shares));
  ASSIGN_OR_RETURN(const std::vector<Range> ffn, CutFfn(shape, shares));
  std::vector<Range> vocab(spec.ranks);
  if (next_ranks == 0) {
    ASSIGN_OR_RETURN(vocab, CutVocab(shape, shares));
  }
  const int stage = static_cast<int>(plan.stages.size());
  plan.stages.emplace_back();
  for (int i = 0; i < spec.ranks; ++i) {
    RankPlan rank;
    rank.rank = static_cast<int>(plan.ranks.size());
    rank.stage = stage;
    rank.tp_rank = i;
    rank.tp_size = spec.ranks;
    rank.layers = {first_layer, first_layer + spec.layers};
    rank.heads = heads[i];
    rank.kv_heads = KvHeadsOf(shape, heads[i]);
    rank.ffn = ffn[i];
    rank.vocab = vocab[i];
    rank.has_embedding = stage == 0;
    rank.memory.weights = TotalWeightBytes(shape, request.formats, rank);
    rank.memory.activations = ActivationBytes(shape, request.formats, rank, request.max_step_tokens,
                                              request.max_sequences, request.max_context, request.kv_block_tokens) +
                              request.workspace_bytes;
    rank.memory.communication = CommunicationBytes(shape, rank, next_ranks, request.max_step_tokens);
    rank.memory.reserved = request.reserved_bytes;
    rank.memory.budget = BudgetOf(request, rank.rank);
    rank.cost = static_cast<double>(spec.layers * LayerWeightBytes(shape, request.formats, rank) +
                                    HeadWeightBytes(shape, request.formats, rank));
    plan.stages.back().push_back(rank.rank);
    plan.ranks.push_back(rank);
  }
  return absl::OkStatus();
}

int64_t KvBytesOf(const Plan& plan, const RankPlan& rank, int64_t blocks) {
  return KvBytes(plan.shape, plan.formats, rank, plan.kv_block_tokens, blocks);
}

// As many blocks as every budget holds, up to what max_sequences could ever use; at least `least`.
int64_t BlocksThatFit(const Plan& plan, int64_t least) {
  int64_t blocks = std::min<int64_t>(least * plan.max_sequences, INT32_MAX / plan.kv_block_tokens);
  for (const RankPlan& rank : plan.ranks) {
    if (rank.memory.budget == 0) continue;
    const int64_t room = rank.memory.budget - rank.memory.total();
    const int64_t per_block = std::max<int64_t>(1, KvBytesOf(plan, rank, 64) / 64);  // 64 blocks: no rounding up.
    blocks = std::min(blocks, std::max<int64_t>(0, room / per_block));
    while (blocks > least && KvBytesOf(plan, rank, blocks) > room) --blocks;
  }
  return std::max(blocks, least);
}

std::string Lacks(const Plan& plan, const RankPlan& rank) {
  const RankMemory& m = rank.memory;
  return StrCat("rank ", rank.rank, " (stage ", rank.stage, ", layers ", rank.layers.begin, "-", rank.layers.end - 1,
                ", ", rank.heads.size(), " of ", plan.shape.heads, " heads) needs ", BytesText(m.total()), " of ",
                BytesText(m.budget), ": weights ", BytesText(m.weights), ", ", plan.kv_tokens(), " tokens of KV ",
                BytesText(m.kv), ", activations ", BytesText(m.activations), ", communication ",
                BytesText(m.communication), ", reserved ", BytesText(m.reserved));
}

}  // namespace

absl::StatusOr<Plan> BuildPlan(const PlanRequest& request, std::span<const StageSpec> stages) {
  Plan plan;
  plan.shape = request.shape;
  plan.formats = request.formats;
  plan.kv_block_tokens = request.kv_block_tokens;
  plan.max_step_tokens = request.max_step_tokens;
  plan.max_sequences = request.max_sequences;
  plan.max_context = request.max_context;
  plan.automatic = request.stages.empty();
  int first_layer = 0;
  for (size_t i = 0; i < stages.size(); ++i) {
    const int next_ranks = i + 1 < stages.size() ? stages[i + 1].ranks : 0;
    RETURN_IF_ERROR(AddStage(request, stages[i], first_layer, next_ranks, plan));
    first_layer += stages[i].layers;
  }
  return plan;
}

absl::Status FitMemory(const PlanRequest& request, Plan& plan, int64_t* lacking_bytes) {
  const int64_t least = KvBlocksMin(request);
  const bool limited =
      std::any_of(plan.ranks.begin(), plan.ranks.end(), [](const RankPlan& rank) { return rank.memory.budget > 0; });
  if (request.kv_blocks > 0) {
    plan.kv_blocks = request.kv_blocks;
  } else if (limited) {
    plan.kv_blocks = BlocksThatFit(plan, least);
  } else {
    const int64_t wanted = (request.kv_tokens_default + plan.kv_block_tokens - 1) / plan.kv_block_tokens;
    plan.kv_blocks = std::max(least, std::min(wanted, least * request.max_sequences));
  }
  const RankPlan* worst = nullptr;
  int64_t worst_bytes = 0;
  for (RankPlan& rank : plan.ranks) {
    rank.memory.kv = KvBytesOf(plan, rank, plan.kv_blocks);
    const int64_t lacking = rank.memory.budget == 0 ? 0 : rank.memory.total() - rank.memory.budget;
    if (lacking > worst_bytes) {
      worst = &rank;
      worst_bytes = lacking;
    }
  }
  if (lacking_bytes != nullptr) *lacking_bytes = worst_bytes;
  return worst == nullptr ? absl::OkStatus() : absl::ResourceExhaustedError(Lacks(plan, *worst));
}

}  // namespace shoal
