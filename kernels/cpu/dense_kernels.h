// Products of dense matrices packed as pack.h says, over any lanes_*.h: as linear_kernels.h, with 16 float dot products
// of a fixed order per group and token in the place of exact sums.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/linear_kernels.h"

namespace shoal::cpu {
namespace {

// Sixteen rows' dot products over one group: each a chain of fma in the order of k.
template <class L, int R, int M, typename W>
void DenseDot(const W* const* w, int64_t n, const float* x, int64_t x_stride, typename L::F out[R][M]) {
  using F = typename L::F;
  F sum[R][M];
  for (int r = 0; r < R; ++r) {
    for (int m = 0; m < M; ++m) sum[r][m] = L::Set(0.0f);
  }
  for (int64_t k = 0; k < n; ++k) {
    F weights[R];
    for (int r = 0; r < R; ++r) {
      if constexpr (sizeof(W) == 2) {
        weights[r] = L::LoadBf16(w[r] + k * 16, 16);
      } else {
        weights[r] = L::Load(w[r] + k * 16);
      }
    }
    for (int m = 0; m < M; ++m) {
      const F value = L::Set(x[m * x_stride + k]);
      for (int r = 0; r < R; ++r) sum[r][m] = L::Fma(weights[r], value, sum[r][m]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int m = 0; m < M; ++m) out[r][m] = sum[r][m];
  }
}

template <class L, int R, int M, bool kPartial, typename W, typename T>
void DenseTiles(const DenseLinearArgs& args, const W* const* w, int64_t token, int64_t tokens, int64_t g, T* sums) {
  for (; tokens >= M; tokens -= M, token += M, sums += M * R * 16) {
    typename L::F dot[R][M];
    DenseDot<L, R, M, W>(w, args.group, args.x + token * args.x_stride + g * args.group, args.x_stride, dot);
    for (int m = 0; m < M; ++m) {
      for (int r = 0; r < R; ++r) {
        T* to = sums + (m * R + r) * 16;
        if constexpr (kPartial) {
          L::AddQuantized(to, dot[r][m]);
        } else {
          L::Store(to, L::Add(L::Load(to), dot[r][m]));
        }
      }
    }
  }
  if constexpr (M > 1) {
    if (tokens > 0) DenseTiles<L, R, M - 1, kPartial, W>(args, w, token, tokens, g, sums);
  }
}

template <class L, int R, bool kPartial, typename W>
void DenseBlocks(const DenseLinearArgs& args, int64_t block, int64_t first_token, int64_t tokens) {
  RunningSums<kPartial> sums;
  for (int64_t i = 0; i < tokens * R * 16; ++i) sums.values[i] = 0;
  for (int64_t g = 0; g < args.cols / args.group; ++g) {
    const W* w[R];
    for (int r = 0; r < R; ++r) {
      w[r] = static_cast<const W*>(args.values) + ((block + r) * args.cols + g * args.group) * 16;
    }
    DenseTiles<L, R, L::kTokens, kPartial, W>(args, w, first_token, tokens, g, sums.values);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    for (int r = 0; r < R; ++r) {
      WriteBlock<L, kPartial>(args, nullptr, block + r, first_token + t, sums.values + (t * R + r) * 16);
    }
  }
}

template <class L, bool kPartial, typename W>
void DenseChunks(const DenseLinearArgs& args, int64_t begin, int64_t end) {
  for (int64_t token = 0; token < args.tokens; token += kTokenChunk) {
    const int64_t tokens = args.tokens - token < kTokenChunk ? args.tokens - token : kTokenChunk;
    int64_t block = begin;
    for (; block + L::kBlocks <= end; block += L::kBlocks) {
      DenseBlocks<L, L::kBlocks, kPartial, W>(args, block, token, tokens);
    }
    for (; block < end; ++block) DenseBlocks<L, 1, kPartial, W>(args, block, token, tokens);
  }
}

template <class L>
void DenseLinear(const DenseLinearArgs& args, int64_t begin, int64_t end) {
  const bool partial = args.partial_out != nullptr;
  if (args.bf16) {
    partial ? DenseChunks<L, true, uint16_t>(args, begin, end) : DenseChunks<L, false, uint16_t>(args, begin, end);
  } else {
    partial ? DenseChunks<L, true, float>(args, begin, end) : DenseChunks<L, false, float>(args, begin, end);
  }
}

}  // namespace
}  // namespace shoal::cpu
