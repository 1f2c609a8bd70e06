// Matrix products of more than 8 tokens, by int8 tensor cores. Bound: up to about 64 tokens, one read of the weights;
// beyond, the rate of the tensor cores.
//
// The weights are the A operand, 16 rows of a warp straight from memory, 4-bit ones made int8 in registers; the
// activations are B. A step multiplies 32 columns. Where groups have 128 columns or more a lane reads 32 consecutive
// columns of a row and feeds them to four steps: K is permuted, the same way on both sides, and every read is whole.
// Smaller groups take the natural order. After each activation group the int32 sums join the running sums, as Linear
// and LinearPartial say.
//
// Two kernels. Skinny: a block has 32 rows and up to 64 tokens, and its warps share out the groups; sums meet in shared
// memory. Wide: a block has 128 rows and 64 tokens, and shares the activations through shared memory, two stages deep.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_launch.h"
#include "kernels/cuda/linear_weights.cuh"

namespace shoal::cuda {
namespace {

constexpr int kChunk = 128;  // Columns of four steps.

// ---- operands ----

// 128 columns of 16 rows, as they are in memory; this lane's part: rows g and g + 8. Columns past the end are 0.
template <bool kInt4, bool kNatural>
struct RawWeights {
  static constexpr int kWords = kInt4 ? 4 : 8;
  uint32_t words[2][kWords];
  GroupOfFour groups[2][kInt4 ? (kNatural ? 4 : 1) : 1];

  __device__ __forceinline__ void Load(const QuantizedLinearArgs& a, const int64_t (&rows)[2], int chunk) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (!kNatural) {
        LoadSegment(a, rows[r], chunk + 32 * t, words[r]);
        if constexpr (kInt4) groups[r][0] = LoadGroup(a, rows[r], chunk + 32 * t);
      } else {
#pragma unroll
        for (int s = 0; s < 4; ++s) LoadStep(a, rows[r], chunk + 32 * s, r, s);
      }
    }
  }

  // 32 columns from `col` on.
  static __device__ __forceinline__ void LoadSegment(const QuantizedLinearArgs& a, int64_t row, int col,
                                                     uint32_t (&to)[kWords]) {
    if constexpr (kInt4) {
      const uint4 w = *reinterpret_cast<const uint4*>(a.values + row * (a.cols / 2) + col / 2);
      to[0] = w.x, to[1] = w.y, to[2] = w.z, to[3] = w.w;
    } else {
      const auto* from = reinterpret_cast<const uint4*>(a.values + row * a.cols + col);
      const uint4 low = from[0], high = from[1];
      to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
      to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
    }
  }
  // Columns 4t and 16 + 4t of the 32 from `col` on. For int4 the word keeps the first in its low nibbles.
  __device__ __forceinline__ void LoadStep(const QuantizedLinearArgs& a, int64_t row, int col, int r, int s) {
    const int t = threadIdx.x % 4;
    if constexpr (kInt4) {
      words[r][s] = 0;
      groups[r][s] = {1, 0};
      if (col >= a.cols) return;
      const auto* from = reinterpret_cast<const uint32_t*>(a.values + row * (a.cols / 2) + col / 2);
      const int shift = t % 2 * 4;
      words[r][s] = (from[t / 2] >> shift & 0x0f0f0f0fu) | (from[2 + t / 2] >> shift & 0x0f0f0f0fu) << 4;
      groups[r][s] = LoadGroup(a, row, col);
    } else {
      words[r][2 * s] = words[r][2 * s + 1] = 0;
      if (col >= a.cols) return;
      const auto* from = reinterpret_cast<const uint32_t*>(a.values + row * a.cols + col);
      words[r][2 * s] = from[t];
      words[r][2 * s + 1] = from[4 + t];
    }
  }

