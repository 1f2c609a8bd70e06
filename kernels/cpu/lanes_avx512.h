// Sixteen lanes in one AVX-512 register. Members and results: lanes_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace shoal::cpu {
namespace {

struct Avx512Lanes {
  static constexpr int kBlocks = 2;
  static constexpr int kTokens = 8;
  static constexpr int kPackedTokens = 16;  // In two tiles: unpacking to L1 costs more for so few.

  using F = __m512;
  using I = __m512i;

  static __mmask16 Mask(int64_t n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }
  static __m256i LoadHalves(const uint16_t* p, int64_t n) {
    return n >= 16 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)) : _mm256_maskz_loadu_epi16(Mask(n), p);
  }

  static F Set(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static F LoadN(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(Mask(n), p); }
  static F LoadBf16(const uint16_t* p, int64_t n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(LoadHalves(p, n)), 16));
  }
  static F LoadF16(const uint16_t* p, int64_t n) { return _mm512_cvtph_ps(LoadHalves(p, n)); }
  static F LoadF64(const double* p, int64_t n) {
    const __mmask16 mask = Mask(n);
    const __m256 low = _mm512_cvtpd_ps(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p));
    const __m256 high = _mm512_cvtpd_ps(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask >> 8), p + 8));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
  }
  static void Store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static void StoreN(float* p, F a, int64_t n) { _mm512_mask_storeu_ps(p, Mask(n), a); }
  static void StoreF16(uint16_t* p, F a, int64_t n) {
    _mm256_mask_storeu_epi16(p, Mask(n), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Select(F a, F b, int64_t n) { return _mm512_mask_blend_ps(Mask(n), b, a); }
  static uint32_t GreaterMask(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static float Sum(F a) {
    const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
  }
  static float MaxOf(F a) { return _mm512_reduce_max_ps(a); }

  static I SetI(int32_t x) { return _mm512_set1_epi32(x); }
  static I LoadI(const int32_t* p) { return _mm512_loadu_si512(p); }
  static I LoadI8(const int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void StoreI(int32_t* p, I a) { _mm512_storeu_si512(p, a); }
  static void StoreI8(int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a)); }
  static I AddI(I a, I b) { return _mm512_add_epi32(a, b); }
  static I AddProduct16(I a, I b, int32_t c) {
    return _mm512_dpwssd_epi32(a, b, _mm512_set1_epi32(c & 0xffff));  // The high half of b, its sign, counts 0 times.
  }
  template <int kByte>
  static I SignedByte(I a) {
    return _mm512_srai_epi32(_mm512_slli_epi32(a, 24 - 8 * kByte), 24);
  }
  static I MaxI(I a, I b) { return _mm512_max_epi32(a, b); }
  static int32_t SumI(I a) { return _mm512_reduce_add_epi32(a); }
  static int32_t MaxOfI(I a) { return _mm512_reduce_max_epi32(a); }
  static I AbsBits(F a) { return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)); }
  static I Round(F a) { return _mm512_cvtps_epi32(a); }
  static F ToFloat(I a) { return _mm512_cvtepi32_ps(a); }
  static F Pow2(I a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a, _mm512_set1_epi32(127)), 23)); }
  static void AddQuantized(double* sum, F a) {
    const __m512d magic = _mm512_set1_pd(0x1.8p22);
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    _mm512_storeu_pd(sum, _mm512_add_pd(_mm512_loadu_pd(sum), _mm512_sub_pd(_mm512_add_pd(low, magic), magic)));
    _mm512_storeu_pd(sum + 8,
                     _mm512_add_pd(_mm512_loadu_pd(sum + 8), _mm512_sub_pd(_mm512_add_pd(high, magic), magic)));
  }

  static void Transpose(const float* in, int64_t stride, int64_t n, int64_t cols, float* out) {
    for (int64_t j = 0; j < cols; j += 16) {
      const int64_t width = cols - j < 16 ? cols - j : 16;
      F columns[16];
      Transpose16(in + j, stride, n, width, columns);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (i < width) _mm512_storeu_ps(out + (j + i) * 16, columns[i]);
      }
    }
  }
  // Pairs of values are moved as one float would be, then parted.
  static void TransposeF16(const uint16_t* in, int64_t stride, int64_t n, int64_t cols, uint16_t* out) {
    const I part = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26, 24, 22, 20,
                                    18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    for (int64_t j = 0; j < cols; j += 32, in += 32, out += 512) {
      const int64_t width = cols - j < 32 ? (cols - j) / 2 : 16;
      F pairs[16];
      Transpose16(reinterpret_cast<const float*>(in), stride / 2, n, width, pairs);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (i < width) _mm512_storeu_si512(out + i * 32, _mm512_permutexvar_epi16(part, _mm512_castps_si512(pairs[i])));
      }
    }
  }

  template <int R, int M, bool kStream>
  static void DotInt8(const uint8_t* const* w, int64_t cols, const int8_t* a, int64_t stride, const int32_t* start,
                      int64_t start_stride, I out[R][M]) {
    // Without these pragmas gcc keeps a copy of the sums in memory.
    I sum[R][M];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r][m] = SetI(start[m * start_stride]);
    }
    for (int64_t k = 0; k < cols; k += 4) {
      I block[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        if constexpr (kStream) _mm_prefetch(w[r] + k * 16 + kPrefetch, _MM_HINT_T0);
        block[r] = _mm512_loadu_si512(w[r] + k * 16);
      }
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        const I x = Broadcast4(a + m * stride + k);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) AddDot4(sum[r][m], block[r], x);
      }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) out[r][m] = sum[r][m];
    }
  }

  // For few tokens: sums of products with q of a group are multiplied by n, and m times the token's sum is added.
  // For more: bytes as UnpackInt4 makes them, in registers, which then take no more work per token than int8.
  template <int M>
  static void DotInt4(const PackedInt4& w, int64_t groups, const int8_t* a, int64_t stride, const GroupSums& sums,
                      I out[M]) {
    I sum[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) sum[m] = SetI(M <= kFewTokens ? 0 : sums.bias[m * sums.bias_stride]);
    for (int64_t g = 0; g < groups; ++g, a += 32) {
      // These two streams are thin: hardware prefetchers start late on them.
      _mm_prefetch(w.scales + g * 8 + kPrefetch / 32, _MM_HINT_T0);
      _mm_prefetch(w.offsets + g * 16 + kPrefetch / 16, _MM_HINT_T0);
      const I n = PairsOfGroupScales(w.scales + g * 8);
      if constexpr (M <= kFewTokens) {
        const I offset = LoadI8(w.offsets + g * 16);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) sum[m] = AddProduct16(sum[m], offset, sums.parts[m * sums.parts_stride + g]);
        AddGroup<M>(w.q + g * 256, n, a, stride, sum);
      } else {
        AddScaledGroup<M>(w.q + g * 256, n, UnsignedOffsets(w.offsets + g * 16), a, stride, sum);
      }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) out[m] = sum[m];
  }

  static void UnpackInt4(const PackedInt4& w, int64_t groups, uint8_t* out) {
    for (int64_t g = 0; g < groups; ++g, out += 512) {
      _mm_prefetch(w.scales + g * 8 + kPrefetch / 32, _MM_HINT_T0);
      _mm_prefetch(w.offsets + g * 16 + kPrefetch / 16, _MM_HINT_T0);
      const I n = PairsOfGroupScales(w.scales + g * 8);
      const I m = UnsignedOffsets(w.offsets + g * 16);
      for (int v = 0; v < 4; ++v) {
        const uint8_t* q = w.q + g * 256 + v * 64;
        _mm_prefetch(q + kPrefetch, _MM_HINT_T0);
        const I both = _mm512_loadu_si512(q);
        _mm512_storeu_si512(out + v * 128, _mm512_add_epi8(ScaleNibbles(both, n), m));
        _mm512_storeu_si512(out + v * 128 + 64, _mm512_add_epi8(ScaleNibbles(_mm512_srli_epi16(both, 4), n), m));
      }
    }
  }

 private:
  static constexpr int kPrefetch = 4096;  // Bytes ahead; past the end of the matrix a prefetch does nothing.

  static constexpr int kFewTokens = 4;

  template <int M>
  static inline __attribute__((always_inline)) void AddScaledGroup(const uint8_t* q, I n, I offset, const int8_t* a,
                                                                   int64_t stride, I sum[M]) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      _mm_prefetch(q + v * 64 + kPrefetch, _MM_HINT_T0);
      const I both = _mm512_loadu_si512(q + v * 64);
      const I low = _mm512_add_epi8(ScaleNibbles(both, n), offset);
      const I high = _mm512_add_epi8(ScaleNibbles(_mm512_srli_epi16(both, 4), n), offset);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        const int8_t* x = a + m * stride + v * 8;
        AddDot4(sum[m], low, Broadcast4(x));
        AddDot4(sum[m], high, Broadcast4(x + 4));
      }
    }
  }

  // High nibbles stay where they are: their sum is 16 times too large. Either sum of 16 products fits into 16 bits, so
  // one instruction multiplies both by n.
  template <int M>
  static inline __attribute__((always_inline)) void AddGroup(const uint8_t* q, I n, const int8_t* a, int64_t stride,
                                                             I sum[M]) {
    const I mask = _mm512_set1_epi8(15);
    I low[M], high[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) low[m] = high[m] = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      _mm_prefetch(q + v * 64 + kPrefetch, _MM_HINT_T0);
      const I both = _mm512_loadu_si512(q + v * 64);
      const I q0 = _mm512_and_si512(both, mask), q1 = _mm512_andnot_si512(mask, both);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        const int8_t* x = a + m * stride + v * 8;
        AddDot4(low[m], q0, Broadcast4(x));
        AddDot4(high[m], q1, Broadcast4(x + 4));
      }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const I sums = _mm512_mask_blend_epi16(0xaaaaaaaa, low[m], _mm512_slli_epi32(high[m], 12));
      sum[m] = _mm512_dpwssd_epi32(sum[m], sums, n);
    }
  }

  // sum += four products of unsigned and signed bytes in every lane. The intrinsic lets gcc 12 move sums between
  // registers and memory inside of the loop.
  static void AddDot4(I& sum, I w, I x) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x)); }

  // n of 16 rows, twice in every lane.
  static I PairsOfGroupScales(const uint8_t* p) {
    const __m128i nibbles = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i bytes = _mm_and_si128(_mm_unpacklo_epi64(nibbles, _mm_srli_epi16(nibbles, 4)), _mm_set1_epi8(15));
    // Bytes r and "none" in turn.
    const I pairs = _mm512_set_epi32(0x800f800f, 0x800e800e, 0x800d800d, 0x800c800c, 0x800b800b, 0x800a800a, 0x80098009,
                                     0x80088008, 0x80078007, 0x80068006, 0x80058005, 0x80048004, 0x80038003, 0x80028002,
                                     0x80018001, 0x80008000);
    return _mm512_add_epi16(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), pairs), _mm512_set1_epi16(1));
  }

  // m + 128 of 16 rows, four times in every lane.
  static I UnsignedOffsets(const int8_t* p) {
    const I spread = _mm512_set_epi32(0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a,
                                      0x09090909, 0x08080808, 0x07070707, 0x06060606, 0x05050505, 0x04040404,
                                      0x03030303, 0x02020202, 0x01010101, 0x00000000);
    const __m128i offsets = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_xor_si512(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(offsets), spread), _mm512_set1_epi8(-128));
  }
  // n * (low nibble) of every byte: at most 240, so one 16-bit multiplication does two bytes.
  static I ScaleNibbles(I q, I n) { return _mm512_mullo_epi16(_mm512_and_si512(q, _mm512_set1_epi8(15)), n); }

  static I Broadcast4(const int8_t* p) {
    int32_t bits;
    __builtin_memcpy(&bits, p, 4);
    return _mm512_set1_epi32(bits);
  }

  // s[j] = column j of n rows, 0 in the lanes beyond. Interleaves of 32 and 64 bits, then two rounds of 128-bit moves.
  // The rows may hold any bits: nothing is computed with them.
  static inline __attribute__((always_inline)) void Transpose16(const float* in, int64_t stride, int64_t n,
                                                                int64_t cols, F s[16]) {
    F r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) r[i] = i < n ? LoadN(in + i * stride, cols) : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const __m512d a = _mm512_castps_pd(s[i + j]), b = _mm512_castps_pd(s[i + 2 + j]);
        r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
      }
    }
    // r[4 * i + c], 128-bit part p: rows 4i..4i+3 of column 4p + c.
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const F a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88), b = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
      const F d = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88), e = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
      s[c] = _mm512_shuffle_f32x4(a, d, 0x88);
      s[8 + c] = _mm512_shuffle_f32x4(a, d, 0xdd);
      s[4 + c] = _mm512_shuffle_f32x4(b, e, 0x88);
      s[12 + c] = _mm512_shuffle_f32x4(b, e, 0xdd);
    }
  }
};

}  // namespace
}  // namespace shoal::cpu
