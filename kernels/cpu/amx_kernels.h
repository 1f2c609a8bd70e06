// Quantized matrix product on AMX tiles: 32 tokens x 32 weight rows per step, 64 (or 32) columns deep.
//
// Same packed weights, running sums and bits as linear_kernels.h. A tiles are read from the activations where they lie;
// B tiles are the packed int8 bytes, or a group of 4-bit weights unpacked to L1 once per chunk of tokens.
// Expected from a prototype on two Xeon cores with AMX: groups of 64 / 128 / 256 give 10 / 16 / 28 % of the tile peak,
// since the int32 sums leave the tiles once per group. This file has not been measured.
#pragma once

#include <cstdint>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/linear_kernels.h"

namespace shoal::cpu {
namespace {

// Sums of 32 tokens x 32 rows, as tiles: [token half][block][token][16].
struct TileSums {
  alignas(64) int32_t c[2][2][256];
};

// One group of up to 32 tokens and R blocks.
template <class Tiles, int R>
void MultiplyGroup(Tiles& tiles, const TileShape& shape, const int8_t* a, int64_t stride, const uint8_t* const* b,
                   int64_t cols, TileSums* sums) {
  const bool two = shape.rows1 > 0;
  tiles.template Zero<0>();
  if (R > 1) tiles.template Zero<1>();
  if (two) tiles.template Zero<2>();
  if (R > 1 && two) tiles.template Zero<3>();
  for (int64_t k = 0; k < cols; k += shape.k) {
    tiles.template Load<4>(a + k, stride);
    tiles.template Load<6>(b[0] + k * 16, 64);
    tiles.template Dot<0, 4, 6>();
    if constexpr (R > 1) {
      tiles.template Load<7>(b[1] + k * 16, 64);
      tiles.template Dot<1, 4, 7>();
    }
    if (!two) continue;
    tiles.template Load<5>(a + 16 * stride + k, stride);
    tiles.template Dot<2, 5, 6>();
    if constexpr (R > 1) tiles.template Dot<3, 5, 7>();
  }
  tiles.template Store<0>(sums->c[0][0]);
  if (R > 1) tiles.template Store<1>(sums->c[0][1]);
  if (two) tiles.template Store<2>(sums->c[1][0]);
  if (R > 1 && two) tiles.template Store<3>(sums->c[1][1]);
}

template <class Tiles, class L, int R, bool kPartial>
void AmxBlocks(Tiles& tiles, TileShape& configured, const QuantizedLinearArgs& args, int64_t block, int64_t first_token,
               int64_t tokens) {
  alignas(64) uint8_t panel[R][kGroupMax * 16];
  RunningSums<kPartial> sums;
  TileSums exact;
  for (int64_t i = 0; i < tokens * R * 16; ++i) sums.values[i] = 0;
  for (int64_t g = 0; g < args.cols / args.group; ++g) {
    const GroupWeights<R> w = FindGroup<L, R>(args, block, g, false, panel);
    for (int64_t t = 0; t < tokens; t += 32) {
      const int n = static_cast<int>(tokens - t < 32 ? tokens - t : 32);
      const TileShape shape{n < 16 ? n : 16, n < 16 ? 0 : n - 16, args.group < 64 ? 32 : 64};
      if (!(shape == configured)) tiles.Configure(configured = shape);
      const int64_t token = first_token + t;
      MultiplyGroup<Tiles, R>(tiles, shape, args.q + token * args.q_stride + g * args.group, args.q_stride, w.bytes,
                              args.group, &exact);
      for (int i = 0; i < n; ++i) {
        const typename L::I bias = L::SetI(args.byte_bias[(token + i) * (args.cols / args.group) + g]);
        const float x_scale = args.x_scale[(token + i) * args.x_scale_stride + g];
        for (int r = 0; r < R; ++r) {
          const typename L::I sum = L::LoadI(exact.c[i / 16][r] + i % 16 * 16);
          AddGroup<L, kPartial>(L::AddI(sum, bias), x_scale, args.scales + (block + r) * 16,
                                sums.values + ((t + i) * R + r) * 16);
        }
      }
    }
  }
  for (int64_t t = 0; t < tokens; ++t) {
    for (int r = 0; r < R; ++r) {
      WriteBlock<L, kPartial>(args, args.scales, block + r, first_token + t, sums.values + (t * R + r) * 16);
    }
  }
}

template <class Tiles, class L, bool kPartial>
void AmxChunks(const QuantizedLinearArgs& args, int64_t begin, int64_t end) {
  Tiles tiles;
  TileShape configured;
  for (int64_t token = 0; token < args.tokens; token += kTokenChunk) {
    const int64_t tokens = args.tokens - token < kTokenChunk ? args.tokens - token : kTokenChunk;
    int64_t block = begin;
    for (; block + 2 <= end; block += 2) {
      AmxBlocks<Tiles, L, 2, kPartial>(tiles, configured, args, block, token, tokens);
    }
    for (; block < end; ++block) AmxBlocks<Tiles, L, 1, kPartial>(tiles, configured, args, block, token, tokens);
  }
  tiles.Release();
}

template <class Tiles, class L>
void AmxQuantizedLinear(const QuantizedLinearArgs& args, int64_t begin, int64_t end) {
  if (args.partial_out != nullptr) {
    AmxChunks<Tiles, L, true>(args, begin, end);
  } else {
    AmxChunks<Tiles, L, false>(args, begin, end);
  }
}

// KernelTable::multiply_int8 on tiles that take part in nothing but products.
template <class Tiles>
int64_t AmxMultiplyInt8(const uint8_t* weights, const int8_t* x, int64_t repeats, int32_t* sums) {
  static_assert(kRateBlocks >= 2 && kRateTokens >= 32);
  alignas(64) int32_t out[256];
  Tiles tiles;
  tiles.Configure({16, 16, 64});
  for (int64_t i = 0; i < repeats; ++i) {
    for (int64_t k = 0; k < kRateCols; k += 64) {
      tiles.template Load<4>(x + k, kRateCols);
      tiles.template Load<6>(weights + k * 16, 64);
      tiles.template Dot<0, 4, 6>();
      tiles.template Load<7>(weights + (kRateCols + k) * 16, 64);
      tiles.template Dot<1, 4, 7>();
      tiles.template Load<5>(x + 16 * kRateCols + k, kRateCols);
      tiles.template Dot<2, 5, 6>();
      tiles.template Dot<3, 5, 7>();
    }
  }
  tiles.template Store<0>(out);
  for (int i = 0; i < 16; ++i) sums[i] = out[i];
  tiles.Release();
  return repeats * 32 * 32 * kRateCols * 2;
}

}  // namespace
}  // namespace shoal::cpu
