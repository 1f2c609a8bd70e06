// Products of quantized matrices packed as pack.h says, over any lanes_*.h.
//
// Work unit: some blocks of 16 weight rows times a chunk of tokens, one activation group at a time. Per group and token
// a block gives 16 exact int32 sums, which then join the token's running sums. So the bits of an output do not depend
// on the other rows of the step, on tiles or on threads.
//
// Few tokens (decode): one block at a time, so that weights are one stream in order of address; 4-bit weights are
// multiplied as they are stored. Two blocks side by side would halve the loads of activations, but the second stream
// costs a third of the read speed. More tokens (prefill): tiles of L::kBlocks x L::kTokens from L1, where a group of
// 4-bit weights is unpacked to bytes once per chunk.
//
// Bounds and measurements: docs/benchmarks.md, "Kernels".
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace shoal::cpu {
namespace {

constexpr int64_t kTokenChunk = 256;
constexpr int64_t kGroupMax = 256;

// Running sums of one chunk: [token][block of the tile][16].
template <bool kPartial>
struct RunningSums {
  alignas(64) float values[kTokenChunk * 32];
};
template <>
struct RunningSums<true> {
  alignas(64) double values[kTokenChunk * 32];
};

// Adds one group's exact sums of 16 rows to the running sums, as Ops::Linear or Ops::LinearPartial say.
template <class L, bool kPartial, typename T>
inline void AddGroup(typename L::I exact, float x_scale, const float* row_scales, T* sums) {
  const typename L::F scale = L::Set(x_scale);
  if constexpr (kPartial) {
    L::AddQuantized(sums, L::Mul(L::Mul(L::ToFloat(exact), scale), L::Load(row_scales)));
  } else {
    L::Store(sums, L::Fma(L::ToFloat(exact), scale, L::Load(sums)));
  }
}

// `Args` also of dense_kernels.h, which has no row scales (null).
template <class L, bool kPartial, typename Args, typename T>
void WriteBlock(const Args& args, const float* row_scales, int64_t block, int64_t token, const T* sums) {
  const int64_t row = block * 16;
  const int64_t n = args.rows - row < 16 ? args.rows - row : 16;
  if constexpr (kPartial) {
    double* out = args.partial_out + token * args.out_stride + row;
    for (int64_t i = 0; i < n; ++i) out[i] = sums[i];
  } else {
    typename L::F y = L::Load(sums);
    if (row_scales != nullptr) y = L::Mul(L::Load(row_scales + row), y);
    if (args.bias != nullptr) y = L::Add(L::Load(args.bias + row), y);
    L::StoreN(args.out + token * args.out_stride + row, y, n);
  }
}

// The weights of R blocks for one activation group: bytes for L::DotInt8, or 4-bit values still packed.
template <int R>
struct GroupWeights {
  const uint8_t* bytes[R];
  PackedInt4 packed[R];
};

inline PackedInt4 FindInt4(const QuantizedLinearArgs& args, int64_t block, int64_t g) {
  const int64_t first = block * (args.cols / 32) + g * (args.group / 32);
  return {args.values + first * 256, args.group_scales + first * 8, args.group_offsets + first * 16};
}

// Where group `g` of R blocks starts. Unpacks 4-bit weights into `panel` unless they are used as they are.
template <class L, int R>
GroupWeights<R> FindGroup(const QuantizedLinearArgs& args, int64_t block, int64_t g, bool packed,
                          uint8_t (*panel)[kGroupMax * 16]) {
  GroupWeights<R> w{};
  for (int r = 0; r < R; ++r) {
    if (!args.int4) {
      w.bytes[r] = args.values + ((block + r) * args.cols + g * args.group) * 16;
      continue;
    }
    w.packed[r] = FindInt4(args, block + r, g);
    if (packed) continue;
    L::UnpackInt4(w.packed[r], args.group / 32, panel[r]);
    w.bytes[r] = panel[r];
  }
  return w;
}

template <class L, int R, int M, bool kPartial, bool kPacked, bool kStream, typename T>
void QuantizedTile(const QuantizedLinearArgs& args, const GroupWeights<R>& w, int64_t block, int64_t token, int64_t g,
                   T* sums) {
  using I = typename L::I;
  const int64_t groups = args.cols / args.group;
  const int8_t* q = args.q + token * args.q_stride + g * args.group;
  I exact[R][M];
  if constexpr (kPacked) {
    const GroupSums x_sums = {args.x_sum + token * args.x_sum_stride + g * (args.group / 32), args.x_sum_stride,
                              args.byte_bias + token * groups + g, groups};
    for (int r = 0; r < R; ++r) {
      L::template DotInt4<M>(w.packed[r], args.group / 32, q, args.q_stride, x_sums, exact[r]);
    }
  } else {
    const int32_t* start = args.byte_bias + token * groups + g;
    L::template DotInt8<R, M, kStream>(w.bytes, args.group, q, args.q_stride, start, groups, exact);
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
    const float x_scale = args.x_scale[(token + m) * args.x_scale_stride + g];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      AddGroup<L, kPartial>(exact[r][m], x_scale, args.scales + (block + r) * 16, sums + (m * R + r) * 16);
    }
  }
}

// Tiles of M tokens, then the rest in one smaller tile. kStream: the first tile finds its weights in memory.
template <class L, int R, bool kPartial, bool kPacked, bool kStream, int M, typename T>
void QuantizedTiles(const QuantizedLinearArgs& args, const GroupWeights<R>& w, int64_t block, int64_t token,
                    int64_t tokens, int64_t g, T* sums) {
  if (kStream && tokens >= M) {
    QuantizedTile<L, R, M, kPartial, kPacked, true>(args, w, block, token, g, sums);
    tokens -= M, token += M, sums += M * R * 16;
  }
  for (; tokens >= M; tokens -= M, token += M, sums += M * R * 16) {
    QuantizedTile<L, R, M, kPartial, kPacked, false>(args, w, block, token, g, sums);
  }
  if constexpr (M > 1) {
    if (tokens > 0) {
      QuantizedTiles<L, R, kPartial, kPacked, kStream, M - 1>(args, w, block, token, tokens, g, sums);
    }
  }
}

template <class L, int R, bool kPartial, bool kPacked>
void QuantizedBlocks(const QuantizedLinearArgs& args, int64_t block, int64_t first_token, int64_t tokens) {
  alignas(64) uint8_t panel[R][kGroupMax * 16];
  RunningSums<kPartial> sums;
  for (int64_t i = 0; i < tokens * R * 16; ++i) sums.values[i] = 0;
  for (int64_t g = 0; g < args.cols / args.group; ++g) {
    const GroupWeights<R> w = FindGroup<L, R>(args, block, g, kPacked, panel);
    if (kPacked || !args.int4) {
      QuantizedTiles<L, R, kPartial, kPacked, true, L::kTokens>(args, w, block, first_token, tokens, g, sums.values);
    } else {
      QuantizedTiles<L, R, kPartial, kPacked, false, L::kTokens>(args, w, block, first_token, tokens, g, sums.values);
    }
  }
  for (int64_t t = 0; t < tokens; ++t) {
    for (int r = 0; r < R; ++r) {
      WriteBlock<L, kPartial>(args, args.scales, block + r, first_token + t, sums.values + (t * R + r) * 16);
    }
  }
}

// A step of at most L::kPackedTokens tokens.
template <class L, bool kPartial>
void DecodeBlocks(const QuantizedLinearArgs& args, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) {
    if (args.int4) {
      QuantizedBlocks<L, 1, kPartial, true>(args, block, 0, args.tokens);
    } else {
      QuantizedBlocks<L, 1, kPartial, false>(args, block, 0, args.tokens);
    }
  }
}

template <class L, bool kPartial>
void QuantizedChunks(const QuantizedLinearArgs& args, int64_t begin, int64_t end) {
  if (args.tokens <= L::kPackedTokens) return DecodeBlocks<L, kPartial>(args, begin, end);
  for (int64_t token = 0; token < args.tokens; token += kTokenChunk) {
    const int64_t tokens = args.tokens - token < kTokenChunk ? args.tokens - token : kTokenChunk;
    int64_t block = begin;
    for (; block + L::kBlocks <= end; block += L::kBlocks) {
      QuantizedBlocks<L, L::kBlocks, kPartial, false>(args, block, token, tokens);
    }
    for (; block < end; ++block) QuantizedBlocks<L, 1, kPartial, false>(args, block, token, tokens);
  }
}

template <class L>
void QuantizedLinear(const QuantizedLinearArgs& args, int64_t begin, int64_t end) {
  if (args.partial_out != nullptr) {
    QuantizedChunks<L, true>(args, begin, end);
  } else {
    QuantizedChunks<L, false>(args, begin, end);
  }
}

}  // namespace
}  // namespace shoal::cpu
