#include "kernels/cpu/cpu_ops.h"

namespace shoal::cpu {
namespace {

// Waking the workers costs a few microseconds; less work than this is done faster alone.
constexpr int64_t kForkCostMin = 20000;

}  // namespace

CpuOps::CpuOps(ThreadPool& pool, const KernelTable& kernels)
    : pool_(pool), kernels_(kernels), scratch_(pool.threads()) {}

void CpuOps::Parallel(int64_t n, int64_t cost_each, const std::function<void(int64_t begin, int64_t end)>& work) {
  if (n <= 0) return;
  if (n == 1 || pool_.threads() == 1 || n * cost_each < kForkCostMin) {
    work(0, n);
    return;
  }
  pool_.ParallelFor(n, 1, [&](int64_t begin, int64_t end, int) { work(begin, end); });
}

}  // namespace shoal::cpu
