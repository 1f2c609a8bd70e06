// Micro-benchmarks of the CPU kernels, in the shapes of DeepSeek-R1-Distill-Qwen-1.5B.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "benchmark/benchmark.h"
#include "tests/kernels/kernels_testing.h"

namespace shoal {

struct BenchSettings {
  std::string isa;  // As CpuDeviceOptions.
  int threads = 0;  // 0: one per core that this process may use.
  // Copies of a matrix that are multiplied by in turn come to so much together, so that weights are read from memory as
  // in a decoder and not from a cache.
  int64_t weight_mib = 256;
};

// The shapes.
constexpr int64_t kHidden = 1536, kFfn = 8960, kVocab = 151936, kHeads = 12, kKvHeads = 2, kHeadDim = 128;

// A device as the settings say, in a Rig. The program has checked that this machine has it.
inline std::unique_ptr<Rig> NewRig(const BenchSettings& settings) {
  absl::StatusOr<std::unique_ptr<Device>> device =
      CreateCpuDevice({.threads = settings.threads, .memory_budget = 0, .isa = settings.isa});
  SHOAL_CHECK(device.ok());
  return std::make_unique<Rig>(*std::move(device));
}

// Times are of the clock on the wall: a device works with threads of its own.
template <typename Fn>
void AddBenchmark(const std::string& name, Fn fn) {
  benchmark::RegisterBenchmark(name.c_str(), fn)->UseRealTime();
}

// Counters of an iteration: bytes that it must read and write, items (rows, tokens), and operations.
inline void Count(benchmark::State& state, int64_t bytes, int64_t items, double ops) {
  state.SetBytesProcessed(state.iterations() * bytes);
  state.SetItemsProcessed(state.iterations() * items);
  if (ops > 0) state.counters["ops"] = benchmark::Counter(ops, benchmark::Counter::kIsIterationInvariantRate);
}

void AddLinearBenchmarks(const BenchSettings& settings);
void AddAttentionBenchmarks(const BenchSettings& settings);
void AddRowBenchmarks(const BenchSettings& settings);
void AddThreadPoolBenchmarks(const BenchSettings& settings);

}  // namespace shoal
