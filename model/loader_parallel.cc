#include "model/loader_parallel.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/cores.h"

namespace shoal {

int LoaderThreads() { return std::min(CoresAllowed(), 64); }

absl::Status ParallelChunks(int64_t n, int64_t chunk, int threads,
                            const std::function<absl::Status(int64_t begin, int64_t end)>& work) {
  SHOAL_CHECK_GT(chunk, 0);
  const int64_t chunks = (n + chunk - 1) / chunk;
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  absl::Status first_error;  // Guarded by mutex, and so is its place.
  int64_t first_error_chunk = chunks;
  const auto run = [&] {
    while (true) {
      const int64_t i = next.fetch_add(1);
      if (i >= chunks) return;
      absl::Status status = work(i * chunk, std::min(n, (i + 1) * chunk));
      if (status.ok()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      if (i < first_error_chunk) {
        first_error_chunk = i;
        first_error = std::move(status);
      }
      next.store(chunks);
    }
  };
  std::vector<std::thread> helpers;
  for (int64_t i = 1; i < std::min<int64_t>(threads, chunks); ++i) helpers.emplace_back(run);
  run();
  for (std::thread& helper : helpers) helper.join();
  return first_error;
}

}  // namespace shoal
