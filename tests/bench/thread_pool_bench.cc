// Fork and join: what it costs to give every worker of a pool next to nothing to do.
#include "base/cores.h"
#include "base/thread_pool.h"
#include "tests/bench/kernels_bench.h"

namespace shoal {
namespace {

int Threads(const BenchSettings& settings) { return settings.threads > 0 ? settings.threads : CoresAllowed(); }

void ForkJoin(benchmark::State& state, const BenchSettings& settings) {
  ThreadPool pool(Threads(settings));
  for (auto _ : state) {
    pool.Run([](int worker) { benchmark::DoNotOptimize(worker); });
  }
  Count(state, 0, 1, 0);
}

void ParallelFor(benchmark::State& state, const BenchSettings& settings) {
  ThreadPool pool(Threads(settings));
  for (auto _ : state) {
    pool.ParallelFor(1024, 1, [](int64_t begin, int64_t end, int) { benchmark::DoNotOptimize(begin + end); });
  }
  Count(state, 0, 1024, 0);
}

}  // namespace

void AddThreadPoolBenchmarks(const BenchSettings& settings) {
  AddBenchmark("thread_pool/run", [=](benchmark::State& state) { ForkJoin(state, settings); });
  AddBenchmark("thread_pool/parallel_for", [=](benchmark::State& state) { ParallelFor(state, settings); });
}

}  // namespace shoal
