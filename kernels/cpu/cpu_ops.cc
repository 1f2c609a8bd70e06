#include "kernels/cpu/cpu_ops.h"

#include <algorithm>

namespace shoal::cpu {
namespace {

// Less work than this is done faster alone, in nanoseconds.
constexpr int64_t kForkCostMin = 10000;
// Work is taken in pieces of at least this much, and in no more pieces of a worker's share than that.
constexpr int64_t kPieceCostMin = 5000;
constexpr int64_t kPiecesMax = 16;

}  // namespace

CpuOps::CpuOps(ThreadPool& pool, const KernelTable& kernels)
    : pool_(pool), kernels_(kernels), scratch_(pool.threads()) {}

void CpuOps::Parallel(int64_t n, int64_t cost_each, const std::function<void(int64_t begin, int64_t end)>& work,
                      int64_t multiple) {
  if (n <= 0) return;
  if (n == 1 || pool_.threads() == 1 || n * cost_each < kForkCostMin) {
    work(0, n);
    return;
  }
  const int64_t by_cost = kPieceCostMin / std::max<int64_t>(cost_each, 1),
                by_count = n / (pool_.threads() * kPiecesMax);
  const int64_t grain = std::max(by_cost, by_count) / multiple * multiple + multiple;
  pool_.BalancedFor(n, grain, [&](int64_t begin, int64_t end, int) { work(begin, end); });
}

}  // namespace shoal::cpu
