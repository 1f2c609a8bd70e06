#include "base/cores.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <string>
#include <system_error>

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
  if (text.ends_with('\n')) text.remove_suffix(1);
  const char* end = text.data() + text.size();
  int64_t quota = 0, period = 0;
  const auto [space, quota_error] = std::from_chars(text.data(), end, quota);
  if (quota_error != std::errc() || space == end || *space != ' ') return 0;
  const auto [rest, period_error] = std::from_chars(space + 1, end, period);
  if (period_error != std::errc() || rest != end || quota <= 0 || period <= 0) return 0;
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
