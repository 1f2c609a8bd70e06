// Matrix products of 1 to 8 tokens, by dp4a on every GPU. Bound: one read of the weights.
//
// A block has a tile of 8 * kOctets rows and all tokens; its warps share out the columns. A lane multiplies 32 columns
// of one row (of each octet) with the activations it holds in registers; sums of an activation group need at most two
// shuffles and go to shared memory, from where one thread per output adds them up in order.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_launch.h"
#include "kernels/cuda/linear_weights.cuh"

namespace shoal::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kPanel = 64;  // Groups whose sums shared memory holds.

// 32 columns of one row.
template <bool kInt4>
struct Weights;

template <>
struct Weights<true> {
  uint32_t words[4];
  GroupOfFour group;

  __device__ __forceinline__ void Load(const QuantizedLinearArgs& a, int64_t row, int col) {
    const uint4 w = *reinterpret_cast<const uint4*>(a.values + row * (a.cols / 2) + col / 2);
    words[0] = w.x, words[1] = w.y, words[2] = w.z, words[3] = w.w;
    group = LoadGroup(a, row, col);
  }
  __device__ __forceinline__ int Dot(const uint32_t (&x)[8], int x_sum) const {
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum = Dp4a(words[i] & 0x0f0f0f0fu, x[2 * i], sum);
      sum = Dp4a(words[i] >> 4 & 0x0f0f0f0fu, x[2 * i + 1], sum);
    }
    return group.n * sum + group.m * x_sum;
  }
};

template <>
struct Weights<false> {
  uint32_t words[8];

  __device__ __forceinline__ void Load(const QuantizedLinearArgs& a, int64_t row, int col) {
    const auto* from = reinterpret_cast<const uint4*>(a.values + row * a.cols + col);
    const uint4 low = from[0], high = from[1];
    words[0] = low.x, words[1] = low.y, words[2] = low.z, words[3] = low.w;
    words[4] = high.x, words[5] = high.y, words[6] = high.z, words[7] = high.w;
  }
  __device__ __forceinline__ int Dot(const uint32_t (&x)[8], int) const {
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = Dp4a(words[i], x[i], sum);
    return sum;
  }
};

// Adds the dot products of the lane's 32 columns from `col` on to `sums`.
template <bool kInt4, int kTokens, int kOctets>
__device__ __forceinline__ void AddChunk(const QuantizedLinearArgs& a, const int (&rows)[kOctets], int col,
                                         int (&sums)[kOctets][kTokens]) {
  Weights<kInt4> w[kOctets];
#pragma unroll
  for (int o = 0; o < kOctets; ++o) w[o].Load(a, rows[o], col);  // All loads before the first use.
#pragma unroll
  for (int m = 0; m < kTokens; ++m) {
    if (m >= a.tokens) break;
    const auto* from = reinterpret_cast<const uint4*>(a.q + m * a.q_stride + col);
    const uint4 low = from[0], high = from[1];
    const uint32_t x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    const int x_sum = kInt4 ? a.x_sum[m * a.x_sum_stride + col / 32] : 0;
#pragma unroll
    for (int o = 0; o < kOctets; ++o) sums[o][m] += w[o].Dot(x, x_sum);
  }
}

// The exact sums of groups [first, last) for the tile's rows, to exact[group - first][row][token].
template <bool kInt4, int kTokens, int kOctets>
__device__ __forceinline__ void SumGroups(const QuantizedLinearArgs& a, int first, int last, int* exact) {
  constexpr int kRows = 8 * kOctets;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int rows[kOctets];
#pragma unroll
  for (int o = 0; o < kOctets; ++o) {
    const int row = MatrixRow<kRows>(a, blockIdx.x, 8 * o + lane / 4);
    rows[o] = row < 0 ? 0 : row;  // Computed, then dropped.
  }
  // A unit is what four lanes finish together: one group of 256 or 128 columns, or 128 columns of smaller groups.
  const int unit_cols = a.group == 256 ? 256 : 128;
  const int lanes_per_group = a.group >= 128 ? 4 : a.group / 32;
  const int end = last * a.group;
  for (int unit = first * a.group + warp * unit_cols; unit < end; unit += kWarps * unit_cols) {
    int sums[kOctets][kTokens] = {};
    for (int chunk = unit; chunk < unit + unit_cols; chunk += 128) {
      const int col = chunk + lane % 4 * 32;
      if (col < end) AddChunk<kInt4, kTokens, kOctets>(a, rows, col, sums);
    }
    const int col = unit + lane % 4 * 32;
    const bool writes = lane % lanes_per_group == 0 && col < end;
#pragma unroll
    for (int o = 0; o < kOctets; ++o) {
#pragma unroll
      for (int m = 0; m < kTokens; ++m) {
        int sum = sums[o][m];
        if (lanes_per_group > 1) sum += __shfl_xor_sync(kAllLanes, sum, 1);
        if (lanes_per_group > 2) sum += __shfl_xor_sync(kAllLanes, sum, 2);
        if (writes) exact[((col / a.group - first) * kRows + 8 * o + lane / 4) * kTokens + m] = sum;
      }
    }
  }
}

