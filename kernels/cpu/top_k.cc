// The k largest of each row; NaN counts as -infinity. Bound: one read of the logits.
#include "kernels/cpu/cpu_ops.h"

namespace shoal::cpu {

void CpuOps::TopK(Tensor logits, Tensor values, Tensor ids) {
  const int64_t k = values.cols();
  SHOAL_CHECK(logits.dtype == DType::kF32 && values.dtype == DType::kF32 && ids.dtype == DType::kI32);
  SHOAL_CHECK(k >= 1 && k <= logits.cols() && ids.cols() == k);
  SHOAL_CHECK(values.rows() == logits.rows() && ids.rows() == logits.rows());
  Parallel(logits.rows(), logits.cols() / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.top_k(logits.Row<float>(i), logits.cols(), k, values.Row<float>(i), ids.Row<int32_t>(i));
    }
  });
}

}  // namespace shoal::cpu
