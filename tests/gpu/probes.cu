// See probes.h.
#include "kernels/cuda/device_code.cuh"
#include "tests/gpu/probes.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChains = 8;  // Independent products per warp, so that none waits for the one before.

__device__ __forceinline__ uint32_t Load4(const int8_t* from) { return *reinterpret_cast<const uint32_t*>(from); }
// Rows first .. first + 3 of one column.
__device__ __forceinline__ uint32_t Column4(const int8_t* b, int first, int column) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word |= static_cast<uint32_t>(static_cast<uint8_t>(b[(first + i) * 8 + column])) << 8 * i;
  return word;
}

// A block is one warp, with one product.
template <bool kSm80>
__global__ void __launch_bounds__(32) MmaProbe(const int8_t* all_a, const int8_t* all_b, int32_t* all_d) {
  const int8_t* a = all_a + blockIdx.x * 16 * 32;
  const int8_t* b = all_b + blockIdx.x * 32 * 8;
  int32_t* out = all_d + blockIdx.x * 16 * 8;
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const uint32_t fa[4] = {Load4(a + g * 32 + 4 * t), Load4(a + (g + 8) * 32 + 4 * t), Load4(a + g * 32 + 16 + 4 * t),
                          Load4(a + (g + 8) * 32 + 16 + 4 * t)};
  const uint32_t fb[2] = {Column4(b, 4 * t, g), Column4(b, 16 + 4 * t, g)};
  int d[4] = {};
  MmaS8<kSm80>(d, fa, fb);
  out[g * 8 + 2 * t] = d[0];
  out[g * 8 + 2 * t + 1] = d[1];
  out[(g + 8) * 8 + 2 * t] = d[2];
  out[(g + 8) * 8 + 2 * t + 1] = d[3];
}

__global__ void __launch_bounds__(kThreads)
    Dp4aProbe(const uint32_t* a, const uint32_t* b, const int32_t* c, int32_t* out, int n) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < n) out[i] = Dp4a(a[i], b[i], c[i]);
}

__global__ void __launch_bounds__(kThreads) HalfToFloatProbe(const uint16_t* in, float* out, int n) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < n) out[i] = HalfBitsToFloat(in[i]);
}

__global__ void __launch_bounds__(kThreads) FloatToHalfProbe(const float* in, uint16_t* out, int n) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < n) out[i] = FloatToHalfBits(in[i]);
}

// Each thread writes what its neighbour has copied.
template <bool kSm80>
__global__ void __launch_bounds__(kThreads) CopyAsyncProbe(const unsigned char* in, unsigned char* out) {
  __shared__ __align__(16) unsigned char stages[2][kCopyProbeBytes];
  const int mine = 16 * threadIdx.x, neighbour = 16 * ((threadIdx.x + 37) % kThreads);
  CopyAsync16<kSm80>(stages[0] + mine, in + mine);
  CopyAsyncCommit<kSm80>();
  for (int round = 0; round < kCopyProbeRounds; ++round) {
    if (round + 1 < kCopyProbeRounds) {
      CopyAsync16<kSm80>(stages[(round + 1) % 2] + mine, in + (round + 1) * kCopyProbeBytes + mine);
    }
    CopyAsyncCommit<kSm80>();  // Empty in the last round.
    CopyAsyncWait<kSm80, 1>();
    __syncthreads();
    *reinterpret_cast<uint4*>(out + round * kCopyProbeBytes + neighbour) =
        *reinterpret_cast<const uint4*>(stages[round % 2] + neighbour);
    __syncthreads();
  }
}

__global__ void HandshakeProbe(uint64_t* to_host, const uint64_t* from_host, uint64_t hello, uint64_t answer,
                               uint64_t limit_ns) {
  const uint64_t start = NowNs();
  StoreSystem(to_host, hello);
  while (LoadSystem(from_host) != answer) {
    if (NowNs() - start > limit_ns) {
      StoreSystem(to_host + 1, 1);
      return;
    }
  }
  StoreSystem(to_host + 1, answer);
}

template <bool kSm80>
__global__ void __launch_bounds__(kMmaRateThreads) MmaRate(int32_t* out, int rounds) {
  const uint32_t lane = threadIdx.x;
  const uint32_t a[4] = {lane * 0x01010101u, lane * 0x02010301u, lane * 0x05070301u, lane * 0x03010205u};
  const uint32_t b[2] = {lane * 0x03050101u, lane * 0x01020401u};
  int d[kChains][4] = {};
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain) MmaS8<kSm80>(d[chain], a, b);
  }
  int sum = 0;
  for (int chain = 0; chain < kChains; ++chain) sum += d[chain][0] + d[chain][1] + d[chain][2] + d[chain][3];
  out[blockIdx.x * kMmaRateThreads + threadIdx.x] = sum;
}

dim3 Blocks(int n) { return dim3((n + kThreads - 1) / kThreads); }

}  // namespace

void LaunchMmaProbe(const int8_t* a, const int8_t* b, int32_t* d, int count, bool form80, Stream stream) {
  if (form80) {
    SHOAL_LAUNCH(MmaProbe<true>, dim3(count), dim3(32), 0, stream, a, b, d);
  } else {
    SHOAL_LAUNCH(MmaProbe<false>, dim3(count), dim3(32), 0, stream, a, b, d);
  }
}

void LaunchDp4aProbe(const uint32_t* a, const uint32_t* b, const int32_t* c, int32_t* out, int n, Stream stream) {
  SHOAL_LAUNCH(Dp4aProbe, Blocks(n), dim3(kThreads), 0, stream, a, b, c, out, n);
}

void LaunchHalfToFloatProbe(const uint16_t* in, float* out, int n, Stream stream) {
  SHOAL_LAUNCH(HalfToFloatProbe, Blocks(n), dim3(kThreads), 0, stream, in, out, n);
}

void LaunchFloatToHalfProbe(const float* in, uint16_t* out, int n, Stream stream) {
  SHOAL_LAUNCH(FloatToHalfProbe, Blocks(n), dim3(kThreads), 0, stream, in, out, n);
}

void LaunchCopyAsyncProbe(const unsigned char* in, unsigned char* out, bool form80, Stream stream) {
  if (form80) {
    SHOAL_LAUNCH(CopyAsyncProbe<true>, dim3(1), dim3(kThreads), 0, stream, in, out);
  } else {
    SHOAL_LAUNCH(CopyAsyncProbe<false>, dim3(1), dim3(kThreads), 0, stream, in, out);
  }
}

void LaunchHandshakeProbe(uint64_t* to_host, const uint64_t* from_host, uint64_t hello, uint64_t answer,
                          uint64_t limit_ns, Stream stream) {
  SHOAL_LAUNCH(HandshakeProbe, dim3(1), dim3(1), 0, stream, to_host, from_host, hello, answer, limit_ns);
}

int64_t LaunchMmaRate(int32_t* out, int blocks, int rounds, bool form80, Stream stream) {
  if (form80) {
    SHOAL_LAUNCH(MmaRate<true>, dim3(blocks), dim3(kMmaRateThreads), 0, stream, out, rounds);
  } else {
    SHOAL_LAUNCH(MmaRate<false>, dim3(blocks), dim3(kMmaRateThreads), 0, stream, out, rounds);
  }
  return int64_t{blocks} * (kMmaRateThreads / 32) * rounds * kChains * (2 * 16 * 8 * 32);
}

}  // namespace shoal::cuda
