#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/make_table.h"

namespace shoal::cpu {
namespace {

constexpr KernelTable kTable = MakeTable<Avx2Lanes>("avx2");

}  // namespace

const KernelTable& Avx2Table() { return kTable; }

}  // namespace shoal::cpu
