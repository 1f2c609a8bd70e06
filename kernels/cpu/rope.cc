// Rotary position embedding. Bound: each head is read and written once; the table is made once per step.
#include <cmath>

#include "kernels/cpu/cpu_ops.h"

namespace shoal::cpu {

void CpuOps::RopeTable(Tensor positions, Tensor inv_freq, float scale, Tensor out) {
  const int64_t half = inv_freq.rows();
  SHOAL_CHECK(positions.dtype == DType::kI32 && inv_freq.dtype == DType::kF32 && out.dtype == DType::kF32);
  SHOAL_CHECK_EQ(out.cols(), 2 * half);
  SHOAL_CHECK_EQ(out.rows(), positions.rows());
  Parallel(out.rows(), half * 40, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < half; ++j) {
        const float angle = static_cast<float>(positions.As<int32_t>()[i]) * inv_freq.As<float>()[j];
        out.Row<float>(i)[j] = static_cast<float>(std::cos(static_cast<double>(angle))) * scale;
        out.Row<float>(i)[half + j] = static_cast<float>(std::sin(static_cast<double>(angle))) * scale;
      }
    }
  });
}

void CpuOps::Rope(Tensor table, Tensor heads) {
  const int64_t head_dim = table.cols();
  SHOAL_CHECK(table.dtype == DType::kF32 && heads.dtype == DType::kF32);
  SHOAL_CHECK_EQ(table.rows(), heads.rows());
  SHOAL_CHECK_EQ(heads.cols() % head_dim, 0);
  Parallel(heads.rows(), heads.cols() / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.rope(table.Row<float>(i), head_dim, heads.cols() / head_dim, heads.Row<float>(i));
    }
  });
}

}  // namespace shoal::cpu
