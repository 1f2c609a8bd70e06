// Copies chosen rows. Bound: one read and one write of them.
#include <cstring>

#include "kernels/cpu/cpu_ops.h"

namespace shoal::cpu {

void CpuOps::GatherRows(Tensor x, Tensor rows, Tensor out) {
  SHOAL_CHECK(x.dtype == out.dtype && rows.dtype == DType::kI32);
  SHOAL_CHECK_EQ(x.cols(), out.cols());
  SHOAL_CHECK_EQ(rows.rows(), out.rows());
  const int64_t size = SizeOf(x.dtype), bytes = x.cols() * size;
  for (int64_t i = 0; i < out.rows(); ++i) {
    const int64_t row = rows.As<int32_t>()[i];
    SHOAL_CHECK(row >= 0 && row < x.rows());
    std::memcpy(out.data + i * out.row_stride * size, x.data + row * x.row_stride * size, bytes);
  }
}

}  // namespace shoal::cpu
