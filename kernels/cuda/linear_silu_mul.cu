// silu(gate) * up of a product that was written in full (dense weights; quantized ones have it in their epilogues).
// Bound: one pass over [T, 2F].
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) SiluMulRows(SiluMulArgs a) {
  const int j = blockIdx.x * kThreads + threadIdx.x;
  if (j >= a.cols) return;
  const float* gate = a.gate_up + blockIdx.y * a.stride;
  a.out[blockIdx.y * a.out_stride + j] = SiluMul(gate[j], gate[a.cols + j]);
}

}  // namespace

void LaunchSiluMul(const SiluMulArgs& args, Stream stream) {
  SHOAL_LAUNCH(SiluMulRows, dim3((args.cols + kThreads - 1) / kThreads, args.rows), dim3(kThreads), 0, stream, args);
}

}  // namespace shoal::cuda
