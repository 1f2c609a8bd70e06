// Fills a KernelTable from one lanes_*.h.
#pragma once

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/dense_kernels.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/rate_kernels.h"
#include "kernels/cpu/row_kernels.h"

namespace shoal::cpu {
namespace {

template <class L>
constexpr KernelTable MakeTable(const char* name) {
  KernelTable t{};
  t.name = name;
  t.rms_norm = RmsNorm<L>;
  t.silu_mul = SiluMul<L>;
  t.quantize = Quantize<L>;
  t.add_residual = AddResidual<L>;
  t.head_rms_norm = HeadRmsNorm<L>;
  t.rope = Rope<L>;
  t.bf16_to_float = Bf16ToFloatRow<L>;
  t.float_to_f16 = FloatToF16Row<L>;
  t.quantize_kv = QuantizeKvRow<L>;
  t.quantized_linear = QuantizedLinear<L>;
  t.dense_linear = DenseLinear<L>;
  t.attention = Attention<L>;
  t.top_k = TopK<L>;
  t.read_memory = ReadMemory<L>;
  t.multiply_int8 = MultiplyInt8<L>;
  return t;
}

}  // namespace
}  // namespace shoal::cpu
