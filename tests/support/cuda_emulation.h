// Runs the kernels of kernels/cuda/*.cu on the CPU, one fiber per CUDA thread, so that tests need no GPU.
//
// The .cu files are compiled as C++ with this header included first (-include). It stands for the CUDA language
// (__global__, threadIdx, shuffles, ...) and for kernels/cuda/primitives_ptx.cuh (mma, dp4a, cp.async, ...). Sanitizers
// then see CUDA threads: AddressSanitizer finds what compute-sanitizer's memcheck finds, ThreadSanitizer what racecheck
// finds.
//
// All fibers of a block share one OS thread and take turns at barriers, warp collectives and polls; blocks of a launch
// follow one another. So a kernel whose blocks wait for one another would hang here, while ranks on different OS
// threads or in different processes may. Divergent barriers, collectives that some lane never reaches, and deadlocks
// end the program with a message. Order of memory, as ThreadSanitizer is told: __syncthreads and __syncwarp order it,
// shuffles and mma do not, as in the CUDA programming guide.
//
// Not emulated: the PTX itself, weak memory order, coalescing, bank conflicts, registers, and speed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#include "kernels/half.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define SHOAL_NOINLINE __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static thread_local  // One block at a time per OS thread.

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

struct CUstream_st;

namespace shoal::cuda_emulation {

constexpr unsigned kFullMask = 0xffffffffu;
constexpr size_t kSlotBytes = 64;  // The largest value that a lane can hand to its warp.

// The order in which lanes take their turns: 0 ascending, 1 descending, else the seed of a new random order each round.
// A missing barrier often goes unnoticed in one order. For the calling OS thread.
void SetLaneOrder(int order);

// What the running CUDA thread sees.
struct Place {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
  unsigned lane;
};
const Place& Here();

// Queues a launch on `stream`: runs it at once, or records it where the stream is being captured (emulated_runtime.cc).
void Launch(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st* stream, std::function<void()> kernel);
// Runs it now.
void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);

// The block's dynamic shared memory: exactly the bytes of the launch, poisoned at the start of a block.
void* DynamicShared();

// `site` tells barriers of different places in the source apart.
void BlockBarrier(int site, int line);
void WarpBarrier(unsigned mask = kFullMask);
// Lets the other threads, and other ranks, go on; for loops that poll.
void Yield();

// Waits until every lane of `mask` has brought its value; they stay readable until the lane's next collective.
const void* ExchangeBytes(unsigned mask, const void* value, size_t bytes);
template <typename T>
const T& LaneValue(const void* exchanged, unsigned lane) {
  return *reinterpret_cast<const T*>(static_cast<const unsigned char*>(exchanged) + lane * kSlotBytes);
}

// cp.async with the freedom the hardware has: nothing arrives before the wait that asks for it.
void CopyAsync(void* to, const void* from, int bytes);
void CopyAsyncCommit();
void CopyAsyncWait(int groups_left);

}  // namespace shoal::cuda_emulation

#define threadIdx (::shoal::cuda_emulation::Here().thread)
#define blockIdx (::shoal::cuda_emulation::Here().block)
#define blockDim (::shoal::cuda_emulation::Here().block_dim)
#define gridDim (::shoal::cuda_emulation::Here().grid_dim)
#define __syncthreads() ::shoal::cuda_emulation::BlockBarrier(__COUNTER__, __LINE__)
#define __syncwarp(...) ::shoal::cuda_emulation::WarpBarrier(__VA_ARGS__)
// Arguments are copied when the launch is queued, as on the device.
#define SHOAL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)              \
  [](auto... arguments) {                                                         \
    return [=](dim3 g, dim3 b, size_t s, CUstream_st* q) {                        \
      ::shoal::cuda_emulation::Launch(g, b, s, q, [=] { kernel(arguments...); }); \
    };                                                                            \
  }(__VA_ARGS__)(grid, block, shared_bytes, stream)