  // The A fragment of step s, see MmaS8.
  __device__ __forceinline__ void Fragment(int s, uint32_t (&fragment)[4]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (kInt4) {
        const GroupOfFour& group = groups[r][kNatural ? s : 0];
        fragment[r] = Int8OfInt4(words[r][s] & 0x0f0f0f0fu, group);
        fragment[2 + r] = Int8OfInt4(words[r][s] >> 4 & 0x0f0f0f0fu, group);
      } else {
        fragment[r] = words[r][2 * s];
        fragment[2 + r] = words[r][2 * s + 1];
      }
    }
  }
};

// The B fragments of steps 2 * pair and 2 * pair + 1: `x` is column 0 of the chunk, of the token that this lane reads
// (lane / 4 of eight).
template <bool kNatural>
__device__ __forceinline__ void LoadPair(const int8_t* x, int pair, uint32_t (&fragments)[2][2]) {
  const int t = threadIdx.x % 4;
  if constexpr (kNatural) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const auto* from = reinterpret_cast<const uint32_t*>(x + 32 * (2 * pair + s));
      fragments[s][0] = from[t];
      fragments[s][1] = from[4 + t];
    }
  } else {
    const uint4 w = *reinterpret_cast<const uint4*>(x + 32 * t + 16 * pair);
    fragments[0][0] = w.x, fragments[0][1] = w.y, fragments[1][0] = w.z, fragments[1][1] = w.w;
  }
}

// Rows g and g + 8 of the warp's 16: the whole tile's matrix row, or 0 past the end (computed, then dropped).
template <int kTileRows>
__device__ __forceinline__ void LaneRows(const QuantizedLinearArgs& a, int tile, int warp_row, int64_t (&rows)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = MatrixRow<kTileRows>(a, tile, warp_row + 8 * r + threadIdx.x % 32 / 4);
    rows[r] = row < 0 ? 0 : row;
  }
}

// ---- skinny ----

constexpr int kSkinnyRows = 32;
constexpr int kSkinnyWarps = 8;  // Two of 16 rows for each of four groups.
constexpr int kSkinnyThreads = 32 * kSkinnyWarps;
constexpr int kSkinnyGroups = 4;

// The exact sums of group g for this warp's 16 rows and all tokens, to exact[row][token].
template <bool kSm80, bool kInt4, bool kNatural, int kTokens>
__device__ __forceinline__ void SumGroup(const QuantizedLinearArgs& a, const int64_t (&rows)[2], int first_token, int g,
                                         int* exact) {
  const int lane = threadIdx.x % 32;
  int sums[kTokens / 8][4] = {};
  RawWeights<kInt4, kNatural> weights;
  const int begin = g * a.group, end = begin + a.group;
  for (int chunk = begin; chunk < end; chunk += kChunk) {
    // A natural chunk may reach into the next group; its steps are cut off below.
    weights.Load(a, rows, chunk);
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      if (chunk + 64 * pair >= end) break;
      uint32_t fragments[2][4];
      weights.Fragment(2 * pair, fragments[0]);
      weights.Fragment(2 * pair + 1, fragments[1]);
      const bool second = chunk + 64 * pair + 32 < end;
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
        const int token = first_token + 8 * j + lane / 4;
        uint32_t x[2][2];
        if (kNatural && !second) {
          const auto* from =
              reinterpret_cast<const uint32_t*>(a.q + (token < a.tokens ? token : 0) * a.q_stride + chunk + 64 * pair);
          x[0][0] = from[lane % 4], x[0][1] = from[4 + lane % 4], x[1][0] = x[1][1] = 0;
        } else {
          LoadPair<kNatural>(a.q + (token < a.tokens ? token : 0) * a.q_stride + chunk, pair, x);
        }
        MmaS8<kSm80>(sums[j], fragments[0], x[0]);
        if (second) MmaS8<kSm80>(sums[j], fragments[1], x[1]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      exact[(lane / 4 + i / 2 * 8) * kTokens + 8 * j + lane % 4 * 2 + i % 2] = sums[j][i];
    }
  }
}

