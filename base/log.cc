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
std::atomic<bool> g_below{false};  // Something stands below the log.

constexpr std::string_view kClearLine = "\r\033[K";

void Write(const std::string& text) {
  // A full disk or closed pipe must not stop the service: a lost log line is lost.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

void SetLogRank(int rank) { g_rank = rank; }

void SetLogLevel(LogLevel level) { g_level = level; }

bool LogIsTerminal() { return isatty(STDERR_FILENO) != 0; }

void ShowBelowLog(std::string_view text) {
  if (g_below.exchange(!text.empty()) || !text.empty()) Write(std::string(kClearLine).append(text));
}

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
  if (g_below.exchange(false)) line.insert(0, kClearLine);
  Write(line);
}

}  // namespace shoal
