// Gate and up projection, SiLU, product, quantization. Bound: as Linear; the rest is one pass over [T, 2F].
#include "kernels/cpu/cpu_ops.h"

namespace shoal::cpu {

void CpuOps::LinearSiluMul(const Activation& x, const Weight& gate_up, Tensor scratch, const Activation& out) {
  SHOAL_CHECK_EQ(gate_up.rows % 2, 0);
  SHOAL_CHECK(scratch.dtype == DType::kF32);
  Multiply(x, gate_up, scratch, false);
  SiluMulArgs args{};
  args.gate_up = scratch.As<float>();
  args.stride = scratch.row_stride;
  args.cols = gate_up.rows / 2;
  args.out = MakeActivationOut(out, scratch.rows(), args.cols);
  Parallel(scratch.rows(), args.cols, [&](int64_t begin, int64_t end) { kernels_.silu_mul(args, begin, end); });
}

}  // namespace shoal::cpu