template <bool kSm80, bool kInt4, bool kNatural, int kTokens, bool kPartial>
__global__ void __launch_bounds__(kSkinnyThreads, 1) LinearSkinny(const __grid_constant__ QuantizedLinearArgs a) {
  constexpr int kOutputs = kSkinnyRows * kTokens, kEach = kOutputs / kSkinnyThreads;
  SHOAL_DYNAMIC_SHARED(int, exact);  // [kSkinnyGroups][kSkinnyRows][kTokens]
  const int warp = threadIdx.x / 32, first_token = blockIdx.y * kTokens;
  int64_t rows[2];
  LaneRows<kSkinnyRows>(a, blockIdx.x, warp % 2 * 16, rows);
  RunningSum<kPartial> sums[kEach];
  const int groups = a.cols / a.group;
  for (int first = 0; first < groups; first += kSkinnyGroups) {
    if (first + warp / 2 < groups) {
      SumGroup<kSm80, kInt4, kNatural, kTokens>(a, rows, first_token, first + warp / 2,
                                                exact + (warp / 2 * kSkinnyRows + warp % 2 * 16) * kTokens);
    }
    __syncthreads();
    const int n = groups - first < kSkinnyGroups ? groups - first : kSkinnyGroups;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int output = e * kSkinnyThreads + threadIdx.x;
      const int token = first_token + output % kTokens;
      const int row = MatrixRow<kSkinnyRows>(a, blockIdx.x, output / kTokens);
      if (row < 0 || token >= a.tokens) continue;
      for (int g = 0; g < n; ++g) {
        sums[e].Add(exact[g * kOutputs + output], a.x_scale[token * a.x_scale_stride + first + g], a.scales[row]);
      }
      if (first % 128 == 0) sums[e].Carry();
    }
    __syncthreads();
  }
  auto* results = reinterpret_cast<float*>(exact);
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int output = e * kSkinnyThreads + threadIdx.x;
    const int token = first_token + output % kTokens;
    const int row = MatrixRow<kSkinnyRows>(a, blockIdx.x, output / kTokens);
    if (row < 0 || token >= a.tokens) continue;
    if constexpr (kPartial) {
      a.partial_out[token * a.out_stride + row] = sums[e].Value(a, row, token);
    } else if (a.silu_out == nullptr) {
      a.out[token * a.out_stride + row] = sums[e].Value(a, row, token);
    } else {
      results[output] = sums[e].Value(a, row, token);
    }
  }
  if (a.silu_out == nullptr) return;
  __syncthreads();
  for (int output = threadIdx.x; output < kOutputs / 2; output += kSkinnyThreads) {
    const int token = first_token + output % kTokens;
    const int row = MatrixRow<kSkinnyRows>(a, blockIdx.x, output / kTokens);
    if (row < 0 || token >= a.tokens) continue;
    a.silu_out[token * a.out_stride + row] = SiluMul(results[output], results[output + kOutputs / 2]);
  }
}

// ---- wide ----

constexpr int kWideRows = 128;
constexpr int kWideTokens = 64;
constexpr int kWideThreads = 2 * kWideRows;  // A warp per 16 rows.
constexpr int kStageCols = 256;
constexpr int kStageStride = kStageCols + 16;  // Eight tokens' 16-byte reads fall into different banks.
constexpr int kStageBytes = kWideTokens * kStageStride;

// Starts copying the activations of columns [begin, begin + kStageCols) to one stage.
template <bool kSm80>
__device__ __forceinline__ void LoadStage(const QuantizedLinearArgs& a, int begin, int8_t* stage) {
  const int cols = a.cols - begin < kStageCols ? a.cols - begin : kStageCols;
  const int first_token = blockIdx.y * kWideTokens;
  for (int i = threadIdx.x; i < kWideTokens * (kStageCols / 16); i += kWideThreads) {
    const int token = i / (kStageCols / 16), col = i % (kStageCols / 16) * 16;
    if (col >= cols || first_token + token >= a.tokens) continue;
    CopyAsync16<kSm80>(stage + token * kStageStride + col, a.q + (first_token + token) * a.q_stride + begin + col);
  }
}

