// Rotary position embedding. Bound: each head is read and written once; the table is made once per step.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 128;

// Cosine and sine in double: for a few thousand angles a step even a card with few double units needs microseconds.
__global__ void __launch_bounds__(kThreads) RopeTable(RopeTableArgs a) {
  const int index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= a.rows * a.half) return;
  const int row = index / a.half, j = index % a.half;
  const double angle = static_cast<float>(a.positions[row]) * a.inv_freq[j];
  float* out = a.out + row * a.out_stride;
  out[j] = static_cast<float>(cos(angle)) * a.scale;
  out[a.half + j] = static_cast<float>(sin(angle)) * a.scale;
}

__global__ void __launch_bounds__(kThreads) Rope(RopeArgs a) {
  const float* cosine = a.table + blockIdx.x * a.table_stride;
  const float* sine = cosine + a.half;
  for (int i = threadIdx.x; i < a.heads_per_row * a.half; i += kThreads) {
    const int j = i % a.half;
    float* first = a.heads + blockIdx.x * a.stride + i / a.half * (2 * a.half) + j;
    const float x = first[0], y = first[a.half];
    first[0] = x * cosine[j] - y * sine[j];
    first[a.half] = y * cosine[j] + x * sine[j];
  }
}

}  // namespace

void LaunchRopeTable(const RopeTableArgs& args, Stream stream) {
  SHOAL_LAUNCH(RopeTable, dim3((args.rows * args.half + kThreads - 1) / kThreads), dim3(kThreads), 0, stream, args);
}

void LaunchRope(const RopeArgs& args, Stream stream) {
  SHOAL_LAUNCH(Rope, dim3(args.rows), dim3(kThreads), 0, stream, args);
}

}  // namespace shoal::cuda
