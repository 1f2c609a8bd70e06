// How far long work on many bytes has come: a bar where a person looks on, else a line in the log every few seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace shoal {

// "loading m [#####...............] 25 %, 0.9 of 3.6 GB, 812 MB/s"; the bar is left out if `bar_width` is 0.
std::string ProgressText(std::string_view what, int64_t done, int64_t total, double seconds, int bar_width);

// Used by one thread.
class Progress {
 public:
  // `what` is a verb and its object. The clock starts here.
  explicit Progress(std::string what);
  // Removes the bar, so that what is said next stands alone.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Cheap: what has been shown a moment ago is not shown again.
  void Update(int64_t done, int64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  bool bar_;
  Clock::time_point start_;
  Clock::time_point next_;
};

}  // namespace shoal