// Running sums of a warp's 16 rows and kWideTokens tokens, placed as mma places results.
template <bool kPartial>
struct WideSums {
  RunningSum<kPartial> values[kWideTokens / 8][4];
};
// One `fits` for all: recomputing a lane's 32 outputs is rare enough.
template <>
struct WideSums<true> {
  ExactSum values[kWideTokens / 8][4];
  bool fits = true;
};

// Ends group g: int32 sums join the running sums and start at 0 again.
template <bool kPartial>
__device__ __forceinline__ void EndGroup(const QuantizedLinearArgs& a, int g, const float (&scales)[2],
                                         int (&exact)[kWideTokens / 8][4], WideSums<kPartial>& sums) {
  const int first_token = blockIdx.y * kWideTokens + threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < kWideTokens / 8; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int token = first_token + 8 * j + c;
      const float x_scale = token < a.tokens ? a.x_scale[token * a.x_scale_stride + g] : 0.0f;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        int& sum = exact[j][2 * r + c];
        if constexpr (kPartial) {
          const bool added = sums.values[j][2 * r + c].Add(PartOf(sum, x_scale, scales[r]));
          sums.fits = sums.fits && (added || token >= a.tokens);
          if (g % 128 == 127) sums.values[j][2 * r + c].Carry();
        } else {
          sums.values[j][2 * r + c].Add(sum, x_scale, scales[r]);
        }
        sum = 0;
      }
    }
  }
}

// The result of one output of the lane. For silu(gate) * up the lane's first row is gate and its second is up.
template <bool kPartial>
__device__ __forceinline__ void WriteWide(const QuantizedLinearArgs& a, int warp_row, const WideSums<kPartial>& sums) {
  const int lane = threadIdx.x % 32;
  const int first_token = blockIdx.y * kWideTokens + lane % 4 * 2;
  const int tile = blockIdx.x * (kWideRows / 16) + warp_row / 16;
  const int rows[2] = {MatrixRow<16>(a, tile, lane / 4), MatrixRow<16>(a, tile, 8 + lane / 4)};
#pragma unroll
  for (int j = 0; j < kWideTokens / 8; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int token = first_token + 8 * j + c;
      if (token >= a.tokens) continue;
      if (!kPartial && a.silu_out != nullptr) {
        if constexpr (!kPartial) {
          if (rows[0] < 0) continue;
          a.silu_out[token * a.out_stride + rows[0]] =
              SiluMul(sums.values[j][c].Value(a, rows[0], token), sums.values[j][2 + c].Value(a, rows[1], token));
        }
        continue;
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (rows[r] < 0) continue;
        if constexpr (kPartial) {
          a.partial_out[token * a.out_stride + rows[r]] =
              sums.fits ? sums.values[j][2 * r + c].Value() : SlowPartial(a, rows[r], token);
        } else {
          a.out[token * a.out_stride + rows[r]] = sums.values[j][2 * r + c].Value(a, rows[r], token);
        }
      }
    }
  }
}

