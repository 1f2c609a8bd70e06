#include "base/cores.h"

#include <sched.h>

#include <span>
#include <vector>

#include "gtest/gtest.h"

namespace shoal {
namespace {

TEST(CoresTest, CpuMaxIsReadInWholeCores) {
  EXPECT_EQ(CoresOfCpuMax("200000 100000"), 2);
  EXPECT_EQ(CoresOfCpuMax("150000 100000\n"), 2);
  EXPECT_EQ(CoresOfCpuMax("1000 100000"), 1);
  EXPECT_EQ(CoresOfCpuMax("max 100000"), 0);
  for (const char* text : {"", "max", "1", "1 2 3", "-5 100000", "100000 0", "0 100000", "9223372036854775808 1"}) {
    EXPECT_EQ(CoresOfCpuMax(text), 0) << text;
  }
  EXPECT_EQ(CoresOfCpuMax("9223372036854775807 1"), 1 << 20);
}

TEST(CoresTest, ThisProcessMayUseAtMostTheCoresOfItsMask) {
  cpu_set_t set;
  CPU_ZERO(&set);
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  EXPECT_GE(CoresAllowed(), 1);
  EXPECT_LE(CoresAllowed(), CPU_COUNT(&set));
}

TEST(CoresTest, PartsKeepHardwareThreadsAndPackagesTogether) {
  // Two packages of two cores of two threads, numbered as Linux does: first threads of all cores, then the second ones.
  std::vector<CoreId> cores;
  for (int cpu = 0; cpu < 8; ++cpu) cores.push_back({.package = cpu % 4 / 2, .core = cpu % 2, .cpu = cpu});
  EXPECT_EQ(PartOfCores(cores, 0, 1), (std::vector<int>{0, 4, 1, 5, 2, 6, 3, 7}));
  EXPECT_EQ(PartOfCores(cores, 0, 2), (std::vector<int>{0, 4, 1, 5}));
  EXPECT_EQ(PartOfCores(cores, 1, 2), (std::vector<int>{2, 6, 3, 7}));
  EXPECT_EQ(PartOfCores(cores, 2, 3), (std::vector<int>{6, 3, 7}));
  EXPECT_EQ(PartOfCores(cores, 0, 9), std::vector<int>{});
  std::vector<int> all;
  for (int i = 0; i < 3; ++i) {
    for (const int cpu : PartOfCores(cores, i, 3)) all.push_back(cpu);
  }
  EXPECT_EQ(all, PartOfCores(cores, 0, 1));
}

TEST(CoresTest, APinnedThreadMayRunWhereItSaysAndLaterWhereItCouldBefore) {
  const std::vector<int> all = PartOfCoresAllowed(0, 1);
  if (all.empty()) GTEST_SKIP() << "a quota grants fewer cores than this process may use";
  const int allowed = CoresAllowed();
  {
    const PinnedThread pinned{std::span(all).first(1)};
    EXPECT_EQ(PartOfCoresAllowed(0, 1), std::vector<int>{all[0]});
    EXPECT_EQ(sched_getcpu(), all[0]);
    const PinnedThread nothing{std::span<const int>()};
    EXPECT_EQ(PartOfCoresAllowed(0, 1), std::vector<int>{all[0]});
    EXPECT_EQ(CoresAllowed(), allowed);
  }
  EXPECT_EQ(PartOfCoresAllowed(0, 1), all);
}

}  // namespace
}  // namespace shoal
