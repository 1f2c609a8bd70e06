#include "kernels/cpu/amx_kernels.h"
#include "kernels/cpu/lanes_portable.h"
#include "kernels/cpu/make_table.h"

namespace shoal::cpu {
namespace {

constexpr KernelTable Make() {
  KernelTable t = MakeTable<PortableLanes>("amx-emulated");
  t.quantized_linear = AmxQuantizedLinear<EmulatedTiles, PortableLanes>;
  t.multiply_int8 = AmxMultiplyInt8<EmulatedTiles>;
  return t;
}

constexpr KernelTable kTable = Make();

}  // namespace

const KernelTable& AmxEmulatedTable() { return kTable; }

}  // namespace shoal::cpu
