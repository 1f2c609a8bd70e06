// What differs between GPU generations, or has no name in CUDA C++. tests/support/cuda_emulation.h has the same
// functions for the CPU; each is checked once on hardware by tests/gpu.
//
// Instructions that only some generations have are chosen by kSm80, a template argument: the host picks the kernel
// variant, so one newer card can run, and test, the code of the older ones.
#pragma once

#include <cstdint>

namespace shoal::cuda {

// c + sum of four signed byte products.
__device__ __forceinline__ int Dp4a(uint32_t a, uint32_t b, int c) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
}

// d[16x8] += a[16x32] * b[32x8] in int8 and int32, by one whole warp. With g = lane / 4 and t = lane % 4:
//   a[0] = A[g][4t..4t+3]   a[1] = A[g+8][4t..]   a[2] = A[g][16+4t..]   a[3] = A[g+8][16+4t..]
//   b[0] = B[4t..4t+3][g]   b[1] = B[16+4t..][g]
//   d[0], d[1] = D[g][2t], D[g][2t+1]   d[2], d[3] = D[g+8][2t], D[g+8][2t+1]
// kSm80: one instruction (sm_80 and later). Else four m8n8k16, which sm_75 has, too.
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k32" and "mma.m8n8k16".
template <bool kSm80>
__device__ __forceinline__ void MmaS8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (kSm80) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();
#endif
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1},{%2},{%3},{%0,%1};"
                   : "+r"(d[0]), "+r"(d[1])
                   : "r"(a[2 * half]), "r"(b[half]));
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1},{%2},{%3},{%0,%1};"
                   : "+r"(d[2]), "+r"(d[3])
                   : "r"(a[2 * half + 1]), "r"(b[half]));
    }
  }
}

// Copies 16 aligned bytes to shared memory. kSm80: on its own, until CopyAsyncWait (cp.async). Else at once.
template <bool kSm80>
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global) {
  if constexpr (kSm80) {
#if __CUDA_ARCH__ >= 800
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(to), "l"(global) : "memory");
#else
    __trap();
#endif
  } else {
    *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
  }
}

// Makes one group of the copies since the last commit.
template <bool kSm80>
__device__ __forceinline__ void CopyAsyncCommit() {
#if __CUDA_ARCH__ >= 800
  if constexpr (kSm80) asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kGroupsLeft of this thread's latest groups are under way. Other threads' copies are visible after
// a __syncthreads() that follows.
template <bool kSm80, int kGroupsLeft>
__device__ __forceinline__ void CopyAsyncWait() {
#if __CUDA_ARCH__ >= 800
  if constexpr (kSm80) asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

// IEEE half as bits. To half: rounds to nearest, ties to even.
__device__ __forceinline__ float HalfBitsToFloat(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0,%1;" : "=f"(value) : "h"(bits));
  return value;
}
__device__ __forceinline__ uint16_t FloatToHalfBits(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0,%1;" : "=h"(bits) : "f"(value));
  return bits;
}

// An aligned word that another device, or the host, sees whole: never half old, half new.
__device__ __forceinline__ void StoreSystem(uint64_t* to, uint64_t word) {
  asm volatile("st.relaxed.sys.global.u64 [%0],%1;" ::"l"(to), "l"(word) : "memory");
}
// For polling. The emulation lets the writer run here.
__device__ __forceinline__ uint64_t LoadSystem(const uint64_t* from) {
  uint64_t word;
  asm volatile("ld.relaxed.sys.global.u64 %0,[%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
}

// Nanoseconds that only grow; for time-outs.
__device__ __forceinline__ uint64_t NowNs() {
  uint64_t ns;
  asm volatile("mov.u64 %0,%%globaltimer;" : "=l"(ns));
  return ns;
}

}  // namespace shoal::cuda
