// A plan for tests that load models: tensor-parallel ranks in one stage, and little KV memory.
#pragma once

#include "gtest/gtest.h"
#include "model/config.h"
#include "parallel/planner.h"

namespace shoal {

inline Plan OneStagePlan(const ModelConfig& config, const FormatPlan& formats, int ranks) {
  PlanRequest request;
  request.shape = config.shape;
  request.formats = formats;
  request.ranks = ranks;
  request.stages = {{ranks, 0, {}}};
  request.max_context = 256;
  request.kv_blocks = 16;
  const auto plan = MakePlan(request);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

}  // namespace shoal
