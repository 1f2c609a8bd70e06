// BalanceLayers, DecodeCost and ChoosePlan: how layers and ranks are dealt out.
#include "parallel/planner.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "parallel/memory_model.h"

namespace shoal {
namespace {

// What one small all-reduce, or one hop to the next stage, costs, as the weight bytes a rank reads in that time: about
// 10 us at 13 GB/s (two CPU cores). On a GPU both figures are some 20 times larger, and so are the models.
constexpr double kAllReduceCost = 128 << 10;
constexpr double kHopCost = 64 << 10;

// A stage while layers are dealt out.
struct StageFill {
  int layers = 0;
  bool is_fixed = false;
  int64_t layers_max = 0;          // By memory.
  std::vector<double> layer_cost;  // By rank: of one layer, over the rank's size.
  std::vector<double> base_cost;   // By rank: of the head, over the rank's size.

  double CostWith(int count) const {
    double most = 0;
    for (size_t i = 0; i < layer_cost.size(); ++i) most = std::max(most, base_cost[i] + count * layer_cost[i]);
    return most;
  }
};

// A rank's budget over the largest one; 1 without a limit.
double SizeOfRank(const PlanRequest& request, int rank) {
  int64_t largest = 0;
  for (int64_t budget : request.memory_budget) largest = std::max(largest, budget);
  const int64_t mine = BudgetOf(request, rank);
  return mine == 0 || largest == 0 ? 1.0 : static_cast<double>(mine) / static_cast<double>(largest);
}

StageFill MakeStageFill(const PlanRequest& request, const Plan& one_layer_each, const std::vector<int>& ranks) {
  StageFill load;
  load.layers_max = request.shape.layers;
  const int64_t blocks = request.kv_blocks > 0 ? request.kv_blocks : KvBlocksMin(request);
  for (int r : ranks) {
    const RankPlan& rank = one_layer_each.ranks[r];
    const int64_t weights = LayerWeightBytes(request.shape, request.formats, rank);
    const double size = SizeOfRank(request, r);
    load.layer_cost.push_back(static_cast<double>(weights) / size);
    load.base_cost.push_back((rank.cost - static_cast<double>(weights)) / size);
    if (rank.memory.budget == 0) continue;
    const int64_t per_layer = weights + KvBytes(request.shape, request.formats, rank, request.kv_block_tokens, blocks);
    const int64_t room = rank.memory.budget - (rank.memory.total() - weights);
    load.layers_max = std::min(load.layers_max, std::max<int64_t>(0, room / per_layer));
  }
  return load;
}

absl::Status CheckLayerSum(const PlanRequest& request, const std::vector<StageSpec>& stages) {
  int64_t given = 0;
  int open = 0;
  for (const StageSpec& stage : stages) {
    given += stage.layers;
    open += stage.layers == 0 ? 1 : 0;
  }
  const int layers = request.shape.layers;
  if (open == 0 && given != layers) {
    return absl::InvalidArgumentError(
        StrCat("the stages have ", given, " layers but the model has ", layers, "; make them add up"));
  }
  if (given + open > layers) {
    return absl::InvalidArgumentError(StrCat("the stages take ", given, " of ", layers,
                                             " layers and leave too few for ", open, " stages without a number"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<StageSpec>> BalanceLayers(const PlanRequest& request, std::vector<StageSpec> stages) {
  RETURN_IF_ERROR(CheckLayerSum(request, stages));
  std::vector<StageSpec> single = stages;
  for (StageSpec& stage : single) stage.layers = 1;
  ASSIGN_OR_RETURN(const Plan one_layer_each, BuildPlan(request, single));

  std::vector<StageFill> loads;
  int left = request.shape.layers;
  for (size_t i = 0; i < stages.size(); ++i) {
    loads.push_back(MakeStageFill(request, one_layer_each, one_layer_each.stages[i]));
    loads[i].is_fixed = stages[i].layers > 0;
    loads[i].layers = std::max(1, stages[i].layers);
    left -= loads[i].layers;
  }
  // Layers are alike, so giving each to whoever is least loaded with it leaves the smallest possible maximum.
  for (; left > 0; --left) {
    StageFill* best = nullptr;
    bool best_has_room = false;
    double best_cost = 0;
    for (StageFill& load : loads) {
      if (load.is_fixed) continue;
      const bool has_room = load.layers < load.layers_max;
      const double cost = load.CostWith(load.layers + 1);
      // Where no stage has room the plan will not fit; FitMemory then says so with the numbers.
      if (best == nullptr || (has_room && !best_has_room) || (has_room == best_has_room && cost < best_cost)) {
        best = &load;
        best_has_room = has_room;
        best_cost = cost;
      }
    }
    SHOAL_CHECK(best != nullptr);
    ++best->layers;
  }
  for (size_t i = 0; i < stages.size(); ++i) stages[i].layers = loads[i].layers;
  return stages;
}

double DecodeCost(const Plan& plan) {
  double total = kHopCost * static_cast<double>(plan.stages.size() - 1);
  for (const std::vector<int>& stage : plan.stages) {
    double slowest = 0;
    for (int r : stage) slowest = std::max(slowest, plan.ranks[r].cost);
    total += slowest;
    constexpr int kAllReducesPerLayer = 2;
    if (stage.size() > 1) {
      total += kAllReduceCost * kAllReducesPerLayer * static_cast<double>(plan.ranks[stage[0]].layers.size());
    }
  }
  return total;
}

namespace {

// Ways to cut the row of ranks into stages, as the stages' sizes. All of them up to kAllCutsRanksMax ranks; beyond,
// those with stages as equal as can be.
std::vector<std::vector<int>> CutsOfRanks(int ranks, int layers) {
  constexpr int kAllCutsRanksMax = 10;
  std::vector<std::vector<int>> cuts;
  if (ranks <= kAllCutsRanksMax) {
    for (int mask = 0; mask < 1 << (ranks - 1); ++mask) {  // Bit i: a new stage begins after rank i.
      std::vector<int> sizes = {1};
      for (int i = 0; i + 1 < ranks; ++i) {
        if ((mask >> i & 1) != 0) {
          sizes.push_back(1);
        } else {
          ++sizes.back();
        }
      }
      if (static_cast<int>(sizes.size()) <= layers) cuts.push_back(std::move(sizes));
    }
  } else {
    for (int stages = 1; stages <= std::min(ranks, layers); ++stages) {
      std::vector<int> sizes(stages, ranks / stages);
      for (int i = 0; i < ranks % stages; ++i) ++sizes[i];
      cuts.push_back(std::move(sizes));
    }
  }
  std::stable_sort(cuts.begin(), cuts.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
  return cuts;
}

// Stages of these sizes. Ranks of one stage with different budgets get shares in proportion to what their budgets leave
// for the parts that are cut.
std::vector<StageSpec> StagesOf(const PlanRequest& request, const std::vector<int>& sizes) {
  std::vector<StageSpec> stages;
  int first = 0;
  for (int size : sizes) {
    StageSpec stage;
    stage.ranks = size;
    const int64_t budget = BudgetOf(request, first);
    bool even = true;
    for (int i = 1; i < size; ++i) even = even && BudgetOf(request, first + i) == budget;
    if (!even) {
      RankPlan whole;
      whole.has_embedding = stages.empty();
      const int64_t uncut = request.reserved_bytes + EmbeddingBytes(request.shape, request.formats, whole);
      for (int i = 0; i < size; ++i) {
        // A rank without a limit counts as the largest; a budget that is used up keeps a token share and fails later.
        int64_t mine = BudgetOf(request, first + i);
        if (mine == 0) mine = *std::max_element(request.memory_budget.begin(), request.memory_budget.end());
        stage.shares.push_back(static_cast<double>(std::max(mine - uncut, mine / 64 + 1)));
      }
    }
    stages.push_back(std::move(stage));
    first += size;
  }
  return stages;
}

}  // namespace

absl::StatusOr<Plan> ChoosePlan(const PlanRequest& request) {
  const bool limited = std::any_of(request.memory_budget.begin(), request.memory_budget.end(),
                                   [](int64_t budget) { return budget > 0; });
  std::optional<Plan> best;
  double best_cost = std::numeric_limits<double>::infinity();
  absl::Status first_problem;    // Of the plainest cut, if no cut is possible.
  absl::Status nearest_problem;  // Of the cut that lacks least, if none fits.
  int64_t nearest_bytes = std::numeric_limits<int64_t>::max();
  for (const std::vector<int>& sizes : CutsOfRanks(request.ranks, request.shape.layers)) {
    auto stages = BalanceLayers(request, StagesOf(request, sizes));
    if (!stages.ok()) {
      if (first_problem.ok()) first_problem = stages.status();
      continue;
    }
    ASSIGN_OR_RETURN(Plan plan, BuildPlan(request, *stages));
    int64_t lacking = 0;
    if (const absl::Status fits = FitMemory(request, plan, &lacking); !fits.ok()) {
      if (lacking < nearest_bytes) {
        nearest_bytes = lacking;
        nearest_problem = fits;
      }
      continue;
    }
    const double cost = DecodeCost(plan);
    if (cost < best_cost) {
      best_cost = cost;
      best = std::move(plan);
    }
    // Without budgets the plain answer is the predictable one: the first cut, which is one stage.
    if (!limited && sizes.size() == 1) break;
  }
  if (best.has_value()) return *std::move(best);
  if (!nearest_problem.ok()) return nearest_problem;
  if (request.ranks > request.shape.layers) {
    return absl::InvalidArgumentError(StrCat(request.ranks,
                                             " ranks are too many for this model: ", first_problem.message(),
                                             ", and it has only ", request.shape.layers, " layers for stages"));
  }
  return first_problem;
}

}  // namespace shoal
