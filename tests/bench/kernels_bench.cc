// Speed of the CPU kernels: `kernels_bench [--isa=NAME] [--threads=N] [--weight-mib=N] [--benchmark_...]`. Run it on a
// quiet machine; --benchmark_filter=REGEX chooses, --benchmark_format=json is for programs.
#include "tests/bench/kernels_bench.h"

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/machine_rates.h"

namespace shoal {
namespace {

// Takes our flags out of argv. False, with a line on standard error, for a wrong value.
bool TakeFlags(int* argc, char** argv, BenchSettings* settings) {
  int kept = 1;
  for (int i = 1; i < *argc; ++i) {
    absl::string_view word = argv[i];
    bool good = true;
    if (absl::ConsumePrefix(&word, "--isa=")) {
      settings->isa = std::string(word);
    } else if (absl::ConsumePrefix(&word, "--threads=")) {
      good = absl::SimpleAtoi(word, &settings->threads) && settings->threads >= 1 && settings->threads <= 1024;
    } else if (absl::ConsumePrefix(&word, "--weight-mib=")) {
      good = absl::SimpleAtoi(word, &settings->weight_mib) && settings->weight_mib >= 1 &&
             settings->weight_mib <= (1 << 20);
    } else {
      argv[kept++] = argv[i];
    }
    if (good) continue;
    std::fprintf(stderr, "kernels_bench: %s is not understood\n", argv[i]);
    return false;
  }
  *argc = kept;
  return true;
}

int Main(int argc, char** argv) {
  BenchSettings settings;
  if (!TakeFlags(&argc, argv, &settings)) return 2;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const auto device = CreateCpuDevice({.threads = settings.threads, .memory_budget = 0, .isa = settings.isa});
  const auto rates = MeasureMachineRates({.threads = settings.threads, .isa = settings.isa});
  if (!device.ok() || !rates.ok()) {
    const absl::Status status = device.ok() ? rates.status() : device.status();
    std::fprintf(stderr, "kernels_bench: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  benchmark::AddCustomContext("device", (*device)->description());
  benchmark::AddCustomContext("memory_read", absl::StrCat(rates->read_bytes_per_second / 1e9, " GB/s"));
  benchmark::AddCustomContext("int8", absl::StrCat(rates->int8_ops_per_second / 1e9, " GOPS"));
  AddLinearBenchmarks(settings);
  AddAttentionBenchmarks(settings);
  AddRowBenchmarks(settings);
  AddThreadPoolBenchmarks(settings);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) { return shoal::Main(argc, argv); }
