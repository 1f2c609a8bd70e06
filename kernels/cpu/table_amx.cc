// AVX-512 everywhere, AMX tiles for quantized products of more than a few tokens.
#include "kernels/cpu/amx_kernels.h"
#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/make_table.h"

namespace shoal::cpu {
namespace {

// Few tokens wait for memory, whatever multiplies; a tile costs the same for few tokens as for many.
constexpr int64_t kTileTokensMin = Avx512Lanes::kPackedTokens + 1;

void Linear(const QuantizedLinearArgs& args, int64_t begin, int64_t end) {
  if (args.tokens < kTileTokensMin) {
    QuantizedLinear<Avx512Lanes>(args, begin, end);
  } else {
    AmxQuantizedLinear<HardwareTiles, Avx512Lanes>(args, begin, end);
  }
}

constexpr KernelTable Make() {
  KernelTable t = MakeTable<Avx512Lanes>("amx-int8");
  t.quantized_linear = Linear;
  t.multiply_int8 = AmxMultiplyInt8<HardwareTiles>;
  return t;
}

constexpr KernelTable kTable = Make();

}  // namespace

const KernelTable& AmxTable() { return kTable; }

}  // namespace shoal::cpu
