// Two suites, for every World and every Communicator. A program links world_conformance.cc and
// communicator_conformance.cc and instantiates them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "parallel/communicator.h"
#include "parallel/world.h"

namespace shoal {

using Bytes = std::vector<std::byte>;

// Messages of random bytes: both ends make the same ones from the same seed.
inline Bytes RandomBytes(uint64_t seed, size_t size) {
  std::mt19937_64 random(seed);
  Bytes bytes(size);
  for (size_t i = 0; i < size; i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, size - i));
  }
  return bytes;
}

// What one rank of a test has.
struct RankUnderTest {
  World& world;
  std::function<absl::StatusOr<std::unique_ptr<Communicator>>(std::span<const int> group)> create_communicator;
};

using RankBody = std::function<void(RankUnderTest&)>;

// Starts `body` on every rank and returns when all are done. Where ranks are processes, it runs only this one's, and
// the limits are those of the process.
struct WorldBackend {
  std::string name;
  int ranks_in_process = 1;
  std::function<void(const RankBody&, const WorldLimits&)> run;
  bool emulated = false;  // Slow, and its times mean nothing: fewer rounds.
};

inline void PrintTo(const WorldBackend& backend, std::ostream* out) { *out << backend.name; }

// Few messages, so that a test meets the limit soon; seconds that no busy machine keeps a rank waiting.
constexpr WorldLimits kTestLimits = {.unread_messages_max = 40, .unread_seconds_max = 10};
// For tests that wait for the limit.
constexpr WorldLimits kImpatientLimits = {.unread_messages_max = 40, .unread_seconds_max = 0.3};
// A process has only one world, which must do for both.
constexpr WorldLimits kProcessLimits = {.unread_messages_max = 40, .unread_seconds_max = 3};

class WorldConformanceTest : public testing::TestWithParam<WorldBackend> {
 protected:
  void Run(const RankBody& body) { GetParam().run(body, kTestLimits); }
  void Run(const WorldLimits& limits, const RankBody& body) { GetParam().run(body, limits); }
};

// Of a backend whose world is another's, only the communicators.
class CommunicatorConformanceTest : public WorldConformanceTest {};

}  // namespace shoal
