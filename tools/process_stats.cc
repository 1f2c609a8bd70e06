#include "tools/process_stats.h"

#include <time.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace shoal {
namespace {

// Files of /proc have no size before they are read.
std::string ReadProcFile(const char* path) {
  std::string text(size_t{64} << 10, '\0');
  std::ifstream file(path);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

absl::Status Unreadable(const char* what) {
  return absl::UnavailableError(std::string("cannot find ") + what + " in /proc/self");
}

}  // namespace

absl::StatusOr<double> SecondsSinceProcessStart() {
  const std::string text = ReadProcFile("/proc/self/stat");
  // The second field is the program's name in parentheses, which may hold blanks; field 22 is the start, in clock ticks
  // since the machine started.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return Unreadable("the time of start");
  const std::vector<std::string> fields = absl::StrSplit(text.substr(name_end + 1), ' ', absl::SkipEmpty());
  constexpr size_t kStartTime = 22 - 3;
  int64_t ticks = 0;
  timespec now{};
  if (fields.size() <= kStartTime || !absl::SimpleAtoi(fields[kStartTime], &ticks) ||
      clock_gettime(CLOCK_BOOTTIME, &now) != 0) {
    return Unreadable("the time of start");
  }
  const double start = static_cast<double>(ticks) / static_cast<double>(sysconf(_SC_CLK_TCK));
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) - start;
}

absl::StatusOr<int64_t> PeakResidentBytes() {
  const std::string text = ReadProcFile("/proc/self/status");
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, "VmHWM:") || !absl::ConsumeSuffix(&line, "kB")) continue;
    int64_t kib = 0;
    if (absl::SimpleAtoi(line, &kib)) return kib << 10;
  }
  return Unreadable("VmHWM");
}

}  // namespace shoal
