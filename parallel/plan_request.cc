// ValidatePlanRequest and what is read off a request directly.
#include <cmath>
#include <string_view>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "parallel/planner.h"
#include "parallel/world.h"

namespace shoal {
namespace {

// Upper bounds keep every product below 2^62. They are far beyond any model or machine.
constexpr int64_t kRanksMax = 1024;
constexpr int64_t kLayersMax = 4096;
constexpr int64_t kWidthMax = int64_t{1} << 20;
constexpr int64_t kVocabMax = int64_t{1} << 24;
constexpr int64_t kTokensMax = int64_t{1} << 24;
constexpr int64_t kStepTokensMax = int64_t{1} << 17;
constexpr int64_t kSequencesMax = int64_t{1} << 16;
constexpr int64_t kBlockTokensMax = 4096;
constexpr int64_t kBytesMax = int64_t{1} << 50;

absl::Status InRange(std::string_view field, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(field, " is ", value, "; it must be from ", least, " to ", most));
}

absl::Status ValidateShape(const ModelShape& shape) {
  RETURN_IF_ERROR(InRange("layers", shape.layers, 1, kLayersMax));
  RETURN_IF_ERROR(InRange("hidden size", shape.hidden, 1, kWidthMax));
  RETURN_IF_ERROR(InRange("query heads", shape.heads, 1, kWidthMax));
  RETURN_IF_ERROR(InRange("KV heads", shape.kv_heads, 1, shape.heads));
  RETURN_IF_ERROR(InRange("head size", shape.head_dim, 2, kWidthMax));
  RETURN_IF_ERROR(InRange("query heads times head size", shape.heads * shape.head_dim, 1, kWidthMax));
  RETURN_IF_ERROR(InRange("FFN width", shape.ffn, 1, kWidthMax));
  RETURN_IF_ERROR(InRange("vocabulary", shape.vocab, 1, kVocabMax));
  if (shape.heads % shape.kv_heads != 0) {
    return absl::InvalidArgumentError(
        StrCat(shape.heads, " query heads are not a multiple of ", shape.kv_heads, " KV heads"));
  }
  if (shape.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(StrCat("head size ", shape.head_dim, " is odd; rotary positions need pairs"));
  }
  return absl::OkStatus();
}

absl::Status ValidateFormats(const ModelShape& shape, const FormatPlan& formats) {
  const auto check = [](std::string_view name, WeightFormat format, std::string_view width, int64_t columns,
                        int64_t cut, int64_t group) -> absl::Status {
    if (!IsQuantized(format) || group >= kWeightGroup) return absl::OkStatus();
    return absl::InvalidArgumentError(StrCat(name, " cannot be ", WeightFormatName(format), ": its ", width, " ",
                                             cut == columns ? "" : "per head ", "of ", cut, " is not a multiple of ",
                                             kWeightGroup, "; use bf16 or f32"));
  };
  const int64_t hidden = HiddenGroup(shape);
  RETURN_IF_ERROR(check("qkv", formats.qkv, "width", shape.hidden, shape.hidden, hidden));
  RETURN_IF_ERROR(check("gate_up", formats.gate_up, "width", shape.hidden, shape.hidden, hidden));
  RETURN_IF_ERROR(check("lm_head", formats.lm_head, "width", shape.hidden, shape.hidden, hidden));
  RETURN_IF_ERROR(check("attention_out", formats.attention_out, "width", shape.heads * shape.head_dim, shape.head_dim,
                        AttentionGroup(shape)));
  RETURN_IF_ERROR(check("down", formats.down, "width", shape.ffn, shape.ffn, FfnGroup(shape)));
  if (IsQuantized(formats.embedding)) {
    return absl::InvalidArgumentError(
        StrCat("embedding cannot be ", WeightFormatName(formats.embedding), "; use bf16 or f32"));
  }
  if (formats.kv != DType::kF32 && formats.kv != DType::kF16 && formats.kv != DType::kI8) {
    return absl::InvalidArgumentError("the KV cache must be int8, f16 or f32");
  }
  if (formats.kv == DType::kI8 && shape.head_dim % kKvGroup != 0) {
    return absl::InvalidArgumentError(
        StrCat("the KV cache cannot be int8: head size ", shape.head_dim, " is not a multiple of ", kKvGroup));
  }
  return absl::OkStatus();
}

absl::Status ValidateStages(const PlanRequest& request) {
  if (request.stages.empty()) return absl::OkStatus();
  int64_t ranks = 0;
  for (size_t i = 0; i < request.stages.size(); ++i) {
    const StageSpec& stage = request.stages[i];
    RETURN_IF_ERROR(InRange(StrCat("stage ", i, ": ranks"), stage.ranks, 1, kRanksMax));
    RETURN_IF_ERROR(InRange(StrCat("stage ", i, ": layers"), stage.layers, 0, kLayersMax));
    if (!stage.shares.empty() && static_cast<int>(stage.shares.size()) != stage.ranks) {
      return absl::InvalidArgumentError(
          StrCat("stage ", i, " has ", stage.shares.size(), " shares for ", stage.ranks, " ranks; give one per rank"));
    }
    for (double share : stage.shares) {
      if (std::isfinite(share) && share >= 1e-3 && share <= 1e6) continue;
      return absl::InvalidArgumentError(StrCat("stage ", i, ": share ", share, " is not from 0.001 to 1000000"));
    }
    ranks += stage.ranks;
  }
  if (ranks != request.ranks) {
    return absl::InvalidArgumentError(StrCat("the stages have ", ranks, " ranks but the job has ", request.ranks,
                                             "; start mpirun with -n ", ranks, " or change the stages"));
  }
  if (static_cast<int>(request.stages.size()) > request.shape.layers) {
    return absl::InvalidArgumentError(StrCat(request.stages.size(), " stages cannot share ", request.shape.layers,
                                             " layers; use at most ", request.shape.layers, " stages"));
  }
  return absl::OkStatus();
}

// All logits of a step travel to rank 0 as one message, in the worst case from one rank.
absl::Status ValidateLogits(const PlanRequest& request) {
  const int64_t most = (kMessageBytesMax - (1 << 20)) / (request.shape.vocab * int64_t{sizeof(float)});
  if (request.ranks == 1 || request.max_sequences <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("max_sequences is ", request.max_sequences, "; with a vocabulary of ",
                                           request.shape.vocab, " several ranks can serve at most ", most));
}

}  // namespace

