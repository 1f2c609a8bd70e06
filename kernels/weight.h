// Matrices of a model, dense or quantized, and the activations that multiply them. ADR 1 gives the reasons.
//
// One family: an integer weight is exactly w[row, k] = scale[row] * w8[row, k] with w8 an int8 in [-127, 127].
//   int8: w8 is stored.
//   int4: w8[row, k] = n[row, g] * q[row, k] + m[row, g], q in 0..15, n in 1..16, m an int8; g = k / kWeightGroup.
// Activations are int8 with one float per token and activation group, so the products of one group are one exact int32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/tensor.h"

namespace shoal {

enum class WeightFormat : uint8_t { kF32, kBF16, kInt8, kInt4 };

std::string_view WeightFormatName(WeightFormat format);  // "f32", "bf16", "int8", "int4"

constexpr bool IsQuantized(WeightFormat format) {
  return format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
}

// Columns that share n and m in int4; also the smallest activation group.
constexpr int64_t kWeightGroup = 32;
// The widest activation group: longer int32 sums would gain little speed and lose accuracy.
constexpr int64_t kActivationGroupMax = 256;
// Rows are padded to this in device memory.
constexpr int64_t kRowBlock = 16;

// Columns per activation group (quantized) or per partial sum (dense) of a matrix with `cols` columns that ranks may
// cut at multiples of `cut`: the largest power of two up to kActivationGroupMax that divides both. The whole matrix's
// `cols` decide, not a shard's, so every plan has the same groups.
int64_t ActivationGroup(int64_t cols, int64_t cut);

// A matrix in host memory in canonical, row-major form, as files hold it and as the quantizer makes it.
struct HostWeight {
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group = 0;              // Activation group, see ActivationGroup.
  const void* values = nullptr;   // f32 | bf16 | i8 [rows, cols]; int4: u8 [rows, cols / 2], even k in the low nibble.
  const float* scales = nullptr;  // [rows], quantized formats.
  const uint8_t* group_scales = nullptr;  // n: [rows, cols / kWeightGroup], int4.
  const int8_t* group_offsets = nullptr;  // m: [rows, cols / kWeightGroup], int4.
  const float* bias = nullptr;            // [rows] or null.
};

// A matrix in device memory in the back end's own layout. Callers never ask which: `Ops` knows.
struct Weight {
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group = 0;
  Tensor values;         // Packed.
  Tensor scales;         // [rows padded] f32; empty if dense.
  Tensor group_scales;   // n, packed; int4 only.
  Tensor group_offsets;  // m, packed; int4 only.
  Tensor bias;           // [rows padded] f32 or empty.
};

// Device bytes of a matrix: what the planner counts and every back end's layout keeps to.
int64_t WeightBytes(WeightFormat format, int64_t rows, int64_t cols, bool has_bias);

// The input of linear layers: whichever of the two forms their weights read. An op that makes an Activation fills every
// form that is not empty. Quantization of one group: amax = max |x|; scale = amax * (1 / 127.0f);
// q = clamp(round-half-even(x * (127.0f / amax)), -127, 127). If amax < kQuantizeMin, q and scale are 0; if a value is
// not finite, q is 0 and scale NaN, so that a fault upstream stays visible in every output it reaches.
struct Activation {
  Tensor dense;  // [T, K] f32, or empty.
  Tensor q;      // [T, K] i8, or empty; then scale and sum are empty, too.
  Tensor scale;  // [T, K / group] f32
  Tensor sum;    // [T, K / kWeightGroup] i32: sums of q, for int4 offsets and unsigned dot products.
  int64_t group = 0;

  Activation Rows(int64_t n) const {
    Activation a = *this;
    if (!dense.empty()) a.dense = dense.Rows(n);
    if (!q.empty()) {
      a.q = q.Rows(n);
      a.scale = scale.Rows(n);
      a.sum = sum.Rows(n);
    }
    return a;
  }
};

// Below this a group counts as zero: 127 / amax must stay finite.
constexpr float kQuantizeMin = 0x1p-100f;

// Partial results of a row-split product are multiples of this, so that sums of them in double are exact, whatever the
// order and the number of ranks, up to 2^23. See ADR 2.
constexpr double kExactQuantum = 0x1p-30;

// Rounds to the nearest multiple of kExactQuantum, ties to even; exact for |x| < 2^21.
inline double RoundToQuantum(double x) {
  constexpr double kMagic = 0x1.8p22;  // 1.5 * 2^52 * kExactQuantum
  return (x + kMagic) - kMagic;
}

}  // namespace shoal
