// Matrix products of more than 8 tokens without tensor cores (GTX 16xx). Bound: the rate of dp4a.
//
// A block has 64 rows and 64 tokens, a thread 4 x 4 of them. Slices of 32 or 64 columns pass through shared memory as
// [word][row] and [word][token], 4-bit weights made int8 on the way, so that a thread reads four rows or tokens at
// once.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_launch.h"
#include "kernels/cuda/linear_weights.cuh"

namespace shoal::cuda {
namespace {

constexpr int kTile = 64;  // Rows, and tokens.
constexpr int kThreads = 256;
constexpr int kWordsMax = 16;  // Of four columns, in a slice.
constexpr int kStride = kTile + 4;

// Columns [begin, begin + 4 * words) of the tile's rows and tokens; zeros past the last.
__device__ __forceinline__ void LoadSlice(const QuantizedLinearArgs& a, int begin, int words, uint32_t* w,
                                          uint32_t* x) {
  for (int i = threadIdx.x; i < kTile * words; i += kThreads) {
    const int index = i / words, word = i % words, col = begin + 4 * word;
    const int row = MatrixRow<kTile>(a, blockIdx.x, index);
    uint32_t value = 0;
    if (row >= 0 && a.int4) {
      const auto* from = reinterpret_cast<const uint32_t*>(a.values + static_cast<int64_t>(row) * (a.cols / 2));
      value = Int8OfInt4(from[col / 8] >> col % 8 & 0x0f0f0f0fu, LoadGroup(a, row, col));
    } else if (row >= 0) {
      value = *reinterpret_cast<const uint32_t*>(a.values + static_cast<int64_t>(row) * a.cols + col);
    }
    w[word * kStride + index] = value;
    const int token = blockIdx.y * kTile + index;
    x[word * kStride + index] =
        token < a.tokens ? *reinterpret_cast<const uint32_t*>(a.q + token * a.q_stride + col) : 0;
  }
}

template <bool kPartial>
__global__ void __launch_bounds__(kThreads, 1) LinearDp4a(const __grid_constant__ QuantizedLinearArgs a) {
  __shared__ __align__(16) uint32_t w[kWordsMax * kStride];
  __shared__ __align__(16) uint32_t x[kWordsMax * kStride];
  __shared__ float results[kTile][kTile + 1];  // [row][token], for silu(gate) * up.
  const int first_row = threadIdx.x / 16 * 4, first_token = threadIdx.x % 16 * 4;
  const int slice = a.group < 64 ? 32 : 64;
  RunningSum<kPartial> sums[4][4];
  int exact[4][4] = {};
  for (int begin = 0; begin < a.cols; begin += slice) {
    LoadSlice(a, begin, slice / 4, w, x);
    __syncthreads();
    for (int word = 0; word < slice / 4; ++word) {
      const uint4 r4 = *reinterpret_cast<const uint4*>(w + word * kStride + first_row);
      const uint4 t4 = *reinterpret_cast<const uint4*>(x + word * kStride + first_token);
      const uint32_t rows[4] = {r4.x, r4.y, r4.z, r4.w}, tokens[4] = {t4.x, t4.y, t4.z, t4.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) exact[i][j] = Dp4a(rows[i], tokens[j], exact[i][j]);
      }
    }
    __syncthreads();
    if ((begin + slice) % a.group != 0) continue;
    const int g = begin / a.group;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = MatrixRow<kTile>(a, blockIdx.x, first_row + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int token = blockIdx.y * kTile + first_token + j;
        if (row >= 0 && token < a.tokens) {
          sums[i][j].Add(exact[i][j], a.x_scale[token * a.x_scale_stride + g], a.scales[row]);
          if (g % 128 == 127) sums[i][j].Carry();
        }
        exact[i][j] = 0;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = MatrixRow<kTile>(a, blockIdx.x, first_row + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int token = blockIdx.y * kTile + first_token + j;
      if (row < 0 || token >= a.tokens) continue;
      const auto value = sums[i][j].Value(a, row, token);
      if constexpr (kPartial) {
        a.partial_out[token * a.out_stride + row] = value;
      } else if (a.silu_out == nullptr) {
        a.out[token * a.out_stride + row] = value;
      } else {
        results[first_row + i][first_token + j] = value;
      }
    }
  }
  if (kPartial || a.silu_out == nullptr) return;
  __syncthreads();
  for (int i = threadIdx.x; i < kTile / 2 * kTile; i += kThreads) {
    const int index = i % (kTile / 2), token = blockIdx.y * kTile + i / (kTile / 2);
    const int row = MatrixRow<kTile>(a, blockIdx.x, index);
    if (row < 0 || token >= a.tokens) continue;
    a.silu_out[token * a.out_stride + row] =
        SiluMul(results[index][i / (kTile / 2)], results[index + kTile / 2][i / (kTile / 2)]);
  }
}

}  // namespace

void LaunchLinearDp4a(const QuantizedLinearArgs& args, Stream stream) {
  const dim3 grid((args.rows + kTile - 1) / kTile, (args.tokens + kTile - 1) / kTile);
  if (args.partial_out != nullptr) {
    SHOAL_LAUNCH(LinearDp4a<true>, grid, dim3(kThreads), 0, stream, args);
  } else {
    SHOAL_LAUNCH(LinearDp4a<false>, grid, dim3(kThreads), 0, stream, args);
  }
}

}  // namespace shoal::cuda
