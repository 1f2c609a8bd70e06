#include "kernels/cpu/lanes_avxvnni.h"
#include "kernels/cpu/make_table.h"

namespace shoal::cpu {
namespace {

struct VexDot {
  static void Add(__m256i& sum, __m256i w, __m256i x) { sum = _mm256_dpbusd_avx_epi32(sum, w, x); }
};

constexpr KernelTable kTable = MakeTable<AvxVnniLanes<VexDot>>("avx-vnni");

}  // namespace

const KernelTable& AvxVnniTable() { return kTable; }

}  // namespace shoal::cpu
