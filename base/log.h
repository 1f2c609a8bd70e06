// One line per event on standard error: "I 12:03:04.567 r1 text". Nothing else writes there.
#pragma once

#include <string_view>

#include "base/str_cat.h"

namespace shoal {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

// Shown in every line after the time; set once by the rank program, before threads start.
void SetLogRank(int rank);

// Lines below `level` are dropped; kInfo until called.
void SetLogLevel(LogLevel level);

// Whether a person sees standard error as it is written.
bool LogIsTerminal();

// Terminals only: shows `text`, without a newline, in place of what was shown last; the next log line takes its place.
// "" removes it.
void ShowBelowLog(std::string_view text);

// Writes one line with a single write(2), so that lines of several ranks do not mix. Newlines in `text` become spaces.
void LogLine(LogLevel level, std::string_view text);

template <typename... Args>
void LogInfo(const Args&... args) {
  LogLine(LogLevel::kInfo, StrCat(args...));
}
template <typename... Args>
void LogWarning(const Args&... args) {
  LogLine(LogLevel::kWarning, StrCat(args...));
}
template <typename... Args>
void LogError(const Args&... args) {
  LogLine(LogLevel::kError, StrCat(args...));
}

}  // namespace shoal
