// RMSNorm, residual sums and the quantization that follows. Bound: each row is read and written once; at a few rows,
// the latency of one block.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/quantize.cuh"
#include "kernels/cuda/rms_norm.cuh"

namespace shoal::cuda {
namespace {

__global__ void __launch_bounds__(kNormThreadsMax) RmsNorm(RmsNormArgs a) {
  SHOAL_DYNAMIC_SHARED(float, staged);
  float* row = a.x + blockIdx.x * a.x_stride;
  const double* delta = a.delta == nullptr ? nullptr : a.delta + blockIdx.x * a.delta_stride;
  RmsNormRow(a, blockIdx.x, staged, [&](int j) {
    float value = row[j];
    if (delta != nullptr) {
      value += static_cast<float>(delta[j]);
      row[j] = value;
    }
    return value;
  });
}

__global__ void __launch_bounds__(kNormThreadsMax) AddResidual(AddResidualArgs a) {
  const double* delta = a.delta + blockIdx.x * a.delta_stride;
  float* residual = a.residual + blockIdx.x * a.residual_stride;
  for (int j = threadIdx.x; j < a.cols; j += blockDim.x) residual[j] += static_cast<float>(delta[j]);
}

// A warp per head.
__global__ void __launch_bounds__(kNormThreadsMax) HeadRmsNorm(HeadRmsNormArgs a) {
  const int head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (head >= a.rows * a.heads_per_row) return;  // The whole warp.
  float* x = a.heads + head / a.heads_per_row * a.stride + head % a.heads_per_row * a.head_dim;
  const float s = InverseRms(x, a.head_dim, a.eps);
  __syncwarp();
  for (int j = threadIdx.x % 32; j < a.head_dim; j += 32) x[j] = x[j] * s * a.gain[j];
}

// A warp per group.
__global__ void __launch_bounds__(kNormThreadsMax) Quantize(QuantizeArgs a) {
  const int groups = a.cols / a.out.group;
  const int index = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (index >= a.rows * groups) return;  // The whole warp.
  const int64_t row = index / groups;
  const int g = index % groups;
  const float* x = a.x + row * a.x_stride + g * a.out.group;
  float values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = 32 * i < a.out.group ? x[32 * i + threadIdx.x % 32] : 0.0f;
  QuantizeGroup(values, a.out.group, a.out.q + row * a.out.q_stride + g * a.out.group,
                a.out.scale + row * a.out.scale_stride + g,
                a.out.sum + row * a.out.sum_stride + g * (a.out.group / 32));
}

}  // namespace

void LaunchRmsNorm(const RmsNormArgs& args, Stream stream) {
  SHOAL_LAUNCH(RmsNorm, dim3(args.rows), dim3(NormThreads(args.cols)), NormSharedBytes(args.cols), stream, args);
}

void LaunchAddResidual(const AddResidualArgs& args, Stream stream) {
  SHOAL_LAUNCH(AddResidual, dim3(args.rows), dim3(NormThreads(args.cols)), 0, stream, args);
}

void LaunchHeadRmsNorm(const HeadRmsNormArgs& args, Stream stream) {
  constexpr int kWarps = 4;
  SHOAL_LAUNCH(HeadRmsNorm, dim3((args.rows * args.heads_per_row + kWarps - 1) / kWarps), dim3(32 * kWarps), 0, stream,
               args);
}

void LaunchQuantize(const QuantizeArgs& args, Stream stream) {
  constexpr int kWarps = 4;
  const int groups = args.rows * (args.cols / args.out.group);
  SHOAL_LAUNCH(Quantize, dim3((groups + kWarps - 1) / kWarps), dim3(32 * kWarps), 0, stream, args);
}

}  // namespace shoal::cuda
