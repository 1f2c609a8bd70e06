// The CUDA back end's entries in the conformance suite. tests/emulation/cuda_variants.cc gives those of the emulation,
// tests/gpu/cuda_variants.cc those of a real GPU: the test program links one of them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"

namespace shoal {

// "cuda-" and a path of CudaDeviceOptions; what follows another hyphen is the emulation's.
std::vector<std::string> CudaVariants();

// Errors: as CreateCudaDevice. The name decides options.path.
absl::StatusOr<std::unique_ptr<Device>> MakeCudaVariant(const std::string& name, CudaDeviceOptions options = {});

}  // namespace shoal
