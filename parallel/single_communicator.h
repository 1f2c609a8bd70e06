// Communicator of one rank.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace shoal {

// Rank 0 of 1: a sum over ranks is what it was, and there is nobody to send to.
std::unique_ptr<Communicator> CreateSingleCommunicator();

}  // namespace shoal
