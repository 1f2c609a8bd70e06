// Communicators of devices, over any World: for the conformance suite and the tests of each.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/device.h"
#include "parallel/communicator.h"
#include "parallel/shared_communicator.h"
#include "parallel/shm_communicator.h"
#include "parallel/staged_communicator.h"
#include "parallel/world.h"

namespace shoal {

using HostCommunicatorFactory = std::function<absl::StatusOr<std::unique_ptr<Communicator>>(std::span<const int>)>;

// An emulated GPU, whose memory is the host's, so that the suite's vectors are device memory, too.
inline std::unique_ptr<Device> EmulatedDevice() {
  CudaDeviceOptions options;
  options.workspace_bytes = 1 << 20;
  auto device = CreateCudaDevice(options);
  SHOAL_CHECK(device.ok());
  return *std::move(device);
}

// Slots for the largest tensor of the suite, so that no sender waits.
constexpr int64_t kSuiteTensorBytes = 320'000;

// `kind`: "Staged", "HostLl" or "PeerLl". `host` makes a communicator of the same ranks for host memory.
inline absl::StatusOr<std::unique_ptr<Communicator>> CreateDeviceCommunicator(const std::string& kind, World& world,
                                                                              Device& device,
                                                                              const HostCommunicatorFactory& host,
                                                                              std::span<const int> group) {
  if (kind == "Staged") {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> inner, host(group));
    return CreateStagedCommunicator(std::move(inner), device, kSuiteTensorBytes);
  }
  SharedCommunicatorOptions options;
  if (kind == "PeerLl") options.mailboxes = SharedCommunicatorOptions::Mailboxes::kPeer;
  options.sum_elements = 20'000;
  options.put_bytes = kSuiteTensorBytes;
  options.seconds = 20;
  return CreateSharedCommunicator(world, device, group, options);
}

// In host memory, and every rank may send to every other.
inline ShmOptions ShmOptionsOfSuite(int ranks) {
  ShmOptions options;
  options.sum_bytes = int64_t{16} * 5120 * 8;
  options.tensor_bytes = kSuiteTensorBytes;
  options.seconds = 20;
  for (int from = 0; from < ranks; ++from) {
    for (int to = 0; to < ranks; ++to) {
      if (from != to) options.hops.emplace_back(from, to);
    }
  }
  return options;
}

}  // namespace shoal
