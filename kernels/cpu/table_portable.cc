#include "kernels/cpu/lanes_portable.h"
#include "kernels/cpu/make_table.h"

namespace shoal::cpu {
namespace {

constexpr KernelTable kTable = MakeTable<PortableLanes>("portable");

}  // namespace

const KernelTable& PortableTable() { return kTable; }

}  // namespace shoal::cpu
