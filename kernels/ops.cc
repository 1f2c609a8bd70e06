#include "kernels/ops.h"

namespace shoal {

void CheckKvView(const KvView& cache) {
  SHOAL_CHECK(cache.k.dtype == cache.v.dtype);
  if (cache.k.dtype == DType::kF32 || cache.k.dtype == DType::kF16) return;
  SHOAL_CHECK(cache.k.dtype == DType::kI8 && cache.k_scale.dtype == DType::kF16);
  SHOAL_CHECK_EQ(cache.k_scale.bytes() * kKvGroup, cache.k.bytes() * 2);
  SHOAL_CHECK_EQ(cache.v_scale.bytes(), cache.k_scale.bytes());
}

}  // namespace shoal
