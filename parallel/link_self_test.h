// Whether a communicator of device tensors delivers what was sent, and how fast: some PCIe links lose or corrupt data
// silently, so no transport is used unseen.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
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

struct LinkTimes {
  std::vector<double> sum_us;  // By size.
  double tensor_us = 0;        // Of kTensorBytes.
  static constexpr int64_t kTensorBytes = 16 << 10;
};

// Two places in the device, for sums and tensors of up to `bytes`, each of which can be filled from, or read into, the
// same host memory. Made before any rank exchanges: where ranks share a GPU, taking memory waits for all of their work.
class LinkScratch {
 public:
  // Errors: as Device::Allocate.
  static absl::StatusOr<LinkScratch> Create(Device& device, int64_t bytes);

  Device& device() const { return *device_; }
  std::vector<uint64_t>& host() { return host_; }
  Tensor View(DType type, int64_t words, int place = 0) const;
  // Between host() and a place, in words of 8 bytes; to the first place.
  absl::Status Upload(int64_t words);
  absl::Status Download(int64_t words, int place);

 private:
  LinkScratch(Device& device, std::unique_ptr<Buffer> buffer, int64_t words)
      : device_(&device), buffer_(std::move(buffer)), host_(static_cast<size_t>(words)) {}

  Device* device_;
  std::unique_ptr<Buffer> buffer_;
  std::vector<uint64_t> host_;
};

// Exchanges random data and compares every bit. `scratch` holds options.bytes_max. Collective over the group, and every
// rank goes on to the end unless the communicator fails. Errors: of the communicator; kDataLoss naming what came out
// wrong.
absl::Status TestLink(Communicator& communicator, LinkScratch& scratch, const LinkTestOptions& options);

// Microseconds of a sum of each size, and of handing a tensor on to the next rank: medians on this rank. 0 for what the
// group does not do. Collective over the group.
absl::StatusOr<LinkTimes> TimeLink(Communicator& communicator, LinkScratch& scratch, std::span<const int64_t> sizes,
                                   const LinkTestOptions& options);

}  // namespace shoal