// Adds groups [first, last) to one output.
template <bool kPartial>
__device__ __forceinline__ void AddGroups(const QuantizedLinearArgs& a, const int* exact, int stride, int first,
                                          int last, int row, int token, RunningSum<kPartial>& sum) {
  const float scale = a.scales[row];
  const float* x_scale = a.x_scale + token * a.x_scale_stride;
#pragma unroll 4
  for (int g = first; g < last; ++g) sum.Add(exact[(g - first) * stride], x_scale[g], scale);
  sum.Carry();
}

template <bool kInt4, int kTokens, int kOctets, bool kPartial>
__global__ void __launch_bounds__(kThreads, 2) LinearDecode(const __grid_constant__ QuantizedLinearArgs a) {
  constexpr int kRows = 8 * kOctets, kOutputs = kRows * kTokens;
  static_assert(kOutputs <= kThreads);
  SHOAL_DYNAMIC_SHARED(int, exact);  // [groups of a panel][kRows][kTokens]; at last floats of one tile
  const int row_of_tile = threadIdx.x / kTokens, token = threadIdx.x % kTokens;
  const int row = threadIdx.x < kOutputs ? MatrixRow<kRows>(a, blockIdx.x, row_of_tile) : -1;
  const bool owner = row >= 0 && token < a.tokens;
  RunningSum<kPartial> sum;
  const int groups = a.cols / a.group;
  for (int first = 0; first < groups; first += kPanel) {
    const int last = first + kPanel < groups ? first + kPanel : groups;
    SumGroups<kInt4, kTokens, kOctets>(a, first, last, exact);
    __syncthreads();
    if (owner) AddGroups<kPartial>(a, exact + threadIdx.x, kOutputs, first, last, row, token, sum);
    __syncthreads();
  }
  if constexpr (kPartial) {
    if (owner) a.partial_out[token * a.out_stride + row] = sum.Value(a, row, token);
  } else if (a.silu_out == nullptr) {
    if (owner) a.out[token * a.out_stride + row] = sum.Value(a, row, token);
  } else {
    auto* results = reinterpret_cast<float*>(exact);
    if (owner) results[threadIdx.x] = sum.Value(a, row, token);
    __syncthreads();
    if (owner && row_of_tile < kRows / 2) {
      a.silu_out[token * a.out_stride + row] = SiluMul(results[threadIdx.x], results[threadIdx.x + kOutputs / 2]);
    }
  }
}

template <bool kInt4, int kTokens, int kOctets>
void Launch(const QuantizedLinearArgs& a, Stream stream) {
  constexpr int kRows = 8 * kOctets;
  const int groups = a.cols / a.group, panel = groups < kPanel ? groups : kPanel;
  const size_t shared = panel * kRows * kTokens * sizeof(int);
  const dim3 grid((a.rows + kRows - 1) / kRows);
  if (a.partial_out != nullptr) {
    SHOAL_LAUNCH((LinearDecode<kInt4, kTokens, kOctets, true>), grid, dim3(kThreads), shared, stream, a);
  } else {
    SHOAL_LAUNCH((LinearDecode<kInt4, kTokens, kOctets, false>), grid, dim3(kThreads), shared, stream, a);
  }
}

template <bool kInt4>
void LaunchFor(const QuantizedLinearArgs& a, Stream stream) {
  if (a.tokens == 1) return Launch<kInt4, 1, 4>(a, stream);
  if (a.tokens == 2) return Launch<kInt4, 2, 4>(a, stream);
  if (a.tokens <= 4) return Launch<kInt4, 4, 2>(a, stream);
  return Launch<kInt4, 8, 1>(a, stream);
}

}  // namespace

void LaunchLinearDecode(const QuantizedLinearArgs& args, Stream stream) {
  args.int4 ? LaunchFor<true>(args, stream) : LaunchFor<false>(args, stream);
}

}  // namespace shoal::cuda
