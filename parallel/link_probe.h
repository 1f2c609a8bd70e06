// Chooses at start-up how the ranks of a group exchange tensors: every candidate has to pass a self-test, and the
// fastest for each size is taken.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "parallel/communicator.h"
#include "parallel/link_self_test.h"
#include "parallel/world.h"

namespace shoal {

// One way to make the communicator of this rank's group.
struct Transport {
  std::string name;  // "host-ll", "p2p-ll", "nccl" or "mpi-host".
  // Collective over the whole world, which no rank leaves early. Waits for other ranks end after `seconds`, where the
  // transport can; `testing`: in a self-test, which may take time but must not hang.
  std::function<absl::StatusOr<std::unique_ptr<Communicator>>(double seconds, bool testing)> create;
};

struct LinkProbeOptions {
  std::string demanded;       // The name of the only transport to use, or "" for the fastest.
  double test_seconds = 5;    // A rank that is silent for longer fails the self-test.
  double serve_seconds = 60;  // The same for the communicator that is returned.
  LinkTestOptions test;
};

// `transports` are the same on all ranks, the one that always works last. Collective over the whole world: every rank
// calls it, each with its own group. What fails its test is left out with a warning; one line tells what was chosen.
// `device` must outlive the result. Errors, the same on all ranks of a group: kInvalidArgument if `demanded` is no
// transport; that of the last transport tried if none is left.
absl::StatusOr<std::unique_ptr<Communicator>> ChooseCommunicator(World& world, Device& device,
                                                                 std::span<const int> group,
                                                                 const std::vector<Transport>& transports,
                                                                 const LinkProbeOptions& options);

}  // namespace shoal
