// One row of RMSNorm and the quantization that follows, by one block: alone, or behind a sum over ranks.
//
// The squares of a row are summed in 64 lanes by fma, then by halves, by one warp: the order of the CPU's.
#pragma once

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/quantize.cuh"

namespace shoal::cuda {

constexpr int kNormThreadsMax = 256;
constexpr int kStagedColsMax = 10240;  // 40 KiB of shared memory; longer rows are read again from L2.

// About four columns each.
inline int NormThreads(int cols) {
  const int threads = (cols / 4 + 31) / 32 * 32;
  return threads < 32 ? 32 : threads > kNormThreadsMax ? kNormThreadsMax : threads;
}

// Dynamic shared memory of RmsNormRow.
inline size_t NormSharedBytes(int cols) { return ((cols <= kStagedColsMax ? cols : 0) + 1) * sizeof(float); }

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

// Makes row `row` of a.out. value(j), called once for each column, gives element j of the row, which must be in
// a.x, too, by then. staged: NormSharedBytes.
template <typename Value>
__device__ __forceinline__ void RmsNormRow(const RmsNormArgs& a, int64_t row, float* staged, Value value) {
  const bool stage = a.cols <= kStagedColsMax;
  float* inverse = staged + (stage ? a.cols : 0);
  for (int j = threadIdx.x; j < a.cols; j += blockDim.x) {
    const float x = value(j);
    if (stage) staged[j] = x;
  }
  __syncthreads();
  const float* x = stage ? staged : a.x + row * a.x_stride;
  if (threadIdx.x < 32) {
    const float result = InverseRms(x, a.cols, a.eps);
    if (threadIdx.x == 0) *inverse = result;
  }
  __syncthreads();

  const float s = *inverse;
  const ActivationOut& out = a.out;
  float* dense = out.dense == nullptr ? nullptr : out.dense + row * out.dense_stride;
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
    QuantizeGroup(values, out.group, out.q + row * out.q_stride + g * out.group, out.scale + row * out.scale_stride + g,
                  out.sum + row * out.sum_stride + g * (out.group / 32));
  }
}

}  // namespace shoal::cuda
