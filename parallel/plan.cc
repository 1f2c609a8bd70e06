#include "parallel/plan.h"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "parallel/planner.h"

namespace shoal {
namespace {

absl::StatusOr<Plan> TryPlan(const PlanRequest& request) {
  if (request.stages.empty()) return ChoosePlan(request);
  ASSIGN_OR_RETURN(const std::vector<StageSpec> stages, BalanceLayers(request, request.stages));
  ASSIGN_OR_RETURN(Plan plan, BuildPlan(request, stages));
  RETURN_IF_ERROR(FitMemory(request, plan));
  return plan;
}

bool Fits(const PlanRequest& request) { return TryPlan(request).ok(); }

void SetMatrixFormats(WeightFormat format, FormatPlan& formats) {
  formats.qkv = formats.attention_out = formats.gate_up = formats.down = formats.lm_head = format;
}

bool AnyMatrix(const FormatPlan& formats, bool (*holds)(WeightFormat)) {
  return holds(formats.qkv) || holds(formats.attention_out) || holds(formats.gate_up) || holds(formats.down) ||
         holds(formats.lm_head);
}

// The largest value below `field`'s that fits, among its halves; 0 if none.
template <typename T>
T HalvedUntilItFits(PlanRequest request, T PlanRequest::*field, T least) {
  for (request.*field /= 2; request.*field >= least; request.*field /= 2) {
    if (Fits(request)) return request.*field;
  }
  return 0;
}

// Changes of one setting that would make the plan fit, each one tried.
std::vector<std::string> Remedies(const PlanRequest& request) {
  std::vector<std::string> remedies;
  if (request.kv_blocks > 0) {
    if (const int64_t blocks = HalvedUntilItFits(request, &PlanRequest::kv_blocks, KvBlocksMin(request)); blocks > 0) {
      remedies.push_back(StrCat("lower kv_blocks to ", blocks));
    }
  }
  const auto& budgets = request.memory_budget;
  const bool even = std::adjacent_find(budgets.begin(), budgets.end(), std::not_equal_to<>()) == budgets.end();
  if (request.stages.empty() && even && !budgets.empty()) {
    constexpr int kRanksMax = 16;
    PlanRequest more = request;
    more.memory_budget.resize(1);
    for (more.ranks = request.ranks + 1; more.ranks <= kRanksMax; ++more.ranks) {
      if (!Fits(more)) continue;
      remedies.push_back(StrCat("use ", more.ranks, " ranks"));
      break;
    }
  }
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const bool larger = format == WeightFormat::kInt8
                            ? AnyMatrix(request.formats, [](WeightFormat f) { return !IsQuantized(f); })
                            : AnyMatrix(request.formats, [](WeightFormat f) { return f != WeightFormat::kInt4; });
    PlanRequest smaller = request;
    SetMatrixFormats(format, smaller.formats);
    if (!larger || !ValidatePlanRequest(smaller).ok() || !Fits(smaller)) continue;
    remedies.push_back(StrCat("use ", WeightFormatName(format), " weights"));
    break;
  }
  constexpr int64_t kContextMin = 256;
  if (const int64_t tokens = HalvedUntilItFits(request, &PlanRequest::max_context, kContextMin); tokens > 0) {
    remedies.push_back(StrCat("lower max_context to ", tokens));
  }
  constexpr int kStepTokensMin = 16;
  if (const int tokens = HalvedUntilItFits(request, &PlanRequest::max_step_tokens, kStepTokensMin); tokens > 0) {
    remedies.push_back(StrCat("lower max_step_tokens to ", tokens));
  }
  return remedies;
}

}  // namespace

HeadMap HeadsOf(const ModelShape& shape, const RankPlan& rank) {
  HeadMap map;
  map.heads = static_cast<int>(rank.heads.size());
  map.kv_heads = static_cast<int>(rank.kv_heads.size());
  map.first = static_cast<int>(rank.heads.begin);
  map.kv_first = static_cast<int>(rank.kv_heads.begin);
  map.heads_per_kv = shape.heads / shape.kv_heads;
  map.head_dim = static_cast<int>(shape.head_dim);
  return map;
}

int64_t AttentionGroup(const ModelShape& shape) {
  return ActivationGroup(shape.heads * shape.head_dim, shape.head_dim);
}

int64_t FfnGroup(const ModelShape& shape) { return ActivationGroup(shape.ffn, shape.ffn); }

int64_t HiddenGroup(const ModelShape& shape) { return ActivationGroup(shape.hidden, shape.hidden); }

std::vector<std::pair<int, int>> PipelineHops(const Plan& plan) {
  std::vector<std::pair<int, int>> hops;
  for (size_t s = 1; s < plan.stages.size(); ++s) {
    const std::vector<int>& before = plan.stages[s - 1];
    // Each rank of `before` holds all of the stream.
    for (size_t i = 0; i < plan.stages[s].size(); ++i) hops.emplace_back(before[i % before.size()], plan.stages[s][i]);
  }
  return hops;
}

absl::StatusOr<Plan> MakePlan(const PlanRequest& request) {
  RETURN_IF_ERROR(ValidatePlanRequest(request));
  absl::StatusOr<Plan> plan = TryPlan(request);
  if (plan.ok() || plan.status().code() != absl::StatusCode::kResourceExhausted) return plan;
  const std::vector<std::string> remedies = Remedies(request);
  return absl::ResourceExhaustedError(
      StrCat(plan.status().message(), "; ",
             remedies.empty() ? "no single setting makes it fit: use a smaller model, or more memory per rank"
                              : absl::StrJoin(remedies, ", or ")));
}

}  // namespace shoal
