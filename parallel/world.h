// The control plane: processes and host bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

// Streams of messages between two ranks that do not wait for one another.
enum class Channel : uint8_t { kPlan = 1, kResult = 2, kControl = 3 };

// No message may be larger; a longer one is a bug of the sender, refused by the receiver before memory is taken.
constexpr int64_t kMessageBytesMax = int64_t{256} << 20;

// How much a receiver may leave unread before its senders give up on it.
struct WorldLimits {
  int unread_messages_max = 128;     // Per (sender, receiver).
  double unread_seconds_max = 10.0;  // Time a sender then waits for one to be read.
};

// Used by one thread per process. Waiting must not burn a core: implementations test and back off (short spin, yield,
// then sleeps that grow to 2.5 milliseconds), so an idle rank stays well under 2 % of a core.
class World {
 public:
  virtual ~World() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int local_rank() const = 0;  // Among the ranks on this host; picks the device.
  virtual int local_size() const = 0;  // Ranks on this host.

  // Queues a message; returns once `bytes` may be reused, without waiting for the receiver. Messages of one
  // (sender, receiver, channel) arrive in order. `to` may not be this rank.
  // Errors: kUnavailable if the receiver has left a bounded number of messages unread for too long.
  virtual absl::Status Send(int to, Channel channel, std::span<const std::byte> bytes) = 0;

  // Waits for the next message from `from` on `channel`.
  virtual absl::StatusOr<std::vector<std::byte>> Receive(int from, Channel channel) = 0;

  // The next message from any rank on `channel`, if one has arrived, and who sent it.
  struct Message {
    int from;
    std::vector<std::byte> bytes;
  };
  virtual absl::StatusOr<std::optional<Message>> TryReceive(Channel channel) = 0;

  // Every rank's bytes, in rank order, on every rank. Collective.
  virtual absl::StatusOr<std::vector<std::vector<std::byte>>> AllGather(std::span<const std::byte> bytes) = 0;
};

// OK on every rank if all ranks passed OK; else the first rank's error ("rank 2: ..."), on every rank. Collective, so
// that no rank waits for one that failed.
absl::Status AgreeOn(World& world, const absl::Status& mine);

// AgreeOn among the ranks of `group`, this rank's, for one step of several: an error that the group has agreed on
// before, `so_far`, stays, and no rank leaves out a step. Collective over the whole world: every rank calls it with its
// group.
absl::Status AgreeInGroup(World& world, std::span<const int> group, const absl::Status& so_far,
                          const absl::Status& mine);

// AgreeOn for a phase that takes long and ends at another time on every rank: rank 0 hears of a failure at once, so
// that nobody need wait for the ranks that still work. Uses Channel::kControl. Every rank makes one, calls Report()
// when its part is done, and then AgreeOn(), unless rank 0 has ended the job.
class PhaseReports {
 public:
  explicit PhaseReports(World& world) : world_(world), missing_(world.size() - 1) {}

  // How this rank's part ended. Errors: of the world.
  absl::Status Report(const absl::Status& mine);

  // Rank 0, now and then while it works: the first failure that is known ("rank 2: ..."), else OK.
  absl::Status Look();

  // Rank 0, after its own Report(): waits until all ranks have reported, at most `patience_seconds` once a failure is
  // known. OK if all have, whatever they reported; else that failure: some rank still works, so the job must be ended.
  absl::Status WaitForAll(double patience_seconds);

 private:
  World& world_;
  int missing_;  // Reports that rank 0 still waits for.
  absl::Status failure_;
};

// Checks a partition of the ranks into groups before communicators are made of them: every rank gives the list of its
// own group, and all members of a group must give the same one. Collective, with the same verdict on every rank.
// Errors: kInvalidArgument naming the first rank whose group is not one.
absl::Status CheckGroups(World& world, std::span<const int> group);

}  // namespace shoal
