// Sixteen lanes in two AVX2 registers, with four byte products added per 32 bits in one instruction ("AVX-VNNI": client
// CPUs since Alder Lake and Zen 5). Members and results: lanes_portable.h.
#pragma once

#include "kernels/cpu/lanes_avx2.h"

namespace shoal::cpu {
namespace {

// `Dot::Add(sum, w, x)`: vpdpbusd, in the encoding of the table or in other instructions.
template <class Dot>
struct AvxVnniLanes : Avx2Lanes {
  static constexpr int kTokens =
      6;  // Sixteen registers: twelve sums, and as many chains as hide an addition's latency.
  static constexpr int kPackedTokens = 16;

  template <int R, int M, bool kStream>
  static void DotInt8(const uint8_t* const* w, int64_t cols, const int8_t* a, int64_t stride, const int32_t* start,
                      int64_t start_stride, I out[R][M]) {
    for (int r = 0; r < R; ++r) {
      I sum[M];
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) sum[m] = SetI(start[m * start_stride]);
      for (int64_t k = 0; k < cols; k += 4) {
        const uint8_t* block = w[r] + k * 16;
        if constexpr (kStream) _mm_prefetch(block + kPrefetch, _MM_HINT_T0);
        const I bytes = {Load256(block), Load256(block + 32)};
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) AddDot(sum[m], bytes, a + m * stride + k);
      }
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) out[r][m] = sum[m];
    }
  }

  // Multiplies n * q, an unsigned byte, and adds m times the sum of the activations.
  template <int M>
  static void DotInt4(const PackedInt4& w, int64_t groups, const int8_t* a, int64_t stride, const GroupSums& sums,
                      I out[M]) {
    I sum[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) sum[m] = SetI(0);
    for (int64_t g = 0; g < groups; ++g, a += 32) {
      const I n = LoadGroupScales(w.scales + g * 8), offset = LoadI8(w.offsets + g * 16);
      const I pairs = {Twice(n.a), Twice(n.b)};
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) sum[m] = AddProduct16(sum[m], offset, sums.parts[m * sums.parts_stride + g]);
      for (int v = 0; v < 4; ++v) {
        const uint8_t* q = w.q + g * 256 + v * 64;
        _mm_prefetch(q + kPrefetch, _MM_HINT_T0);
        const __m256i first = Load256(q), second = Load256(q + 32);
        const I low = {ScaleNibbles(first, pairs.a), ScaleNibbles(second, pairs.b)};
        const I high = {ScaleNibbles(_mm256_srli_epi16(first, 4), pairs.a),
                        ScaleNibbles(_mm256_srli_epi16(second, 4), pairs.b)};
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
          AddDot(sum[m], low, a + m * stride + v * 8);
          AddDot(sum[m], high, a + m * stride + v * 8 + 4);
        }
      }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) out[m] = sum[m];
  }

 private:
  static void AddDot(I& sum, const I& w, const int8_t* x) {
    const __m256i four = _mm256_set1_epi32(Load4(x));
    Dot::Add(sum.a, w.a, four);
    Dot::Add(sum.b, w.b, four);
  }
};

}  // namespace
}  // namespace shoal::cpu
