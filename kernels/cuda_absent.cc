// The CUDA devices of a build without the CUDA Toolkit: none.
#include "kernels/device.h"

namespace shoal {
namespace {

absl::Status NoCuda() {
  return absl::FailedPreconditionError(
      "this build has no CUDA; install the CUDA Toolkit, configure again and rebuild, or set device: CPU");
}

}  // namespace

int CudaGpuCount() { return 0; }

absl::StatusOr<CudaGpu> ProbeCudaGpu(int) { return NoCuda(); }

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const CudaDeviceOptions&) { return NoCuda(); }

}  // namespace shoal
