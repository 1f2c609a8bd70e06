// Matrix products: which kernel, and dense weights. Dense is the reference path of tests and of layers left in 16 or 32
// bits: right, coalesced, and far from what tensor cores could do.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_launch.h"

namespace shoal::cuda {
namespace {

constexpr int kRows = 32;
constexpr int kTokens = 8;
constexpr int kThreads = kRows * kTokens;
constexpr int kSlice = 32;  // Columns.

// A thread has one output. Each group is a chain of fma in the order of k, as on the CPU.
template <bool kPartial>
__global__ void __launch_bounds__(kThreads) DenseLinear(DenseLinearArgs a) {
  __shared__ float w[kSlice][kRows + 1];
  __shared__ float x[kSlice][kTokens + 1];
  const int row_in_tile = threadIdx.x % kRows, token_in_tile = threadIdx.x / kRows;
  const int row = blockIdx.x * kRows + row_in_tile, token = blockIdx.y * kTokens + token_in_tile;
  float dot = 0.0f, sum = 0.0f;
  double partial = 0;
  for (int begin = 0; begin < a.cols; begin += kSlice) {
    for (int i = threadIdx.x; i < kRows * kSlice; i += kThreads) {
      const int r = blockIdx.x * kRows + i / kSlice, k = begin + i % kSlice;
      const int64_t at = static_cast<int64_t>(r) * a.cols + k;
      float value = 0.0f;
      if (r < a.rows && k < a.cols) {
        value = a.bf16 ? __uint_as_float(static_cast<unsigned>(static_cast<const uint16_t*>(a.values)[at]) << 16)
                       : static_cast<const float*>(a.values)[at];
      }
      w[i % kSlice][i / kSlice] = value;
    }
    for (int i = threadIdx.x; i < kTokens * kSlice; i += kThreads) {
      const int t = blockIdx.y * kTokens + i / kSlice, k = begin + i % kSlice;
      x[i % kSlice][i / kSlice] = t < a.tokens && k < a.cols ? a.x[t * a.x_stride + k] : 0.0f;
    }
    __syncthreads();
    const int n = a.cols - begin < kSlice ? a.cols - begin : kSlice;
    for (int k = 0; k < n; ++k) {
      dot = fmaf(w[k][row_in_tile], x[k][token_in_tile], dot);
      if ((begin + k + 1) % a.group != 0) continue;
      if (kPartial) {
        partial += RoundToQuantum(dot);
      } else {
        sum += dot;
      }
      dot = 0.0f;
    }
    __syncthreads();
  }
  if (row >= a.rows || token >= a.tokens) return;
  if (kPartial) {
    a.partial_out[token * a.out_stride + row] = partial;
  } else {
    a.out[token * a.out_stride + row] = a.bias != nullptr ? a.bias[row] + sum : sum;
  }
}

}  // namespace

void LaunchQuantizedLinear(const QuantizedLinearArgs& args, Path path, Stream stream) {
  if (args.tokens <= kDecodeTokensMax) return LaunchLinearDecode(args, stream);
  if (path == Path::kDp4a) return LaunchLinearDp4a(args, stream);
  LaunchLinearMma(args, path, stream);
}

void LaunchDenseLinear(const DenseLinearArgs& args, Stream stream) {
  const dim3 grid((args.rows + kRows - 1) / kRows, (args.tokens + kTokens - 1) / kTokens);
  if (args.partial_out != nullptr) {
    SHOAL_LAUNCH(DenseLinear<true>, grid, dim3(kThreads), 0, stream, args);
  } else {
    SHOAL_LAUNCH(DenseLinear<false>, grid, dim3(kThreads), 0, stream, args);
  }
}

}  // namespace shoal::cuda
