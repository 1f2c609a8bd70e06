// RMSNorm, residual sums and the quantization that follows. Bound: each row is read and written once; at a few rows,
// the latency of one block.
//
// The squares of a row are summed in 64 lanes by fma, then by halves, by one warp: the order of the CPU's.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/quantize.cuh"

namespace shoal::cuda {
namespace {

constexpr int kThreadsMax = 256;
constexpr int kStagedColsMax = 10240;  // 40 KiB of shared memory; longer rows are read again from L2.

// 1 / sqrt(mean(x^2) + eps), by one whole warp.
__device__ __forceinline__ float InverseRms(const float* x, int n, float eps) {
  const int lane = threadIdx.x % 32;
  float low = 0.0f, high = 0.0f;
#pragma unroll 4
  for (int j = lane; j < n; j += 64) {
    const float a = x[j], b = j + 32 < n ? x[j + 32] : 0.0f;
    low = fmaf(a, a, low);
    high = fmaf(b, b, high);
  }
  return 1.0f / sqrtf(SumLanes<32>(low + high) / static_cast<float>(n) + eps);
}

__global__ void __launch_bounds__(kThreadsMax) RmsNorm(RmsNormArgs a) {
  SHOAL_DYNAMIC_SHARED(float, staged);  // [cols], unless the row is too long; then its inverse RMS.
  const bool stage = a.cols <= kStagedColsMax;
  float* inverse = staged + (stage ? a.cols : 0);
  float* row = a.x + blockIdx.x * a.x_stride;
  const double* delta = a.delta == nullptr ? nullptr : a.delta + blockIdx.x * a.delta_stride;
  for (int j = threadIdx.x; j < a.cols; j += blockDim.x) {
    float value = row[j];
    if (delta != nullptr) {
      value += static_cast<float>(delta[j]);
      row[j] = value;
    }
    if (stage) staged[j] = value;
  }
  __syncthreads();
  const float* x = stage ? staged : row;
  if (threadIdx.x < 32) {
    const float result = InverseRms(x, a.cols, a.eps);
    if (threadIdx.x == 0) *inverse = result;
  }
  __syncthreads();

  const float s = *inverse;
  const ActivationOut& out = a.out;
  float* dense = out.dense == nullptr ? nullptr : out.dense + blockIdx.x * out.dense_stride;
  if (out.q == nullptr) {
    for (int j = threadIdx.x; j < a.cols; j += blockDim.x) dense[j] = x[j] * s * a.gain[j];
    return;
  }
  const int lane = threadIdx.x % 32;
  for (int g = threadIdx.x / 32; g < a.cols / out.group; g += blockDim.x / 32) {
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int j = g * out.group + 32 * i + lane;
      values[i] = 32 * i < out.group ? x[j] * s * a.gain[j] : 0.0f;
      if (dense != nullptr && 32 * i < out.group) dense[j] = values[i];
    }
    QuantizeGroup(values, out.group, out.q + blockIdx.x * out.q_stride + g * out.group,
                  out.scale + blockIdx.x * out.scale_stride + g,
                  out.sum + blockIdx.x * out.sum_stride + g * (out.group / 32));
  }
}

__global__ void __launch_bounds__(kThreadsMax) AddResidual(AddResidualArgs a) {
  const double* delta = a.delta + blockIdx.x * a.delta_stride;
  float* residual = a.residual + blockIdx.x * a.residual_stride;
  for (int j = threadIdx.x; j < a.cols; j += blockDim.x) residual[j] += static_cast<float>(delta[j]);
}

// A warp per head.
__global__ void __launch_bounds__(kThreadsMax) HeadRmsNorm(HeadRmsNormArgs a) {
  const int head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (head >= a.rows * a.heads_per_row) return;  // The whole warp.
  float* x = a.heads + head / a.heads_per_row * a.stride + head % a.heads_per_row * a.head_dim;
  const float s = InverseRms(x, a.head_dim, a.eps);
  __syncwarp();
  for (int j = threadIdx.x % 32; j < a.head_dim; j += 32) x[j] = x[j] * s * a.gain[j];
}

// A warp per group.
__global__ void __launch_bounds__(kThreadsMax) Quantize(QuantizeArgs a) {
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

// About four columns each.
int ThreadsFor(int cols) {
  const int threads = (cols / 4 + 31) / 32 * 32;
  return threads < 32 ? 32 : threads > kThreadsMax ? kThreadsMax : threads;
}

}  // namespace

void LaunchRmsNorm(const RmsNormArgs& args, Stream stream) {
  const int staged = args.cols <= kStagedColsMax ? args.cols : 0;
  SHOAL_LAUNCH(RmsNorm, dim3(args.rows), dim3(ThreadsFor(args.cols)), (staged + 1) * sizeof(float), stream, args);
}

void LaunchAddResidual(const AddResidualArgs& args, Stream stream) {
  SHOAL_LAUNCH(AddResidual, dim3(args.rows), dim3(ThreadsFor(args.cols)), 0, stream, args);
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
