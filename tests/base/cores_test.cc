#include "base/cores.h"

#include <sched.h>

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

}  // namespace
}  // namespace shoal
