// Sixteen lanes in two AVX2 registers (with FMA and F16C). Members and results: lanes_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace shoal::cpu {
namespace {

struct Avx2Lanes {
  static constexpr int kBlocks = 1;
  static constexpr int kTokens = 2;         // Sixteen registers: two tokens of four sums each, and the widened weights.
  static constexpr int kPackedTokens = 32;  // 4-bit products need half the work of bytes here.

  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };

  static F Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F LoadN(const float* p, int64_t n) {
    if (n >= 16) return Load(p);
    float tail[16] = {};
    for (int64_t i = 0; i < n; ++i) tail[i] = p[i];
    return Load(tail);
  }
  static F LoadBf16(const uint16_t* p, int64_t n) {
    const Halves h = LoadHalves(p, n);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h.a), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h.b), 16))};
  }
  static F LoadF16(const uint16_t* p, int64_t n) {
    const Halves h = LoadHalves(p, n);
    return {_mm256_cvtph_ps(h.a), _mm256_cvtph_ps(h.b)};
  }
  static F LoadF64(const double* p, int64_t n) {
    float out[16] = {};
    for (int64_t i = 0; i < n && i < 16; ++i) out[i] = static_cast<float>(p[i]);
    return Load(out);
  }
  static void Store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static void StoreN(float* p, F x, int64_t n) {
    if (n >= 16) return Store(p, x);
    float tail[16];
    Store(tail, x);
    for (int64_t i = 0; i < n; ++i) p[i] = tail[i];
  }
  static void StoreF16(uint16_t* p, F x, int64_t n) {
    uint16_t out[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
    for (int64_t i = 0; i < n && i < 16; ++i) p[i] = out[i];
  }

  static F Add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F Sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F Mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F Div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F Fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static F Max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F Min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F Select(F x, F y, int64_t n) {
    return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(FirstLanes(n))),
            _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(FirstLanes(n - 8)))};
  }
  static uint32_t GreaterMask(F x, F y) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)) |
                                 _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ)) << 8);
  }
  static float Sum(F x) {
    const __m256 b = _mm256_add_ps(x.a, x.b);
    const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
  }
  static float MaxOf(F x) {
    const __m256 b = _mm256_max_ps(x.a, x.b);
    const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
  }

  static I SetI(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I LoadI(const int32_t* p) { return {Load256(p), Load256(p + 8)}; }
  static I LoadI8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
  }
  static I LoadGroupScales(const uint8_t* p) {
    const __m128i nibbles = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i mask = _mm_set1_epi8(15);
    const __m256i one = _mm256_set1_epi32(1);
    return {_mm256_add_epi32(_mm256_cvtepu8_epi32(_mm_and_si128(nibbles, mask)), one),
            _mm256_add_epi32(_mm256_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16(nibbles, 4), mask)), one)};
  }
  static void StoreI(int32_t* p, I x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
  }
  static void StoreI8(int8_t* p, I x) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }
  static I AddI(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static I MulI(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
  static I AddProduct16(I x, I y, int32_t c) {
    const __m256i z = _mm256_set1_epi32(c & 0xffff);  // The high half of y, its sign, is multiplied by 0.
    return AddI(x, {_mm256_madd_epi16(y.a, z), _mm256_madd_epi16(y.b, z)});
  }
  template <int kByte>
  static I SignedByte(I a) {
    return {_mm256_srai_epi32(_mm256_slli_epi32(a.a, 24 - 8 * kByte), 24),
            _mm256_srai_epi32(_mm256_slli_epi32(a.b, 24 - 8 * kByte), 24)};
  }
  static I MaxI(I x, I y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
  static int32_t SumI(I x) {
    const __m256i b = _mm256_add_epi32(x.a, x.b);
    const __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    const __m128i d = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(d, _mm_shuffle_epi32(d, 0xb1)));
  }
  static int32_t MaxOfI(I x) {
    const __m256i b = _mm256_max_epi32(x.a, x.b);
    const __m128i c = _mm_max_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    const __m128i d = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(d, _mm_shuffle_epi32(d, 0xb1)));
  }
  static I AbsBits(F x) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return {_mm256_and_si256(_mm256_castps_si256(x.a), mask), _mm256_and_si256(_mm256_castps_si256(x.b), mask)};
  }
  static I Round(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
  static F ToFloat(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static F Pow2(I x) {
    const I y = AddI(x, SetI(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(y.a, 23)), _mm256_castsi256_ps(_mm256_slli_epi32(y.b, 23))};
  }
  static void AddQuantized(double* sum, F x) {
    const __m256d magic = _mm256_set1_pd(0x1.8p22);
    const __m128 parts[4] = {_mm256_castps256_ps128(x.a), _mm256_extractf128_ps(x.a, 1), _mm256_castps256_ps128(x.b),
                             _mm256_extractf128_ps(x.b, 1)};
    for (int i = 0; i < 4; ++i) {
      const __m256d rounded = _mm256_sub_pd(_mm256_add_pd(_mm256_cvtps_pd(parts[i]), magic), magic);
      _mm256_storeu_pd(sum + 4 * i, _mm256_add_pd(_mm256_loadu_pd(sum + 4 * i), rounded));
    }
  }

  static void Transpose(const float* in, int64_t stride, int64_t n, int64_t cols, float* out) {
    for (int64_t j = 0; j < cols; j += 8) {
      const int64_t width = cols - j < 8 ? cols - j : 8;
      for (int64_t i = 0; i < 16; i += 8) Transpose8(in + i * stride + j, stride, n - i, width, out + j * 16 + i);
    }
  }
  static void TransposeF16(const uint16_t* in, int64_t stride, int64_t n, int64_t cols, uint16_t* out) {
    for (int64_t j = 0; j < cols; j += 8) {
      const int64_t width = cols - j < 8 ? cols - j : 8;
      for (int64_t i = 0; i < 16; i += 8) Transpose8(in + i * stride + j, stride, n - i, width, out + j * 16 + i);
    }
  }

  // Bytes are widened to 16 bits: vpmaddubsw would saturate, and the sums must be exact.
  template <int R, int M, bool kStream>
  static void DotInt8(const uint8_t* const* w, int64_t cols, const int8_t* a, int64_t stride, const int32_t* start,
                      int64_t start_stride, I out[R][M]) {
    for (int r = 0; r < R; ++r) {
      __m256i sum[M][4];  // Four rows each, as two partial sums per row.
      for (int m = 0; m < M; ++m) {
        for (int i = 0; i < 4; ++i) sum[m][i] = _mm256_setzero_si256();
      }
      for (int64_t k = 0; k < cols; k += 4) {
        const uint8_t* block = w[r] + k * 16;
        if constexpr (kStream) _mm_prefetch(block + kPrefetch, _MM_HINT_T0);
        __m256i x[M];
        for (int m = 0; m < M; ++m) x[m] = _mm256_cvtepi8_epi16(_mm_set1_epi32(Load4(a + m * stride + k)));
        for (int i = 0; i < 4; ++i) {
          const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + i * 16)));
          for (int m = 0; m < M; ++m) sum[m][i] = _mm256_add_epi32(sum[m][i], _mm256_madd_epi16(wide, x[m]));
        }
      }
      for (int m = 0; m < M; ++m) {
        const I dot = {_mm256_permute4x64_epi64(_mm256_hadd_epi32(sum[m][0], sum[m][1]), 0xd8),
                       _mm256_permute4x64_epi64(_mm256_hadd_epi32(sum[m][2], sum[m][3]), 0xd8)};
        out[r][m] = AddI(dot, SetI(start[m * start_stride]));
      }
    }
  }

  template <int M>
  static void DotInt4(const PackedInt4& w, int64_t groups, const int8_t* a, int64_t stride, const GroupSums& sums,
                      I out[M]) {
    for (int m = 0; m < M; ++m) out[m] = SetI(0);
    for (int64_t g = 0; g < groups; ++g) {
      I dot[M];
      DotGroup<M>(w.q + g * 256, a + g * 32, stride, dot);
      const I n = LoadGroupScales(w.scales + g * 8), offset = LoadI8(w.offsets + g * 16);
      for (int m = 0; m < M; ++m) {
        out[m] = AddI(AddProduct16(out[m], offset, sums.parts[m * sums.parts_stride + g]), MulI(n, dot[m]));
      }
    }
  }

  static void UnpackInt4(const PackedInt4& w, int64_t groups, uint8_t* out) {
    for (int64_t g = 0; g < groups; ++g, out += 512) {
      const I n = LoadGroupScales(w.scales + g * 8), offset = AddI(LoadI8(w.offsets + g * 16), SetI(128));
      UnpackRows(w.q + g * 256, n.a, offset.a, out);
      UnpackRows(w.q + g * 256 + 32, n.b, offset.b, out + 32);
    }
  }

 protected:
  static constexpr int kPrefetch = 1536;

  // Here vpmaddubsw is exact: 8 steps of 2 products of at most 15 * 127 stay below 2^15.
  template <int M>
  static void DotGroup(const uint8_t* q, const int8_t* a, int64_t stride, I out[M]) {
    const __m256i low = _mm256_set1_epi8(15);
    __m256i sum[M][2];
    for (int m = 0; m < M; ++m) sum[m][0] = sum[m][1] = _mm256_setzero_si256();
    for (int v = 0; v < 4; ++v) {
      _mm_prefetch(q + v * 64 + kPrefetch, _MM_HINT_T0);
      for (int half = 0; half < 2; ++half) {
        const __m256i both = Load256(q + v * 64 + half * 32);
        const __m256i q0 = _mm256_and_si256(both, low);
        const __m256i q1 = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        for (int m = 0; m < M; ++m) {
          const int8_t* x = a + m * stride + v * 8;
          const __m256i d0 = _mm256_maddubs_epi16(q0, _mm256_set1_epi32(Load4(x)));
          const __m256i d1 = _mm256_maddubs_epi16(q1, _mm256_set1_epi32(Load4(x + 4)));
          sum[m][half] = _mm256_add_epi16(sum[m][half], _mm256_add_epi16(d0, d1));
        }
      }
    }
    const __m256i one = _mm256_set1_epi16(1);
    for (int m = 0; m < M; ++m) out[m] = {_mm256_madd_epi16(sum[m][0], one), _mm256_madd_epi16(sum[m][1], one)};
  }

  // The low 16 bits of every lane twice.
  static __m256i Twice(__m256i n) { return _mm256_or_si256(n, _mm256_slli_epi32(n, 16)); }
  // n * (low nibble) of every byte: at most 240, so one 16-bit multiplication does two bytes.
  static __m256i ScaleNibbles(__m256i q, __m256i n) {
    return _mm256_mullo_epi16(_mm256_and_si256(q, _mm256_set1_epi8(15)), n);
  }

  // Eight rows of a group: n * q + offset in every byte.
  static void UnpackRows(const uint8_t* q, __m256i n, __m256i offset, uint8_t* out) {
    const __m256i pairs = Twice(n);
    const __m256i bytes = _mm256_mullo_epi32(offset, _mm256_set1_epi32(0x01010101));
    for (int v = 0; v < 4; ++v, q += 64, out += 128) {
      const __m256i both = Load256(q);
      const __m256i first = ScaleNibbles(both, pairs), second = ScaleNibbles(_mm256_srli_epi16(both, 4), pairs);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_add_epi8(first, bytes));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 64), _mm256_add_epi8(second, bytes));
    }
  }

  // All ones in the lanes below n.
  static __m256i FirstLanes(int64_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < 8 ? n : 8)), lane);
  }
  // Column j of n rows to out + 16 * j, zeros for rows beyond; at most 8 of each. Interleaves of 32 and 64 bits, then
  // moves of 128. The rows may hold any bits.
  static void Transpose8(const float* in, int64_t stride, int64_t n, int64_t cols, float* out) {
    __m256 r[8], s[8];
    for (int i = 0; i < 8; ++i) {
      r[i] = i >= n      ? _mm256_setzero_ps()
             : cols >= 8 ? _mm256_loadu_ps(in + i * stride)
                         : _mm256_maskload_ps(in + i * stride, FirstLanes(cols));
    }
    for (int i = 0; i < 4; ++i) {
      s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
      s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      for (int j = 0; j < 2; ++j) {
        const __m256d a = _mm256_castps_pd(s[i + j]), b = _mm256_castps_pd(s[i + 2 + j]);
        r[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        r[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
      }
    }
    for (int j = 0; j < 4; ++j) {
      s[j] = _mm256_permute2f128_ps(r[j], r[4 + j], 0x20);
      s[4 + j] = _mm256_permute2f128_ps(r[j], r[4 + j], 0x31);
    }
    for (int64_t j = 0; j < cols; ++j) _mm256_storeu_ps(out + j * 16, s[j]);
  }
  // The same of 16 bits each: interleaves of 16, 32 and 64.
  static void Transpose8(const uint16_t* in, int64_t stride, int64_t n, int64_t cols, uint16_t* out) {
    __m128i r[8], s[8];
    for (int i = 0; i < 8; ++i) {
      uint16_t tail[8] = {};
      const uint16_t* row = in + i * stride;
      if (cols < 8 && i < n) {
        for (int64_t j = 0; j < cols; ++j) tail[j] = row[j];
        row = tail;
      }
      r[i] = i < n ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(row)) : _mm_setzero_si128();
    }
    for (int i = 0; i < 4; ++i) {
      s[2 * i] = _mm_unpacklo_epi16(r[i], r[i + 4]);
      s[2 * i + 1] = _mm_unpackhi_epi16(r[i], r[i + 4]);
    }
    for (int i = 0; i < 4; ++i) {
      r[2 * i] = _mm_unpacklo_epi16(s[i], s[i + 4]);
      r[2 * i + 1] = _mm_unpackhi_epi16(s[i], s[i + 4]);
    }
    for (int i = 0; i < 4; ++i) {
      s[2 * i] = _mm_unpacklo_epi16(r[i], r[i + 4]);
      s[2 * i + 1] = _mm_unpackhi_epi16(r[i], r[i + 4]);
    }
    for (int64_t j = 0; j < cols; ++j) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + j * 16), s[j]);
  }

  struct Halves {
    __m128i a, b;
  };
  static Halves LoadHalves(const uint16_t* p, int64_t n) {
    uint16_t tail[16] = {};
    if (n < 16) {
      for (int64_t i = 0; i < n; ++i) tail[i] = p[i];
      p = tail;
    }
    return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)),
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8))};
  }
  static __m256i Load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static int32_t Load4(const int8_t* p) {
    int32_t bits;
    __builtin_memcpy(&bits, p, 4);
    return bits;
  }
};

}  // namespace
}  // namespace shoal::cpu
