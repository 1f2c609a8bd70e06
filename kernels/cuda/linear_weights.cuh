// Quantized weights in device memory and how threads read them.
//
//   int8: s8 [rows padded][cols].
//   int4: u32 [rows padded][cols / 8]: byte j of a word = q[8i + j] | q[8i + 4 + j] << 4, so that both nibble masks
//   give
//         four consecutive columns; n - 1 as nibbles, even index low, and m as s8, both [rows padded][cols / 32].
//
// Four lanes read 4 x 16 bytes of a row (int8: 4 x 32), eight rows at a time: whole 32-byte sectors.
#pragma once

#include <cstdint>

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {

// Row of the matrix that row `row` of a tile of kTileRows stands for. For silu(gate) * up a tile holds, in its first
// half, rows of gate and, in its second, the rows of up that go with them. -1 past the end.
template <int kTileRows>
__device__ __forceinline__ int MatrixRow(const QuantizedLinearArgs& a, int tile, int row) {
  if (a.silu_out == nullptr) {
    const int r = tile * kTileRows + row;
    return r < a.rows ? r : -1;
  }
  const int half = a.rows / 2;
  const int r = tile * (kTileRows / 2) + row % (kTileRows / 2);
  return r >= half ? -1 : row < kTileRows / 2 ? r : half + r;
}

// n and m of one row and group of 32 columns.
struct GroupOfFour {
  int n;
  int m;
};
__device__ __forceinline__ GroupOfFour LoadGroup(const QuantizedLinearArgs& a, int64_t row, int col) {
  const int64_t at = row * (a.cols / 32) + col / 32;
  const int nibbles = a.group_scales[at / 2];
  return {(at % 2 == 0 ? nibbles & 15 : nibbles >> 4) + 1, a.group_offsets[at]};
}

// The int8 weights n * q + m of four 4-bit values in the low nibbles of `q`. No byte carries into the next: n * q and
// m + 128 are not negative and their sum is at most 255.
__device__ __forceinline__ uint32_t Int8OfInt4(uint32_t q, const GroupOfFour& g) {
  return (q * static_cast<uint32_t>(g.n) + static_cast<uint32_t>(g.m + 128) * 0x01010101u) ^ 0x80808080u;
}

// The exact sum of one activation group of one output, by one thread.
__device__ __forceinline__ int GroupDot(const QuantizedLinearArgs& a, int64_t row, int64_t token, int g) {
  int sum = 0;
  for (int k = g * a.group; k < (g + 1) * a.group; k += 4) {
    const uint32_t x = *reinterpret_cast<const uint32_t*>(a.q + token * a.q_stride + k);
    uint32_t w;
    if (a.int4) {
      const uint32_t word = *reinterpret_cast<const uint32_t*>(a.values + row * (a.cols / 2) + k / 8 * 4);
      w = Int8OfInt4(word >> k % 8 & 0x0f0f0f0fu, LoadGroup(a, row, k));
    } else {
      w = *reinterpret_cast<const uint32_t*>(a.values + row * a.cols + k);
    }
    sum = Dp4a(w, x, sum);
  }
  return sum;
}

// What one group adds to a LinearPartial.
__device__ __forceinline__ float PartOf(int exact, float x_scale, float scale) {
  return static_cast<float>(exact) * x_scale * scale;
}

// LinearPartial of one output in double: for what ExactSum cannot hold.
static __device__ SHOAL_NOINLINE double SlowPartial(const QuantizedLinearArgs& a, int64_t row, int64_t token) {
  double sum = 0;
  for (int g = 0; g < a.cols / a.group; ++g) {
    sum += RoundToQuantum(PartOf(GroupDot(a, row, token, g), a.x_scale[token * a.x_scale_stride + g], a.scales[row]));
  }
  return sum;
}

// Running sum of one output over its groups, in order, and the result.
template <bool kPartial>
struct RunningSum;

template <>
struct RunningSum<false> {
  float sum = 0.0f;

  __device__ __forceinline__ void Add(int exact, float x_scale, float) {
    sum = fmaf(static_cast<float>(exact), x_scale, sum);
  }
  __device__ __forceinline__ void Carry() {}
  __device__ __forceinline__ float Value(const QuantizedLinearArgs& a, int row, int) const {
    const float y = a.scales[row] * sum;
    return a.bias != nullptr ? a.bias[row] + y : y;
  }
};

template <>
struct RunningSum<true> {
  ExactSum sum;
  bool fits = true;

  __device__ __forceinline__ void Add(int exact, float x_scale, float scale) {
    const bool added = sum.Add(PartOf(exact, x_scale, scale));
    fits = fits && added;
  }
  // At least once every 256 groups.
  __device__ __forceinline__ void Carry() { sum.Carry(); }
  __device__ __forceinline__ double Value(const QuantizedLinearArgs& a, int row, int token) const {
    return fits ? sum.Value() : SlowPartial(a, row, token);
  }
};

}  // namespace shoal::cuda
