// CUDA in the conformance suite on a GPU: one entry per path.
#include "tests/kernels/cuda_variants.h"

namespace shoal {

std::vector<std::string> CudaVariants() { return {"cuda-dp4a", "cuda-sm75", "cuda-sm80"}; }

absl::StatusOr<std::unique_ptr<Device>> MakeCudaVariant(const std::string& name, CudaDeviceOptions options) {
  options.path = name.substr(std::string("cuda-").size());
  return CreateCudaDevice(options);
}

}  // namespace shoal
