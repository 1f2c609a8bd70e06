#include "base/cores.h"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace shoal {
namespace {

// The least that the groups of this process grant, from its own up to the root; 0: no limit.
int CoresOfGroups() {
  std::ifstream membership("/proc/self/cgroup");
  std::string line, group;
  while (std::getline(membership, line)) {
    if (line.starts_with("0::/")) group = line.substr(3);
  }
  int cores = 0;
  while (true) {
    std::ifstream file("/sys/fs/cgroup" + group + "/cpu.max");
    std::string text;
    if (std::getline(file, text)) {
      const int granted = CoresOfCpuMax(text);
      if (granted > 0) cores = cores == 0 ? granted : std::min(cores, granted);
    }
    if (group.empty()) return cores;
    group.resize(group.rfind('/'));
  }
}

}  // namespace

int CoresOfCpuMax(std::string_view text) {
  const std::vector<std::string_view> parts = absl::StrSplit(absl::StripSuffix(text, "\n"), ' ');
  int64_t quota = 0, period = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &quota) || !absl::SimpleAtoi(parts[1], &period)) return 0;
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::min<int64_t>((quota - 1) / period + 1, 1 << 20));
}

int CoresAllowed() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
  const int granted = CoresOfGroups();
  return granted > 0 ? std::min(cores, granted) : cores;
}

}  // namespace shoal