#define SHOAL_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::shoal::cuda_emulation::DynamicShared())

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = ::shoal::cuda_emulation::Here().lane;
  const void* all = ::shoal::cuda_emulation::ExchangeBytes(mask, &value, sizeof(T));
  return ::shoal::cuda_emulation::LaneValue<T>(all, (lane & ~(width - 1)) + (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int = 32) {
  const unsigned lane = ::shoal::cuda_emulation::Here().lane;
  const void* all = ::shoal::cuda_emulation::ExchangeBytes(mask, &value, sizeof(T));
  return ::shoal::cuda_emulation::LaneValue<T>(all, lane ^ bits);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const void* all = ::shoal::cuda_emulation::ExchangeBytes(mask, &predicate, sizeof(int));
  unsigned votes = 0;
  for (unsigned l = 0; l < 32; ++l) {
    if ((mask >> l & 1) && ::shoal::cuda_emulation::LaneValue<int>(all, l) != 0) votes |= 1u << l;
  }
  return votes;
}

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
// To an integer, ties to even, as cvt.rni: out of range goes to the ends, NaN to 0.
inline int __float2int_rn(float x) {
  if (!(x < 0x1p31f)) return x >= 0x1p31f ? INT32_MAX : 0;
  return x < -0x1p31f ? INT32_MIN : static_cast<int>(std::nearbyint(x));
}
inline int __float2int_rz(float x) {
  if (!(x < 0x1p31f)) return x >= 0x1p31f ? INT32_MAX : 0;
  return x < -0x1p31f ? INT32_MIN : static_cast<int>(x);
}
template <typename T>
T __ldg(const T* p) {
  return *p;
}

// What kernels/cuda/primitives_ptx.cuh has for the device. Its comments bind here, too.
namespace shoal::cuda {

inline int Dp4a(uint32_t a, uint32_t b, int c) {
  for (int i = 0; i < 4; ++i) c += int{static_cast<int8_t>(a >> 8 * i)} * int{static_cast<int8_t>(b >> 8 * i)};
  return c;
}

// Both forms of the instruction: four m8n8k16 steps are the same sums in another order, and exact.
template <bool kSm80>
void MmaS8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  const Fragments mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const void* all = cuda_emulation::ExchangeBytes(cuda_emulation::kFullMask, &mine, sizeof(mine));
  const unsigned lane = cuda_emulation::Here().lane, g = lane / 4, t = lane % 4;
  int8_t rows[2][32], cols[2][32];  // Of A and B.
  for (unsigned part = 0; part < 4; ++part) {
    const auto& of_row = cuda_emulation::LaneValue<Fragments>(all, g * 4 + part);
    for (unsigned half = 0; half < 2; ++half) {
      std::memcpy(&rows[0][half * 16 + part * 4], &of_row.a[half * 2], 4);
      std::memcpy(&rows[1][half * 16 + part * 4], &of_row.a[half * 2 + 1], 4);
      for (unsigned c = 0; c < 2; ++c) {
        const auto& of_col = cuda_emulation::LaneValue<Fragments>(all, (2 * t + c) * 4 + part);
        std::memcpy(&cols[c][half * 16 + part * 4], &of_col.b[half], 4);
      }
    }
  }
  for (int i = 0; i < 4; ++i) {
    int sum = 0;
    for (int k = 0; k < 32; ++k) sum += int{rows[i / 2][k]} * int{cols[i % 2][k]};
    d[i] += sum;
  }
}

template <bool kSm80>
void CopyAsync16(void* shared, const void* global) {
  if constexpr (kSm80) {
    cuda_emulation::CopyAsync(shared, global, 16);
  } else {
    std::memcpy(shared, global, 16);
  }
}
template <bool kSm80>
void CopyAsyncCommit() {
  if constexpr (kSm80) cuda_emulation::CopyAsyncCommit();
}
template <bool kSm80, int kGroupsLeft>
void CopyAsyncWait() {
  if constexpr (kSm80) cuda_emulation::CopyAsyncWait(kGroupsLeft);
}

inline float HalfBitsToFloat(uint16_t bits) { return HalfToFloat(bits); }
inline uint16_t FloatToHalfBits(float value) { return FloatToHalf(value); }

inline void StoreSystem(uint64_t* to, uint64_t word) { __atomic_store_n(to, word, __ATOMIC_RELAXED); }
inline uint64_t LoadSystem(const uint64_t* from) {
  cuda_emulation::Yield();
  return __atomic_load_n(from, __ATOMIC_RELAXED);
}
// Nanoseconds that only grow; for time-outs.
uint64_t NowNs();

}  // namespace shoal::cuda
