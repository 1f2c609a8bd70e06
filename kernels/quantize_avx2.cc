// The row quantizers for AVX2; compiled with its flags.
#include <immintrin.h>

#include "kernels/quantize_rows.h"

namespace shoal::internal {
namespace {

struct Register {
  using Native = __m256;
  static constexpr int kWidth = 8;

  SHOAL_INLINE static Native All(float value) { return _mm256_set1_ps(value); }
  SHOAL_INLINE static Native Load(const float* from) { return _mm256_loadu_ps(from); }
  SHOAL_INLINE static void Store(Native x, float* to) { _mm256_storeu_ps(to, x); }
  SHOAL_INLINE static Native Max(Native a, Native b) { return _mm256_max_ps(a, b); }
  SHOAL_INLINE static Native Min(Native a, Native b) { return _mm256_min_ps(a, b); }
  SHOAL_INLINE static Native Round(Native x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  SHOAL_INLINE static Native Less(Native a, Native q, Native n) { return a - q * n; }
  SHOAL_INLINE static Native Half(Native x, int n) {
    if (n == 4) return _mm256_permute2f128_ps(x, x, 0x11);
    return n == 2 ? _mm256_permute_ps(x, 0x0e) : _mm256_permute_ps(x, 0x01);
  }
  SHOAL_INLINE static unsigned Equal(Native a, Native b) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)));
  }
  // Eight 16-bit integers.
  SHOAL_INLINE static __m128i Narrow(Native x) {
    const __m256i wide = _mm256_cvtps_epi32(x);
    return _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  }
  SHOAL_INLINE static void StoreInt8(Native x, int8_t* to) {
    const __m128i narrow = Narrow(x);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(narrow, narrow));
  }
  SHOAL_INLINE static void StoreNibbles(Native x, uint8_t* to) {
    const __m128i narrow = Narrow(x);
    const __m128i pairs = _mm_and_si128(_mm_or_si128(narrow, _mm_srli_epi32(narrow, 12)), _mm_set1_epi32(0xff));
    const __m128i bytes = _mm_packus_epi16(_mm_packs_epi32(pairs, pairs), pairs);
    const int four = _mm_cvtsi128_si32(bytes);
    std::memcpy(to, &four, sizeof(four));
  }
};

}  // namespace

const QuantizerPath kQuantizerAvx2 = {"avx2", Int8Row<Register>, Int4Row<Register>};

}  // namespace shoal::internal
