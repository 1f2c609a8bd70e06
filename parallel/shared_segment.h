// Memory that processes of one host share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "parallel/world.h"

namespace shoal {

// What one rank writes and another one polls is this far from all else: two cache lines, since processors fetch lines
// in pairs.
constexpr int64_t kShmAlignment = 128;

// No segment may be larger.
constexpr int64_t kSegmentBytesMax = int64_t{16} << 30;

// POSIX shared memory of a group of ranks. Its name exists only while Create runs, so that nothing is left behind by
// ranks that die later; one that dies inside of it leaves a file named /dev/shm/shoal-* behind.
class SharedSegment {
 public:
  // Zeroed memory: `bytes`, in whole pages and the same on all ranks of `group`, or none. Collective over the whole
  // world: every rank calls it, each with its own group. Errors, the same on all ranks of a group: kResourceExhausted
  // if the host has no room (/dev/shm in containers is often small); kUnavailable if some rank does not see the memory,
  // as on another host.
  static absl::StatusOr<std::unique_ptr<SharedSegment>> Create(World& world, std::span<const int> group, int64_t bytes);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  std::span<std::byte> memory() const;

 private:
  explicit SharedSegment(int64_t bytes) : bytes_(bytes) {}
  absl::Status Map(int file);

  int64_t bytes_;
  std::byte* mapping_ = nullptr;  // One page with what proves that it is ours, then the memory.
};

}  // namespace shoal
