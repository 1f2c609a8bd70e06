// The least that a step must read and multiply: what its speed is judged by.
#pragma once

#include <cstdint>

#include "parallel/plan.h"

namespace shoal {

struct StepCost {
  int64_t bytes = 0;  // Weights that the step uses, once, and the keys and values that its tokens see, once.
  int64_t ops = 0;  // Multiplications and additions of matrix products with weights; those of attention are not in it.

  StepCost& operator+=(const StepCost& other) {
    bytes += other.bytes;
    ops += other.ops;
    return *this;
  }
};

// Of a step of one sequence's `tokens` new tokens after `context` earlier ones on `rank`; `sampled` rows go through the
// vocabulary head. `sequences` > 1: as many such sequences side by side; 0: the weights alone.
StepCost CostOfStep(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank, int64_t sequences,
                    int64_t tokens, int64_t context, int64_t sampled);

}  // namespace shoal
