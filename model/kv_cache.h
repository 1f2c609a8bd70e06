// Paged key and value storage of this rank's layers.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "parallel/plan.h"

namespace shoal {

struct KvCache {
  std::vector<KvView> layers;
  std::unique_ptr<Buffer> buffer;
};

// Errors: kResourceExhausted if the budget is too small.
absl::StatusOr<KvCache> AllocateKvCache(const Plan& plan, const RankPlan& rank, Device& device);

}  // namespace shoal
