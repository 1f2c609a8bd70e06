#include "kernels/machine_rates.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cores.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/host_memory.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsOf(const std::function<void()>& work) {
  const Clock::time_point start = Clock::now();
  work();
  return std::max(std::chrono::duration<double>(Clock::now() - start).count(), 1e-9);
}

absl::StatusOr<double> ReadRate(const cpu::KernelTable& kernels, ThreadPool& pool, const MachineRatesOptions& options) {
  constexpr int64_t kUnit = 4096;
  const int64_t bytes = options.bytes / kUnit * kUnit;
  HostMemory memory(/*budget=*/0);
  ASSIGN_OR_RETURN(const std::unique_ptr<Buffer> buffer, memory.Allocate(MemoryKind::kWeights, bytes));
  const auto* data = reinterpret_cast<const uint8_t*>(buffer->data());
  // Weights are not touched by Allocate: the workers that read them do it, so that each finds its part on its own node.
  pool.ParallelFor(bytes / kUnit, 1, [&](int64_t begin, int64_t end, int) {
    std::memset(buffer->data() + begin * kUnit, 0, static_cast<size_t>((end - begin) * kUnit));
  });
  std::vector<int32_t> sums(static_cast<size_t>(pool.threads()) * 16);
  double best = 0;
  for (int round = 0; round < 2 * options.rounds; ++round) {
    const double seconds = SecondsOf([&] {
      pool.ParallelFor(bytes / kUnit, 1, [&](int64_t begin, int64_t end, int worker) {
        sums[static_cast<size_t>(worker) * 16] +=
            kernels.read_memory(data + begin * kUnit, (end - begin) * kUnit, round % 2 == 1);
      });
    });
    best = std::max(best, static_cast<double>(bytes) / seconds);
  }
  SHOAL_CHECK_EQ(sums[0], 0);
  return best;
}

double Int8Rate(const cpu::KernelTable& kernels, ThreadPool& pool, const MachineRatesOptions& options) {
  struct alignas(64) Operands {
    uint8_t weights[cpu::kRateBlocks * 16 * cpu::kRateCols];
    int8_t x[cpu::kRateTokens * cpu::kRateCols];
    int32_t sums[16];
    int64_t ops;
  };
  std::vector<Operands> operands(static_cast<size_t>(pool.threads()));
  for (Operands& mine : operands) {
    std::fill(std::begin(mine.weights), std::end(mine.weights), uint8_t{1});
    // As many of one sign as of the other, so that no number of repeats overflows the sums.
    for (size_t i = 0; i < std::size(mine.x); ++i) mine.x[i] = i % 2 == 0 ? 1 : -1;
  }
  const auto run = [&](int64_t repeats) {
    return SecondsOf([&] {
      pool.Run([&](int worker) {
        Operands& mine = operands[static_cast<size_t>(worker)];
        mine.ops = kernels.multiply_int8(mine.weights, mine.x, repeats, mine.sums);
      });
    });
  };
  int64_t repeats = 1;
  constexpr int64_t kRepeatsMax = int64_t{1} << 30;
  while (repeats < kRepeatsMax && run(repeats) < options.int8_seconds / 2) repeats *= 2;
  double best = 0;
  for (int round = 0; round < options.rounds; ++round) {
    const double seconds = run(repeats);
    best = std::max(best, static_cast<double>(operands[0].ops) * pool.threads() / seconds);
  }
  SHOAL_CHECK_EQ(operands[0].sums[0], 0);
  return best;
}

}  // namespace

absl::StatusOr<MachineRates> MeasureMachineRates(const MachineRatesOptions& options) {
  if (options.threads < 0 || options.threads > 1024 || options.bytes < (1 << 20) || options.rounds < 1 ||
      options.rounds > 1000 || !(options.int8_seconds > 0 && options.int8_seconds <= 10)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "machine rates: threads ", options.threads, " must be 0..1024, bytes ", options.bytes,
        " at least 1 MiB, rounds ", options.rounds, " 1..1000 and int8_seconds ", options.int8_seconds, " up to 10"));
  }
  ASSIGN_OR_RETURN(const cpu::KernelTable* kernels, cpu::ChooseKernels(options.isa));
  ThreadPool pool(options.threads > 0 ? options.threads : CoresAllowed());
  MachineRates rates;
  rates.threads = pool.threads();
  rates.kernels = kernels->name;
  ASSIGN_OR_RETURN(rates.read_bytes_per_second, ReadRate(*kernels, pool, options));
  rates.int8_ops_per_second = Int8Rate(*kernels, pool, options);
  return rates;
}

}  // namespace shoal
