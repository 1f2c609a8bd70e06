// CreateCudaDevice of a build without the CUDA Toolkit.
#include "kernels/device.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const CudaDeviceOptions&) {
  return absl::FailedPreconditionError(
      "this build has no CUDA: install the CUDA Toolkit, configure again and rebuild, or set device to CPU");
}

}  // namespace shoal
