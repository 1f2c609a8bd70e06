#include "base/progress.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/log.h"

namespace shoal {
namespace {

constexpr std::chrono::milliseconds kBarPause{100};
constexpr std::chrono::seconds kLinePause{2};
constexpr int kBarWidth = 24;

}  // namespace

std::string ProgressText(std::string_view what, int64_t done, int64_t total, double seconds, int bar_width) {
  done = std::clamp<int64_t>(done, 0, std::max<int64_t>(total, 0));
  const double part = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
  std::string text(what);
  if (bar_width > 0) {
    const int full = static_cast<int>(part * bar_width);
    text += " [" + std::string(full, '#') + std::string(bar_width - full, '.') + "]";
  } else {
    text += ":";
  }
  char numbers[96];
  std::snprintf(numbers, sizeof(numbers), " %d %%, %.1f of %.1f GB, %.0f MB/s", static_cast<int>(part * 100),
                static_cast<double>(done) * 1e-9, static_cast<double>(total) * 1e-9,
                static_cast<double>(done) * 1e-6 / std::max(seconds, 1e-3));
  return text + numbers;
}

Progress::Progress(std::string what)
    : what_(std::move(what)),
      bar_(LogIsTerminal()),
      start_(Clock::now()),
      next_(start_ + (bar_ ? Clock::duration(kBarPause) : Clock::duration(kLinePause))) {}

Progress::~Progress() {
  if (bar_) ShowBelowLog("");
}

void Progress::Update(int64_t done, int64_t total) {
  const Clock::time_point now = Clock::now();
  if (now < next_) return;
  next_ = now + (bar_ ? Clock::duration(kBarPause) : Clock::duration(kLinePause));
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const std::string text = ProgressText(what_, done, total, seconds, bar_ ? kBarWidth : 0);
  if (bar_) {
    ShowBelowLog(text);
  } else {
    LogInfo(text);
  }
}

}  // namespace shoal