absl::Status ValidatePlanRequest(const PlanRequest& request) {
  RETURN_IF_ERROR(ValidateShape(request.shape));
  RETURN_IF_ERROR(ValidateFormats(request.shape, request.formats));
  RETURN_IF_ERROR(InRange("ranks", request.ranks, 1, kRanksMax));
  const size_t budgets = request.memory_budget.size();
  if (budgets > 1 && budgets != static_cast<size_t>(request.ranks)) {
    return absl::InvalidArgumentError(StrCat("memory_budget has ", budgets, " entries for ", request.ranks,
                                             " ranks; give one for all, or one per rank"));
  }
  for (int64_t bytes : request.memory_budget) RETURN_IF_ERROR(InRange("memory_budget", bytes, 0, kBytesMax));
  RETURN_IF_ERROR(InRange("reserved_bytes", request.reserved_bytes, 0, kBytesMax));
  RETURN_IF_ERROR(InRange("workspace_bytes", request.workspace_bytes, 0, kBytesMax));
  RETURN_IF_ERROR(InRange("kv_block_tokens", request.kv_block_tokens, 1, kBlockTokensMax));
  RETURN_IF_ERROR(InRange("max_step_tokens", request.max_step_tokens, 1, kStepTokensMax));
  RETURN_IF_ERROR(InRange("max_sequences", request.max_sequences, 1, kSequencesMax));
  RETURN_IF_ERROR(ValidateLogits(request));
  RETURN_IF_ERROR(InRange("max_context", request.max_context, 1, kTokensMax));
  RETURN_IF_ERROR(InRange("kv_tokens_default", request.kv_tokens_default, 1, INT32_MAX));
  // Slots are numbered in 32 bits.
  RETURN_IF_ERROR(InRange("kv_blocks", request.kv_blocks, 0, INT32_MAX / request.kv_block_tokens));
  if (request.kv_blocks > 0 && request.kv_blocks < KvBlocksMin(request)) {
    return absl::InvalidArgumentError(StrCat("kv_blocks is ", request.kv_blocks, " (",
                                             request.kv_blocks * request.kv_block_tokens,
                                             " tokens), less than one sequence of max_context ", request.max_context,
                                             " tokens; use at least ", KvBlocksMin(request), " or lower max_context"));
  }
  return ValidateStages(request);
}

int64_t BudgetOf(const PlanRequest& request, int rank) {
  if (request.memory_budget.empty()) return 0;
  return request.memory_budget.size() == 1 ? request.memory_budget[0] : request.memory_budget[rank];
}

int64_t KvBlocksMin(const PlanRequest& request) {
  return (request.max_context + request.kv_block_tokens - 1) / request.kv_block_tokens;
}

}  // namespace shoal
