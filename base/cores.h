// How many cores this process may keep busy.
#pragma once

#include <string_view>

namespace shoal {

// Cores of the affinity mask, or fewer where a control group (a container's CPU limit) grants less time; at least 1.
int CoresAllowed();

// What a cgroup v2 file cpu.max ("150000 100000": microseconds per period; "max 100000": no limit) grants, rounded up
// to whole cores; 0 for no limit or another text.
int CoresOfCpuMax(std::string_view text);

}  // namespace shoal
