// The GPU that the emulation pretends to be, for tests that want another one than CreateCudaDevice's.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cuda/runtime.h"

namespace shoal::cuda_emulation {

struct EmulatedGpu {
  int lane_order = 0;  // SetLaneOrder, for every launch.
  // Queued work runs when the device first waits for it, as late as on a GPU, and not at once. Shows host code that
  // reads device memory, or reuses host memory, too early.
  bool late = false;
  int64_t total_bytes = int64_t{8} << 30;
  int64_t allocation_unit = 1;  // Every buffer is an allocation of its own, so that AddressSanitizer sees its ends.
  int compute_capability = 86;
  bool tensor_cores = true;
};

std::unique_ptr<cuda::Runtime> MakeEmulatedRuntime(const EmulatedGpu& gpu);

}  // namespace shoal::cuda_emulation
