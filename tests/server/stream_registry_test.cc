// Ids, limits and the list of streams that are still being read.
#include "server/stream_registry.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class CountingStream final : public RegisteredStream {
 public:
  void Abort() override { ++aborts; }
  void CheckStalled() override { ++checks; }
  void ForceEnd() override { ++ends; }
  std::atomic<int> aborts{0}, checks{0}, ends{0};
};

TEST(StreamRegistryTest, AMadeIdPassesOverOnesThatClientsTook) {
  StreamRegistry registry;
  const auto stream = std::make_shared<CountingStream>();
  const auto first = registry.Add("", stream, 10);
  ASSERT_TRUE(first.ok());
  EXPECT_THAT(*first, StartsWith("shoal-"));
  ASSERT_EQ(first->substr(first->size() - 2), "-1");
  const std::string next = first->substr(0, first->size() - 1) + "2";
  ASSERT_TRUE(registry.Add(next, stream, 10).ok());
  const auto second = registry.Add("", stream, 10);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->substr(second->size() - 2), "-3");
  EXPECT_NE(*StreamRegistry().Add("", stream, 10), *first);
}

TEST(StreamRegistryTest, AnIdIsFreeAtTheFinishButTheStreamIsWatchedUntilItIsRemoved) {
  StreamRegistry registry;
  const auto stream = std::make_shared<CountingStream>();
  ASSERT_TRUE(registry.Add("a", stream, 10).ok());
  EXPECT_EQ(registry.Add("a", stream, 10).status().code(), absl::StatusCode::kAlreadyExists);
  registry.Finish("a");
  EXPECT_FALSE(registry.Abort("a"));
  EXPECT_EQ(registry.size(), 1u);
  const int before = stream->checks;
  for (int i = 0; i < 5000 && stream->checks < before + 2; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_GE(stream->checks, before + 2);
  const auto other = std::make_shared<CountingStream>();
  ASSERT_TRUE(registry.Add("a", other, 10).ok());
  EXPECT_EQ(registry.size(), 2u);
  registry.Remove(stream.get());
  EXPECT_EQ(registry.size(), 1u);
  registry.Close();
  EXPECT_EQ(other->ends, 1);
  EXPECT_EQ(stream->ends, 0);
}

TEST(StreamRegistryTest, RunningStreamsAreBounded) {
  StreamRegistry registry;
  const auto stream = std::make_shared<CountingStream>();
  ASSERT_TRUE(registry.Add("a", stream, 2).ok());
  ASSERT_TRUE(registry.Add("b", stream, 2).ok());
  const absl::Status full = registry.Add("c", stream, 2).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("the queue is full with 2 requests"));
  registry.Finish("a");
  EXPECT_TRUE(registry.Add("c", stream, 2).ok());
}

}  // namespace
}  // namespace shoal
