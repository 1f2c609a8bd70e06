// Counter-based random numbers: a draw is a pure function of (seed, output position, draw), so it does not depend on
// the batch, the rank, or on how often a request was preempted or replayed.
#pragma once

#include <array>
#include <cstdint>

namespace shoal {

// One block of Philox4x32-10.
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3 and its reference constants.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// In [0, 1), 53 bits. key = seed, counter = (position, draw, 0, 0).
double UniformDraw(uint64_t seed, uint32_t position, uint32_t draw);

}  // namespace shoal
