// Matrix products over packed weights (pack.h), over any lanes_*.h.
//
// Work unit: a few blocks of 16 weight rows times a chunk of tokens, one activation group at a time. Per group and
// token a block gives 16 exact int32 sums (or 16 float dot products of a fixed order), which then join the token's
// running sums. So the bits of an output do not depend on the other rows of the step, on tiles or on threads.
//
// Up to kDirectTokens tokens, 4-bit weights are multiplied as they are stored and read once; beyond, a group of them is
// unpacked to bytes in L1 once per chunk.
//
// Measured on one Zen 4 core (AVX-512 VNNI, CPU time on a busy machine, groups of 256): 1 token, int8 17-21 and int4
// 15-17 GB/s where a plain read gives 22; 512 tokens, int8 350-370 and int4 330 GOPS.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace shoal::cpu {
namespace {

constexpr int64_t kTokenChunk = 128;
constexpr int64_t kDirectTokens = 32;
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

// Bytes of one group of 32 columns x 16 rows: w8 + 128 = n * q + (m + 128), laid out as int8 weights are.
template <class L>
void UnpackInt4(const uint8_t* q, const uint8_t* group_scales, const int8_t* group_offsets, uint8_t* out) {
  alignas(64) int32_t scales[16], offsets[16];  // Each row's byte four times.
  const typename L::I four = L::SetI(0x01010101);
  L::StoreI(scales, L::MulI(L::LoadGroupScales(group_scales), four));
  L::StoreI(offsets, L::MulI(L::AddI(L::LoadI8(group_offsets), L::SetI(128)), four));
  const uint8_t* n = reinterpret_cast<const uint8_t*>(scales);
  const uint8_t* m = reinterpret_cast<const uint8_t*>(offsets);
  for (int v = 0; v < 4; ++v, q += 64, out += 128) {
    for (int i = 0; i < 64; ++i) out[i] = static_cast<uint8_t>((q[i] & 15) * n[i] + m[i]);
    for (int i = 0; i < 64; ++i) out[64 + i] = static_cast<uint8_t>((q[i] >> 4) * n[i] + m[i]);
  }
}

// 128 * (sum of the activation group's q): what the +128 of stored bytes adds to a dot product.
inline int32_t BiasCorrection(const QuantizedLinearArgs& args, int64_t token, int64_t group_index) {
  const int32_t* sums = args.x_sum + token * args.x_sum_stride + group_index * (args.group / 32);
  int32_t sum = 0;
  for (int64_t i = 0; i < args.group / 32; ++i) sum += sums[i];
  return sum * 128;
}

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

// The weights of R blocks for one group: bytes for DotInt8, or 4-bit values still packed.
template <int R>
struct GroupWeights {
  const uint8_t* bytes[R];
  const uint8_t* q[R];
  const uint8_t* group_scales[R];
  const int8_t* group_offsets[R];
};

template <class L, int R, int M, bool kPartial, bool kDirect, typename T>
void QuantizedTile(const QuantizedLinearArgs& args, const GroupWeights<R>& w, int64_t block, int64_t token, int64_t g,
                   T* sums) {
  using I = typename L::I;
  const int8_t* q = args.q + token * args.q_stride + g * args.group;
  I exact[R][M];
  if constexpr (kDirect) {
    const int32_t* q_sums = args.x_sum + token * args.x_sum_stride + g * (args.group / 32);
    for (int r = 0; r < R; ++r) {
      I total[M];
      for (int m = 0; m < M; ++m) total[m] = L::SetI(0);
      for (int64_t i = 0; i < args.group / 32; ++i) {
        I dot[M];
        L::template DotInt4<M>(w.q[r] + i * 256, q + i * 32, args.q_stride, dot);
        const I n = L::LoadGroupScales(w.group_scales[r] + i * 8), offset = L::LoadI8(w.group_offsets[r] + i * 16);
        for (int m = 0; m < M; ++m) {
          total[m] = L::AddI(L::AddProduct16(total[m], offset, q_sums[m * args.x_sum_stride + i]), L::MulI(n, dot[m]));
        }
      }
      for (int m = 0; m < M; ++m) exact[r][m] = total[m];
    }
  } else {
    L::template DotInt8<R, M, (M <= kDirectTokens / 2)>(w.bytes, args.group, q, args.q_stride, exact);
  }
  for (int m = 0; m < M; ++m) {
    const I bias = L::SetI(kDirect ? 0 : BiasCorrection(args, token + m, g));
    const float x_scale = args.x_scale[(token + m) * args.x_scale_stride + g];
    for (int r = 0; r < R; ++r) {
      AddGroup<L, kPartial>(L::SubI(exact[r][m], bias), x_scale, args.scales + (block + r) * 16,
                            sums + (m * R + r) * 16);
    }
  }
}

// Tiles of kTokens, then the rest in one smaller tile.
template <class L, int R, bool kPartial, bool kDirect, int M, typename T>
void QuantizedTiles(const QuantizedLinearArgs& args, const GroupWeights<R>& w, int64_t block, int64_t token,
                    int64_t tokens, int64_t g, T* sums) {
  for (; tokens >= M; tokens -= M, token += M, sums += M * R * 16) {
    QuantizedTile<L, R, M, kPartial, kDirect>(args, w, block, token, g, sums);
  }
  if constexpr (M > 1) {
    if (tokens > 0) QuantizedTiles<L, R, kPartial, kDirect, M - 1>(args, w, block, token, tokens, g, sums);
  }
}

// Where group `g` of R blocks starts; unpacks 4-bit weights into `panel` unless they are used as they are.
template <class L, int R>
GroupWeights<R> FindGroup(const QuantizedLinearArgs& args, int64_t block, int64_t g, bool direct,
                          uint8_t (*panel)[kGroupMax * 16]) {
  GroupWeights<R> w{};
  for (int r = 0; r < R; ++r) {
    if (!args.int4) {
      w.bytes[r] = args.values + ((block + r) * args.cols + g * args.group) * 16;
      continue;
    }
    const int64_t first = (block + r) * (args.cols / 32) + g * (args.group / 32);
    w.q[r] = args.values + first * 256;
    w.group_scales[r] = args.group_scales + first * 8;
    w.group_offsets[r] = args.group_offsets + first * 16;
    if (direct) {
      // These streams are thin: hardware prefetchers start late on them.
      __builtin_prefetch(w.group_scales[r] + 256);
      __builtin_prefetch(w.group_offsets[r] + 512);
      __builtin_prefetch(w.group_offsets[r] + 576);
      continue;
    }
    for (int64_t i = 0; i < args.group / 32; ++i) {
      UnpackInt4<L>(w.q[r] + i * 256, w.group_scales[r] + i * 8, w.group_offsets[r] + i * 16, panel[r] + i * 512);
    }
    w.bytes[r] = panel[r];
  }
  return w;
}

template <class L, int R, bool kPartial>
void QuantizedBlocks(const QuantizedLinearArgs& args, int64_t block, int64_t first_token, int64_t tokens) {
  alignas(64) uint8_t panel[R][kGroupMax * 16];
  RunningSums<kPartial> sums;
  for (int64_t i = 0; i < tokens * R * 16; ++i) sums.values[i] = 0;
  const bool direct = args.int4 && args.tokens <= kDirectTokens;
  for (int64_t g = 0; g < args.cols / args.group; ++g) {
    const GroupWeights<R> w = FindGroup<L, R>(args, block, g, direct, panel);
    if (direct) {
      QuantizedTiles<L, R, kPartial, true, L::kTokens>(args, w, block, first_token, tokens, g, sums.values);
    } else {
      QuantizedTiles<L, R, kPartial, false, L::kTokens>(args, w, block, first_token, tokens, g, sums.values);
    }
  }
  for (int64_t t = 0; t < tokens; ++t) {
    for (int r = 0; r < R; ++r) {
      WriteBlock<L, kPartial>(args, args.scales, block + r, first_token + t, sums.values + (t * R + r) * 16);
    }
  }
}

template <class L, bool kPartial>
void QuantizedChunks(const QuantizedLinearArgs& args, int64_t begin, int64_t end) {
  for (int64_t token = 0; token < args.tokens; token += kTokenChunk) {
    const int64_t tokens = args.tokens - token < kTokenChunk ? args.tokens - token : kTokenChunk;
    int64_t block = begin;
    for (; block + L::kBlocks <= end; block += L::kBlocks) {
      QuantizedBlocks<L, L::kBlocks, kPartial>(args, block, token, tokens);
    }
    for (; block < end; ++block) QuantizedBlocks<L, 1, kPartial>(args, block, token, tokens);
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

// ---- dense ----

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
