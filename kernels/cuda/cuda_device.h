// A GPU as a Device, over either Runtime.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/runtime.h"
#include "kernels/device.h"

namespace shoal::cuda {

// Errors: kInvalidArgument for an unknown path; kResourceExhausted if the budget does not hold the workspace.
absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(std::unique_ptr<Runtime> runtime,
                                                       const CudaDeviceOptions& options);

}  // namespace shoal::cuda
