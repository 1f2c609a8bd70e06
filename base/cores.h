// How many cores this process may keep busy.
#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace shoal {

// Cores of the affinity mask, or fewer where a control group (a container's CPU limit) grants less time; at least 1. As
// it was at the first call: what a PinnedThread does later does not show.
int CoresAllowed();

// What a cgroup v2 file cpu.max ("150000 100000": microseconds per period; "max 100000": no limit) grants, rounded up
// to whole cores; 0 for no limit or another text.
int CoresOfCpuMax(std::string_view text);

// Where a core lies, as the system numbers it.
struct CoreId {
  int package = 0;
  int core = 0;  // Of the package; hardware threads of one core have the same.
  int cpu = 0;   // As affinity masks count.
};

// The `index`-th of `parts` parts of `cores` as equal as they can be, as numbers for affinity masks. Hardware threads
// of one core and cores of one package stay together. Empty if there are fewer cores than parts.
std::vector<int> PartOfCores(std::vector<CoreId> cores, int index, int parts);

// PartOfCores of those that the calling thread may use. Empty, too, if a group's quota grants less than them all: then
// threads do better to go where there is room.
std::vector<int> PartOfCoresAllowed(int index, int parts);

// Keeps the calling thread, and the threads that it starts, on some cores while this object exists. Does nothing if
// there are none, or if the system refuses: that costs speed only.
class PinnedThread {
 public:
  explicit PinnedThread(std::span<const int> cores);
  ~PinnedThread();
  PinnedThread(const PinnedThread&) = delete;
  PinnedThread& operator=(const PinnedThread&) = delete;

 private:
  std::vector<int> before_;  // The cores of the thread until then; empty: nothing was changed.
};

}  // namespace shoal
