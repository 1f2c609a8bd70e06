// The row quantizers for AVX-512; compiled with its flags.
#include <immintrin.h>

#include "kernels/quantize_rows.h"

namespace shoal::internal {
namespace {

struct Register {
  using Native = __m512;
  static constexpr int kWidth = 16;

  SHOAL_INLINE static Native All(float value) { return _mm512_set1_ps(value); }
  SHOAL_INLINE static Native Load(const float* from) { return _mm512_loadu_ps(from); }
  SHOAL_INLINE static void Store(Native x, float* to) { _mm512_storeu_ps(to, x); }
  SHOAL_INLINE static Native Max(Native a, Native b) { return _mm512_max_ps(a, b); }
  SHOAL_INLINE static Native Min(Native a, Native b) { return _mm512_min_ps(a, b); }
  SHOAL_INLINE static Native Round(Native x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // Rounded once, after an exact product: as if product and difference were rounded each.
  SHOAL_INLINE static Native Less(Native a, Native q, Native n) { return _mm512_fnmadd_ps(q, n, a); }
  SHOAL_INLINE static Native Half(Native x, int n) {
    if (n == 8) return _mm512_shuffle_f32x4(x, x, 0xee);
    if (n == 4) return _mm512_shuffle_f32x4(x, x, 0x01);
    return n == 2 ? _mm512_permute_ps(x, 0x0e) : _mm512_permute_ps(x, 0x01);
  }
  SHOAL_INLINE static unsigned Equal(Native a, Native b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  SHOAL_INLINE static void StoreInt8(Native x, int8_t* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
  }
  SHOAL_INLINE static void StoreNibbles(Native x, uint8_t* to) {
    const __m512i wide = _mm512_cvtps_epi32(x);
    const __m512i pairs = _mm512_or_si512(wide, _mm512_srli_epi64(wide, 28));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm512_cvtepi64_epi8(pairs));
  }
};

}  // namespace

const QuantizerPath kQuantizerAvx512 = {"avx512", Int8Row<Register>, Int4Row<Register>};

}  // namespace shoal::internal
