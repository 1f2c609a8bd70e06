// Embedding lookup. Bound: reads and writes each row once.
#include <cstring>

#include "kernels/cpu/cpu_ops.h"

namespace shoal::cpu {

void CpuOps::Embed(Tensor table, Tensor ids, Tensor out) {
  const int64_t n = out.cols();
  SHOAL_CHECK(out.dtype == DType::kF32 && ids.dtype == DType::kI32);
  SHOAL_CHECK(table.dtype == DType::kF32 || table.dtype == DType::kBF16);
  SHOAL_CHECK_EQ(table.cols(), n);
  SHOAL_CHECK_EQ(ids.rows(), out.rows());
  Parallel(out.rows(), n / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t id = ids.As<int32_t>()[i];
      SHOAL_CHECK(id >= 0 && id < table.rows());
      if (table.dtype == DType::kBF16) {
        kernels_.bf16_to_float(table.Row<uint16_t>(id), out.Row<float>(i), n);
      } else {
        std::memcpy(out.Row<float>(i), table.Row<float>(id), n * sizeof(float));
      }
    }
  });
}

}  // namespace shoal::cpu
