// First include of every .cu file: launches, dynamic shared memory, and the primitives.
//
// A .cu file is compiled by nvcc for GPUs, and as C++ for tests, where tests/support/cuda_emulation.h was included
// before anything else and has defined all of this.
#pragma once

#ifdef __CUDACC__

#include "kernels/cuda/primitives_ptx.cuh"

// Arguments of a launch are copied when it is queued.
#define SHOAL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)

#define SHOAL_NOINLINE __noinline__

// The block's dynamic shared memory, 16 bytes aligned. At most one per kernel.
#define SHOAL_DYNAMIC_SHARED(T, name)                            \
  extern __shared__ __align__(16) unsigned char shared_bytes_[]; \
  T* const name = reinterpret_cast<T*>(shared_bytes_)

#endif  // __CUDACC__

#include "kernels/cuda/arithmetic.cuh"
