#include "base/cores.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>

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

// One number of a core's topology; 0 where the system does not say.
int Topology(int cpu, const char* what) {
  std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/" + what);
  int value = 0;
  return file >> value ? value : 0;
}

std::vector<int> CoresOfMask() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cores.push_back(cpu);
  }
  return cores;
}

bool SetMask(std::span<const int> cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cores) CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof(set), &set) == 0;
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
  static const int allowed = [] {
    const int cores = std::max(1, static_cast<int>(CoresOfMask().size()));
    const int granted = CoresOfGroups();
    return granted > 0 ? std::min(cores, granted) : cores;
  }();
  return allowed;
}

std::vector<int> PartOfCores(std::vector<CoreId> cores, int index, int parts) {
  const int64_t count = static_cast<int64_t>(cores.size());
  std::vector<int> part;
  if (count < parts) return part;
  std::sort(cores.begin(), cores.end(), [](const CoreId& a, const CoreId& b) {
    return std::tie(a.package, a.core, a.cpu) < std::tie(b.package, b.core, b.cpu);
  });
  for (int64_t i = count * index / parts; i < count * (index + 1) / parts; ++i) part.push_back(cores[i].cpu);
  return part;
}

std::vector<int> PartOfCoresAllowed(int index, int parts) {
  std::vector<CoreId> cores;
  for (const int cpu : CoresOfMask()) {
    cores.push_back({Topology(cpu, "physical_package_id"), Topology(cpu, "core_id"), cpu});
  }
  const int granted = CoresOfGroups();
  if (granted > 0 && granted < static_cast<int>(cores.size())) return {};
  return PartOfCores(std::move(cores), index, parts);
}

PinnedThread::PinnedThread(std::span<const int> cores) {
  if (cores.empty()) return;
  std::vector<int> before = CoresOfMask();
  if (SetMask(cores)) before_ = std::move(before);
}

PinnedThread::~PinnedThread() {
  if (!before_.empty()) SetMask(before_);
}

}  // namespace shoal
