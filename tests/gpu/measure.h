// What the benchmarks of a GPU measure: the ceilings of the hardware, and steps of a model.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "kernels/cuda/runtime.h"
#include "tests/gpu/bench_model.h"

namespace shoal {

// Seconds of a monotonic clock.
double NowSeconds();

struct Ceilings {
  double copy = 0;     // Bytes per second of a copy from device to device, read and written both counted.
  double int8_75 = 0;  // Operations per second of mma.m8n8k16,
  double int8_80 = 0;  // and of mma.m16n8k32; 0 where the GPU lacks it.
  double int8() const { return int8_80 > int8_75 ? int8_80 : int8_75; }
};

// Takes 2 * copy_bytes of device memory for the time being. Errors: kResourceExhausted; faults.
absl::StatusOr<Ceilings> MeasureCeilings(cuda::Runtime& runtime, int64_t copy_bytes, int mma_rounds);

// One kind of step, in seconds.
struct StepTimes {
  double queued = 0;  // Passes queued one after the other: what the GPU needs, or the CPU to launch, if that is more.
  double step = 0;    // Inputs, pass, candidates, and waiting for them: what a server's step takes at least. Median.
};

// `forward` queues the pass of the step that `model` is set to; `steps` of them are timed.
absl::StatusOr<StepTimes> MeasureStep(BenchModel& model, Device& device, int steps, int candidates,
                                      const std::function<absl::Status()>& forward);

// Seconds of one TopK of the step's sampled rows.
absl::StatusOr<double> MeasureTopK(BenchModel& model, Device& device, int steps, int candidates);

// Median seconds of the pass alone, from launch to end.
absl::StatusOr<double> MeasurePrefill(BenchModel& model, Device& device, int repeats);

}  // namespace shoal
