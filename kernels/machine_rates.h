// What this machine can do at most, measured: the ceilings that speeds of the CPU device are judged by.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace shoal {

struct MachineRatesOptions {
  int threads = 0;                     // As CpuDeviceOptions.
  std::string isa;                     // As CpuDeviceOptions.
  int64_t bytes = int64_t{512} << 20;  // Memory to read; far more than the caches hold.
  int rounds = 5;              // Passes of each kind; the best counts, since neighbours only ever slow a pass down.
  double int8_seconds = 0.05;  // About, of one int8 pass.
};

struct MachineRates {
  int threads = 0;
  std::string kernels;               // "avx512-vnni"
  double read_bytes_per_second = 0;  // The best of plain loads and of loads with a prefetch 1 KiB ahead.
  double int8_ops_per_second = 0;  // Multiplications and additions of dot products whose operands are in the L1 cache.
};

// Takes about a second. Errors: as CreateCpuDevice; kInvalidArgument for options out of range; kResourceExhausted
// without memory for `bytes`.
absl::StatusOr<MachineRates> MeasureMachineRates(const MachineRatesOptions& options = {});

}  // namespace shoal
