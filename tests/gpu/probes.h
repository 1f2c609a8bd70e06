// Small kernels of the GPU tests: each primitive of kernels/cuda/primitives_ptx.cuh on its own, and what the hardware
// can do at most. Like all kernels they also run in the emulation.
#pragma once

#include <cstdint>

#include "kernels/cuda/kernels.h"

namespace shoal::cuda {

// d = a b, `count` times. a: [count][16][32]; b: [count][32][8]; d: [count][16][8]. form80: the instruction of sm_80
// and later, else that of sm_75.
void LaunchMmaProbe(const int8_t* a, const int8_t* b, int32_t* d, int count, bool form80, Stream stream);

// out[i] = Dp4a(a[i], b[i], c[i]).
void LaunchDp4aProbe(const uint32_t* a, const uint32_t* b, const int32_t* c, int32_t* out, int n, Stream stream);

void LaunchHalfToFloatProbe(const uint16_t* in, float* out, int n, Stream stream);
void LaunchFloatToHalfProbe(const float* in, uint16_t* out, int n, Stream stream);

// Copies [kCopyProbeRounds][kCopyProbeBytes] through shared memory, two groups of copies under way at a time.
constexpr int kCopyProbeRounds = 8;
constexpr int kCopyProbeBytes = 16 * 128;
void LaunchCopyAsyncProbe(const unsigned char* in, unsigned char* out, bool form80, Stream stream);

// Stores `hello` to to_host[0], waits until from_host[0] is `answer`, for at most limit_ns, and then stores `answer` to
// to_host[1], or 1 if it waited in vain.
void LaunchHandshakeProbe(uint64_t* to_host, const uint64_t* from_host, uint64_t hello, uint64_t answer,
                          uint64_t limit_ns, Stream stream);

// int8 products as fast as MmaS8 makes them: `blocks` blocks, `rounds` rounds each. Returns the operations (two per
// product) that this is. out: [blocks * kMmaRateThreads].
constexpr int kMmaRateThreads = 256;
int64_t LaunchMmaRate(int32_t* out, int blocks, int rounds, bool form80, Stream stream);

}  // namespace shoal::cuda
