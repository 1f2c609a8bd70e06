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
    if (a.kv_type == KvType::kF16) {
      static_cast<uint16_t*>(a.k_cache)[at] = FloatToHalfBits(k[j]);
      static_cast<uint16_t*>(a.v_cache)[at] = FloatToHalfBits(v[j]);
    } else {
      static_cast<float*>(a.k_cache)[at] = k[j];
      static_cast<float*>(a.v_cache)[at] = v[j];
    }
  }
}

// One group of a head by one warp, as Ops::StoreKv says of i8.
__device__ __forceinline__ void StoreInt8(float value, int8_t* q, uint16_t* scale) {
  const int lane = threadIdx.x % 32;
  const float amax = __int_as_float(MaxLanes<32>(__float_as_int(value) & 0x7fffffff));
  const uint16_t half = FloatToHalfBits(amax * (1 / 127.0f));
  const float s = HalfBitsToFloat(half);
  const bool usable = s > 0.0f && s <= 65504.0f;  // The same in every lane.
  float scaled = usable ? value * (1.0f / s) : 0.0f;
  scaled = scaled > 127.0f ? 127.0f : scaled < -127.0f ? -127.0f : scaled;
  q[lane] = static_cast<int8_t>(__float2int_rn(scaled));
  if (lane == 0) *scale = usable || s == 0.0f ? half : 0x7e00;
}

__global__ void __launch_bounds__(kThreads) StoreKvInt8(StoreKvArgs a) {
  const int slot = a.slots[blockIdx.x];
  if (slot < 0) return;
  const float* k = a.k + blockIdx.x * a.k_stride;
  const float* v = a.v + blockIdx.x * a.v_stride;
  for (int g = threadIdx.x / 32; g < a.kv_heads * a.head_dim / 32; g += kThreads / 32) {
    const int first = g * 32;
    const int64_t row =
        (static_cast<int64_t>(slot / a.block) * a.kv_heads + first / a.head_dim) * a.block + slot % a.block;
    const int64_t at = row * a.head_dim + first % a.head_dim;
    StoreInt8(k[first + threadIdx.x % 32], static_cast<int8_t*>(a.k_cache) + at, a.k_scale + at / 32);
    StoreInt8(v[first + threadIdx.x % 32], static_cast<int8_t*>(a.v_cache) + at, a.v_scale + at / 32);
  }
}

}  // namespace

void LaunchStoreKv(const StoreKvArgs& args, Stream stream) {
  if (args.kv_type == KvType::kI8) {
    SHOAL_LAUNCH(StoreKvInt8, dim3(args.rows), dim3(kThreads), 0, stream, args);
  } else {
    SHOAL_LAUNCH(StoreKv, dim3(args.rows), dim3(kThreads), 0, stream, args);
  }
}

}  // namespace shoal::cuda
