// Several communicators of the same group, each for what it is best at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace shoal {

// Sums of up to bytes_max go to member `member`.
struct SumRoute {
  int64_t bytes_max;
  size_t member;
};

// `routes` are in the order of rising sizes; the last one also takes what is larger. Tensors go to `tensors`. The same
// on all ranks of the group.
std::unique_ptr<Communicator> CreateSelectingCommunicator(std::vector<std::unique_ptr<Communicator>> members,
                                                          std::vector<SumRoute> routes, size_t tensors);

}  // namespace shoal
