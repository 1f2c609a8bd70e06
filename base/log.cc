#include "base/log.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <string>

namespace shoal {
namespace {

std::atomic<int> g_rank{-1};
std::atomic<LogLevel> g_level{LogLevel::kInfo};

}  // namespace

void SetLogRank(int rank) { g_rank = rank; }

void SetLogLevel(LogLevel level) { g_level = level; }

void LogLine(LogLevel level, std::string_view text) {
  if (level < g_level.load()) return;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  localtime_r(&now.tv_sec, &parts);
  char head[64];
  int length = std::snprintf(head, sizeof(head), "%c %02d:%02d:%02d.%03ld ", "DIWE"[static_cast<int>(level)],
                             parts.tm_hour, parts.tm_min, parts.tm_sec, now.tv_nsec / 1000000);
  if (const int rank = g_rank.load(); rank >= 0) {
    length += std::snprintf(head + length, sizeof(head) - length, "r%d ", rank);
  }
  std::string line(head, length);
  line.append(text);
  std::replace(line.begin(), line.end(), '\n', ' ');
  line.push_back('\n');
  // A full disk or closed pipe must not stop the service: a lost log line is lost.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace shoal
