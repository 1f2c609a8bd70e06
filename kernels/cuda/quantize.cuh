// One activation group, quantized by one warp as weight.h says.
#pragma once

#include <cstdint>

#include "kernels/cuda/arithmetic.cuh"

namespace shoal::cuda {

// Lane l holds values[i] = x[32 i + l] for i < group / 32. All lanes of the warp call it.
//   q: [group], scale: one, sum: [group / 32].
__device__ __forceinline__ void QuantizeGroup(const float (&values)[8], int group, int8_t* q, float* scale,
                                              int32_t* sum) {
  const int lane = threadIdx.x % 32;
  const int parts = group / 32;
  int bits = 0;  // Of |x|: ordered like the magnitudes, with infinity and then NaN above all.
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int magnitude = __float_as_int(values[i]) & 0x7fffffff;
    if (i < parts && magnitude > bits) bits = magnitude;
  }
  const float amax = __int_as_float(MaxLanes<32>(bits));
  const bool usable = amax >= 0x1p-100f && amax <= 0x1.fffffep127f;  // The same in every lane.
  const float inverse = usable ? 127.0f / amax : 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i >= parts) break;
    // |x * inverse| <= 127 * (1 + 2^-23), so that rounding alone keeps it in range.
    const int value = usable ? __float2int_rn(values[i] * inverse) : 0;
    q[32 * i + lane] = static_cast<int8_t>(value);
    const int total = SumLanes<32>(value);
    if (lane == 0) sum[i] = total;
  }
  if (lane == 0) {
    *scale = usable ? amax * (1 / 127.0f) : amax < 0x1p-100f ? 0.0f : __uint_as_float(0x7fc00000);
  }
}

}  // namespace shoal::cuda
