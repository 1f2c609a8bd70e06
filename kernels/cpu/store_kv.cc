// Writes new keys and values into their paged slots. Bound: one read and one write of them.
#include <cstring>

#include "kernels/cpu/cpu_ops.h"

namespace shoal::cpu {

KvType KvTypeOf(const KvView& cache) {
  CheckKvView(cache);
  return cache.k.dtype == DType::kF32 ? KvType::kF32 : cache.k.dtype == DType::kF16 ? KvType::kF16 : KvType::kI8;
}

void CpuOps::StoreKv(Tensor k, Tensor v, Tensor slots, KvView cache) {
  const int64_t blocks = cache.k.dims[0], kv_heads = cache.k.dims[1], block = cache.k.dims[2],
                head_dim = cache.k.dims[3];
  const KvType type = KvTypeOf(cache);
  SHOAL_CHECK(k.dtype == DType::kF32 && v.dtype == DType::kF32 && slots.dtype == DType::kI32);
  SHOAL_CHECK(k.cols() == kv_heads * head_dim && v.cols() == kv_heads * head_dim);
  SHOAL_CHECK(k.rows() == slots.rows() && v.rows() == slots.rows());
  const auto store = [&](const float* in, Tensor to, Tensor scale, int64_t at) {
    switch (type) {
      case KvType::kF32:
        std::memcpy(to.As<float>() + at, in, head_dim * sizeof(float));
        break;
      case KvType::kF16:
        kernels_.float_to_f16(in, to.As<uint16_t>() + at, head_dim);
        break;
      case KvType::kI8:
        kernels_.quantize_kv(in, head_dim, to.As<int8_t>() + at, scale.As<uint16_t>() + at / kKvGroup);
        break;
    }
  };
  Parallel(k.rows(), k.cols() / 2, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = slots.As<int32_t>()[i];
      if (slot < 0) continue;
      SHOAL_CHECK_LT(slot, blocks * block);
      for (int64_t h = 0; h < kv_heads; ++h) {
        const int64_t at = ((slot / block * kv_heads + h) * block + slot % block) * head_dim;
        store(k.Row<float>(i) + h * head_dim, cache.k, cache.k_scale, at);
        store(v.Row<float>(i) + h * head_dim, cache.v, cache.v_scale, at);
      }
    }
  });
}

}  // namespace shoal::cpu
