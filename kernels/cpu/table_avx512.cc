#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/make_table.h"

namespace shoal::cpu {
namespace {

constexpr KernelTable kTable = MakeTable<Avx512Lanes>("avx512-vnni");

}  // namespace

const KernelTable& Avx512Table() { return kTable; }

}  // namespace shoal::cpu
