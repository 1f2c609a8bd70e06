// CUDA in the conformance suite without a GPU: every path in several orders of the lanes' turns, for in one order alone
// a missing barrier may go unnoticed.
#include "tests/kernels/cuda_variants.h"

#include "kernels/cuda/cuda_device.h"
#include "tests/emulation/emulated_runtime.h"

namespace shoal {
namespace {

using cuda_emulation::EmulatedGpu;

struct Variant {
  std::string suffix;
  EmulatedGpu gpu;
};

const std::vector<Variant>& Variants() {
  static const std::vector<Variant> variants = {{"", {}},
                                                {"-descending", {.lane_order = 1}},
                                                {"-shuffled", {.lane_order = 20}},
                                                {"-late", {.lane_order = 71, .late = true}}};
  return variants;
}

}  // namespace

std::vector<std::string> CudaVariants() {
  std::vector<std::string> names;
  for (const Variant& variant : Variants()) {
    for (const char* path : {"dp4a", "sm75", "sm80"}) names.push_back("cuda-" + (path + variant.suffix));
  }
  return names;
}

absl::StatusOr<std::unique_ptr<Device>> MakeCudaVariant(const std::string& name, CudaDeviceOptions options) {
  for (const Variant& variant : Variants()) {
    for (const char* path : {"dp4a", "sm75", "sm80"}) {
      if (name != "cuda-" + (path + variant.suffix)) continue;
      options.path = path;
      return cuda::MakeCudaDevice(cuda_emulation::MakeEmulatedRuntime(variant.gpu), options);
    }
  }
  return absl::InvalidArgumentError("no such variant: " + name);
}

}  // namespace shoal
