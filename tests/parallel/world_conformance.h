// One suite for every World and Communicator. A program links world_conformance.cc and instantiates the suite.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "parallel/communicator.h"
#include "parallel/world.h"

namespace shoal {

// What one rank of a test has.
struct RankUnderTest {
  World& world;
  std::function<absl::StatusOr<std::unique_ptr<Communicator>>(std::span<const int> group)> create_communicator;
};

using RankBody = std::function<void(RankUnderTest&)>;

// Starts `body` on every rank and returns when all are done. Where ranks are processes, it runs only this one's.
struct WorldBackend {
  std::string name;
  int ranks_in_process = 1;
  std::function<void(const RankBody&)> run;
};

inline void PrintTo(const WorldBackend& backend, std::ostream* out) { *out << backend.name; }

// Small, so that the tests of the limit are quick.
constexpr WorldLimits kTestLimits = {.unread_messages_max = 40, .unread_seconds_max = 0.3};

class WorldConformanceTest : public testing::TestWithParam<WorldBackend> {
 protected:
  void Run(const RankBody& body) { GetParam().run(body); }
};

}  // namespace shoal
