// Loops that do nothing but read, or nothing but multiply: the ceilings of an instruction set on this machine.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace shoal::cpu {
namespace {

// Bytes between a load and the prefetch that runs before it.
constexpr int64_t kReadAhead = 1024;

template <class L, bool kPrefetch>
int32_t ReadLines(const uint8_t* p, int64_t bytes) {
  typename L::I sum[4] = {L::SetI(0), L::SetI(0), L::SetI(0), L::SetI(0)};
  for (int64_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 4; ++j) {
      const uint8_t* line = p + i + j * 64;
      if constexpr (kPrefetch) __builtin_prefetch(line + kReadAhead);
      sum[j] = L::AddI(sum[j], L::LoadI(reinterpret_cast<const int32_t*>(line)));
    }
  }
  return L::SumI(L::AddI(L::AddI(sum[0], sum[1]), L::AddI(sum[2], sum[3])));
}

template <class L>
int32_t ReadMemory(const uint8_t* p, int64_t bytes, bool prefetch) {
  return prefetch ? ReadLines<L, true>(p, bytes) : ReadLines<L, false>(p, bytes);
}

template <class L>
int64_t MultiplyInt8(const uint8_t* weights, const int8_t* x, int64_t repeats, int32_t* sums) {
  constexpr int R = L::kBlocks, M = L::kTokens;
  static_assert(R <= kRateBlocks && M <= kRateTokens);
  const uint8_t* blocks[R];
  for (int r = 0; r < R; ++r) blocks[r] = weights + r * kRateCols * 16;
  constexpr int32_t kZeros[M] = {};
  typename L::I sum = L::SetI(0);
  for (int64_t i = 0; i < repeats; ++i) {
    typename L::I out[R][M];
    L::template DotInt8<R, M, false>(blocks, kRateCols, x, kRateCols, kZeros, 1, out);
    for (int r = 0; r < R; ++r) {
      for (int m = 0; m < M; ++m) sum = L::AddI(sum, out[r][m]);
    }
    asm volatile("" : : : "memory");  // The next pass reads its operands anew.
  }
  L::StoreI(sums, sum);
  return repeats * R * M * 16 * kRateCols * 2;
}

}  // namespace
}  // namespace shoal::cpu
