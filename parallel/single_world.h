// World of one process.
#pragma once

#include <memory>

#include "parallel/world.h"

namespace shoal {

// Rank 0 of 1, without MPI: there is nobody to send to, so Send and Receive return errors.
std::unique_ptr<World> CreateSingleWorld();

}  // namespace shoal
