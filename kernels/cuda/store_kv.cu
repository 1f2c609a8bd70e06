// Appends keys and values to the paged cache. Bound: each is read and written once.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) StoreKv(StoreKvArgs a) {
  const int slot = a.slots[blockIdx.x];
  if (slot < 0) return;
  const float* k = a.k + blockIdx.x * a.k_stride;
  const float* v = a.v + blockIdx.x * a.v_stride;
  for (int j = threadIdx.x; j < a.kv_heads * a.head_dim; j += kThreads) {
    const int64_t row = (static_cast<int64_t>(slot / a.block) * a.kv_heads + j / a.head_dim) * a.block + slot % a.block;
    const int64_t at = row * a.head_dim + j % a.head_dim;
    if (a.f16) {
      static_cast<uint16_t*>(a.k_cache)[at] = FloatToHalfBits(k[j]);
      static_cast<uint16_t*>(a.v_cache)[at] = FloatToHalfBits(v[j]);
    } else {
      static_cast<float*>(a.k_cache)[at] = k[j];
      static_cast<float*>(a.v_cache)[at] = v[j];
    }
  }
}

}  // namespace

void LaunchStoreKv(const StoreKvArgs& args, Stream stream) {
  SHOAL_LAUNCH(StoreKv, dim3(args.rows), dim3(kThreads), 0, stream, args);
}

}  // namespace shoal::cuda
