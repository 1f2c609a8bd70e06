// Float and exact arithmetic of the kernels: the same operations in the same order as kernels/cpu/row_kernels.h, so
// that a GPU rank computes the bits of a CPU rank. nvcc is told not to fuse a * b + c (-fmad=false): fmaf stands where
// the CPU has one.
#pragma once

#include <cstdint>

namespace shoal::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float NegativeInfinity() { return __int_as_float(0xff800000); }

// e^x; kernels/cpu/row_kernels.h says how exact it is and where it comes from.
__device__ __forceinline__ float Exp(float x) {
  // If x is NaN, each comparison is false and keeps it.
  x = -87.0f > x ? -87.0f : x;
  x = 88.0f < x ? 88.0f : x;
  const float rounded = x * 1.44269504088896341f + 0x1.8p23f;  // To the nearest integer, ties to even.
  const int n = static_cast<int>(__float_as_uint(rounded) - 0x4b400000u);
  const float whole = static_cast<float>(n);
  float r = fmaf(whole, -0.693359375f, x);
  r = fmaf(whole, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fmaf(p, r, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  p = fmaf(p, r * r, r);
  return (p + 1.0f) * __uint_as_float(static_cast<unsigned>(n + 127) << 23);
}

__device__ __forceinline__ float SiluMul(float gate, float up) { return gate / (1.0f + Exp(0.0f - gate)) * up; }

// Sum over the lanes of groups of kWidth lanes, by halves, in every lane.
template <int kWidth, typename T>
__device__ __forceinline__ T SumLanes(T value) {
#pragma unroll
  for (int half = kWidth / 2; half > 0; half /= 2) value += __shfl_xor_sync(kAllLanes, value, half);
  return value;
}
template <int kWidth, typename T>
__device__ __forceinline__ T MaxLanes(T value) {
#pragma unroll
  for (int half = kWidth / 2; half > 0; half /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, half);
    value = other > value ? other : value;
  }
  return value;
}

// A sum of floats rounded to multiples of 2^-30 (kExactQuantum in weight.h): two 32-bit integers, since cards for games
// have few units for double. Call Carry() at least every 256 parts.
struct ExactSum {
  int high = 0;  // Multiples of 2^-8.
  int low = 0;   // Multiples of 2^-30.

  // False where the part (NaN, or 2^21 and more) or the sum (2^22 and more) does not fit: then the sum is void.
  __device__ __forceinline__ bool Add(float part) {
    const bool fits = fabsf(part) < 0x1p21f && high < (1 << 30) && high > -(1 << 30);
    if (!fits) part = 0.0f;
    const int h = __float2int_rz(part * 0x1p8f);
    const float rest = fmaf(static_cast<float>(h), -0x1p-8f, part);  // Exact: the bits of `part` below 2^-8.
    high += h;
    low += __float2int_rn(rest * 0x1p30f);  // Ties to even as for the whole: h * 2^22 is even.
    return fits;
  }
  __device__ __forceinline__ void Carry() {
    high += low >> 22;
    low &= (1 << 22) - 1;
  }
  __device__ __forceinline__ double Value() const {
    const int64_t quanta = static_cast<int64_t>(high) * (1 << 22) + low;
    return static_cast<double>(quanta) * 0x1p-30;
  }
};

// RoundToQuantum of weight.h.
__device__ __forceinline__ double RoundToQuantum(double x) { return (x + 0x1.8p22) - 0x1.8p22; }

}  // namespace shoal::cuda