template <bool kSm80, bool kInt4, bool kNatural, bool kPartial>
__global__ void __launch_bounds__(kWideThreads, 1) LinearWide(const __grid_constant__ QuantizedLinearArgs a) {
  SHOAL_DYNAMIC_SHARED(int8_t, stages);  // [2][kWideTokens][kStageStride]
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
  int64_t rows[2];
  LaneRows<16>(a, blockIdx.x * (kWideRows / 16) + warp_row / 16, 0, rows);
  const float scales[2] = {a.scales[rows[0]], a.scales[rows[1]]};
  WideSums<kPartial> sums;
  int exact[kWideTokens / 8][4] = {};
  RawWeights<kInt4, kNatural> weights;

  LoadStage<kSm80>(a, 0, stages);
  CopyAsyncCommit<kSm80>();
  for (int begin = 0, stage = 0; begin < a.cols; begin += kStageCols, stage ^= 1) {
    if (begin + kStageCols < a.cols) LoadStage<kSm80>(a, begin + kStageCols, stages + (stage ^ 1) * kStageBytes);
    CopyAsyncCommit<kSm80>();
    CopyAsyncWait<kSm80, 1>();
    __syncthreads();
    const int end = begin + kStageCols < a.cols ? begin + kStageCols : a.cols;
    for (int chunk = begin; chunk < end; chunk += kChunk) {
      weights.Load(a, rows, chunk);
      const int8_t* x = stages + stage * kStageBytes + lane / 4 * kStageStride + (chunk - begin);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t fragments[2][4];
        weights.Fragment(2 * pair, fragments[0]);
        weights.Fragment(2 * pair + 1, fragments[1]);
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          const int col = chunk + 64 * pair + 32 * s;
          if (col >= end) break;
          if constexpr (kNatural) {
#pragma unroll
            for (int j = 0; j < kWideTokens / 8; ++j) {
              uint32_t b[2][2];
              LoadPair<true>(x + 8 * j * kStageStride, pair, b);
              MmaS8<kSm80>(exact[j], fragments[s], b[s]);
            }
          } else if (s == 0) {
#pragma unroll
            for (int j = 0; j < kWideTokens / 8; ++j) {
              uint32_t b[2][2];
              LoadPair<false>(x + 8 * j * kStageStride, pair, b);
              MmaS8<kSm80>(exact[j], fragments[0], b[0]);
              MmaS8<kSm80>(exact[j], fragments[1], b[1]);
            }
          }
          if ((col + 32) % a.group == 0) EndGroup<kPartial>(a, col / a.group, scales, exact, sums);
        }
      }
    }
    __syncthreads();  // The stage has been read.
  }
  CopyAsyncWait<kSm80, 0>();
  WriteWide<kPartial>(a, warp_row, sums);
}

// ---- launches ----

template <bool kSm80, bool kInt4, bool kNatural, bool kPartial>
void LaunchSizes(const QuantizedLinearArgs& a, Stream stream) {
  if (a.tokens > 64) {
    const dim3 grid((a.rows + kWideRows - 1) / kWideRows, (a.tokens + kWideTokens - 1) / kWideTokens);
    SHOAL_LAUNCH((LinearWide<kSm80, kInt4, kNatural, kPartial>), grid, dim3(kWideThreads), 2 * kStageBytes, stream, a);
    return;
  }
  const dim3 grid((a.rows + kSkinnyRows - 1) / kSkinnyRows);
  const auto shared = [](int tokens) { return kSkinnyGroups * kSkinnyRows * tokens * sizeof(int); };
  if (a.tokens <= 16) {
    SHOAL_LAUNCH((LinearSkinny<kSm80, kInt4, kNatural, 16, kPartial>), grid, dim3(kSkinnyThreads), shared(16), stream,
                 a);
  } else if (a.tokens <= 32) {
    SHOAL_LAUNCH((LinearSkinny<kSm80, kInt4, kNatural, 32, kPartial>), grid, dim3(kSkinnyThreads), shared(32), stream,
                 a);
  } else {
    SHOAL_LAUNCH((LinearSkinny<kSm80, kInt4, kNatural, 64, kPartial>), grid, dim3(kSkinnyThreads), shared(64), stream,
                 a);
  }
}

template <bool kSm80, bool kInt4>
void LaunchFor(const QuantizedLinearArgs& a, Stream stream) {
  const bool partial = a.partial_out != nullptr;
  if (a.group < kChunk) {
    partial ? LaunchSizes<kSm80, kInt4, true, true>(a, stream) : LaunchSizes<kSm80, kInt4, true, false>(a, stream);
  } else {
    partial ? LaunchSizes<kSm80, kInt4, false, true>(a, stream) : LaunchSizes<kSm80, kInt4, false, false>(a, stream);
  }
}

}  // namespace

void LaunchLinearMma(const QuantizedLinearArgs& args, Path path, Stream stream) {
  if (path == Path::kSm80) {
    args.int4 ? LaunchFor<true, true>(args, stream) : LaunchFor<true, false>(args, stream);
  } else {
    args.int4 ? LaunchFor<false, true>(args, stream) : LaunchFor<false, false>(args, stream);
  }
}

}  // namespace shoal::cuda
