// Checks of one transport between ranks that are threads of this process, each with a CUDA device.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "parallel/communicator.h"
#include "parallel/thread_world.h"

namespace shoal {

// Makes the communicator of all ranks, on this rank's thread.
using TransportFactory = std::function<absl::StatusOr<std::unique_ptr<Communicator>>(ThreadRank&, Device&)>;

// GPUs that this process sees; the emulation counts as one.
int CountGpus();

// Sums and tensors of several sizes arrive whole, also from within a recorded graph where the transport allows it.
// Rank r uses GPU r modulo their number. Prints the time of a sum that decoding makes. Returns the factory's error;
// everything else that goes wrong fails the test.
absl::Status CheckTransport(const std::string& name, int ranks, const TransportFactory& make);

}  // namespace shoal
