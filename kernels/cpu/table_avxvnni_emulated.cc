#include "kernels/cpu/lanes_avxvnni.h"
#include "kernels/cpu/make_table.h"

namespace shoal::cpu {
namespace {

// The same sums in AVX2: products of bytes widened to 16 bits do not saturate.
struct Avx2Dot {
  static void Add(__m256i& sum, __m256i w, __m256i x) {
    const __m256i even = _mm256_set1_epi16(0xff);
    const __m256i low = _mm256_madd_epi16(_mm256_and_si256(w, even), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    const __m256i high = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
    sum = _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
  }
};

constexpr KernelTable kTable = MakeTable<AvxVnniLanes<Avx2Dot>>("avx-vnni-emulated");

}  // namespace

const KernelTable& AvxVnniEmulatedTable() { return kTable; }

}  // namespace shoal::cpu
