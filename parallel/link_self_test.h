// Whether a communicator of device tensors delivers what was sent, and how fast: some PCIe links lose or corrupt data
// silently, so no transport is used unseen.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "parallel/communicator.h"

namespace shoal {

struct LinkTestOptions {
  bool sums = true;                      // What the group does: sums,
  bool tensors = true;                   // tensors between ranks, or both.
  int rounds = 300;                      // Of random sizes; every tenth may be of any size, the others are small.
  int64_t bytes_max = int64_t{1} << 20;  // Of one sum or tensor; at least 8.
};

// Exchanges random data and compares every bit. Collective over the group, and every rank goes on to the end unless the
// communicator fails. Errors: of the communicator; kDataLoss naming what came out wrong; as Device::Allocate.
absl::Status TestLink(Communicator& communicator, Device& device, const LinkTestOptions& options);

// Microseconds of a sum of each size, and of handing a tensor on to the next rank: medians on this rank. 0 for what the
// group does not do. Collective over the group.
struct LinkTimes {
  std::vector<double> sum_us;  // By size.
  double tensor_us = 0;        // Of kTensorBytes.
  static constexpr int64_t kTensorBytes = 16 << 10;
};
absl::StatusOr<LinkTimes> TimeLink(Communicator& communicator, Device& device, std::span<const int64_t> sizes,
                                   const LinkTestOptions& options);

}  // namespace shoal
