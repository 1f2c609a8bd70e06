// From a request to stages, and from stages to a plan with its bytes. MakePlan (plan.h) puts these together.
#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/plan.h"

namespace shoal {

// Checks the request's numbers against one another and against bounds, before anything is computed from them.
// Errors: kInvalidArgument naming the field.
absl::Status ValidatePlanRequest(const PlanRequest& request);

// Bytes rank `rank` may use; 0: no limit.
int64_t BudgetOf(const PlanRequest& request, int rank);

// KV blocks of one sequence of max_context tokens: the least a plan must hold.
int64_t KvBlocksMin(const PlanRequest& request);

// Gives every stage whose `layers` is 0 its share of the layers that the others leave: one by one to the stage that is
// then the least loaded for its size and has the memory. A rank with twice the budget is given twice the load, so that
// the smallest card does not limit the KV cache of all. Errors: kInvalidArgument if the layers do not add up, or as
// CutUnits.
absl::StatusOr<std::vector<StageSpec>> BalanceLayers(const PlanRequest& request, std::vector<StageSpec> stages);

// Cuts the model as `stages` say (every `layers` set). All bytes but KV are filled in.
// Errors: kInvalidArgument as CutUnits.
absl::StatusOr<Plan> BuildPlan(const PlanRequest& request, std::span<const StageSpec> stages);

// Settles the number of KV blocks and fills in their bytes.
// Errors: kResourceExhausted naming the rank that lacks most, what it needs and what it has. `lacking_bytes`, if given,
// receives how much that is.
absl::Status FitMemory(const PlanRequest& request, Plan& plan, int64_t* lacking_bytes = nullptr);

// Time of one decode step in bytes: for each stage the weight bytes its slowest rank reads, plus what the all-reduces
// and hops cost in units of bytes read.
double DecodeCost(const Plan& plan);

// The automatic plan. Without budgets: all ranks tensor-parallel, if heads and widths allow. Else the cheapest, by
// DecodeCost, of all ways to cut the row of ranks into stages that fits; ties go to fewer stages.
// Errors: kInvalidArgument if no cut is possible; kResourceExhausted if none fits (of the one that lacks least).
absl::StatusOr<Plan> ChoosePlan(const PlanRequest& request);

}  // namespace shoal
