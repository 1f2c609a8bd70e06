// Sixteen lanes in plain C++: any x86-64. Every lanes_*.h has the same members with the same results, bit for bit.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernel_table.h"
#include "kernels/half.h"

namespace shoal::cpu {
namespace {

struct PortableLanes {
  static constexpr int kBlocks = 1;        // Weight row blocks of one register tile,
  static constexpr int kTokens = 4;        // and tokens.
  static constexpr int kPackedTokens = 8;  // Up to as many in a step, 4-bit weights are multiplied as they are stored.

  struct F {
    float v[16];
  };
  struct I {
    int32_t v[16];
  };

  template <typename Fn>
  static F MakeF(Fn fn) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = fn(i);
    return r;
  }
  template <typename Fn>
  static I MakeI(Fn fn) {
    I r;
    for (int i = 0; i < 16; ++i) r.v[i] = fn(i);
    return r;
  }
  static int32_t Bits(float x) { return std::bit_cast<int32_t>(x); }
  static int32_t Wrap(uint32_t x) { return static_cast<int32_t>(x); }

  static F Set(float x) {
    return MakeF([&](int) { return x; });
  }
  static F Load(const float* p) {
    return MakeF([&](int i) { return p[i]; });
  }
  // The first n lanes; the others are 0.
  static F LoadN(const float* p, int64_t n) {
    return MakeF([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  static F LoadBf16(const uint16_t* p, int64_t n) {
    return MakeF([&](int i) { return i < n ? Bf16ToFloat(p[i]) : 0.0f; });
  }
  static F LoadF16(const uint16_t* p, int64_t n) {
    return MakeF([&](int i) { return i < n ? HalfToFloat(p[i]) : 0.0f; });
  }
  static F LoadF64(const double* p, int64_t n) {
    return MakeF([&](int i) { return i < n ? static_cast<float>(p[i]) : 0.0f; });
  }
  static void Store(float* p, F a) { std::memcpy(p, a.v, sizeof(a.v)); }
  static void StoreN(float* p, F a, int64_t n) {
    for (int i = 0; i < n && i < 16; ++i) p[i] = a.v[i];
  }
  static void StoreF16(uint16_t* p, F a, int64_t n) {
    for (int i = 0; i < n && i < 16; ++i) p[i] = FloatToHalf(a.v[i]);
  }

  static F Add(F a, F b) {
    return MakeF([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F Sub(F a, F b) {
    return MakeF([&](int i) { return a.v[i] - b.v[i]; });
  }
  static F Mul(F a, F b) {
    return MakeF([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F Div(F a, F b) {
    return MakeF([&](int i) { return a.v[i] / b.v[i]; });
  }
  // a * b + c, rounded once.
  static F Fma(F a, F b, F c) {
    return MakeF([&](int i) { return std::fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  // If either is NaN: b.
  static F Max(F a, F b) {
    return MakeF([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F Min(F a, F b) {
    return MakeF([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  // Lanes 0 .. n - 1 of a; b elsewhere.
  static F Select(F a, F b, int64_t n) {
    return MakeF([&](int i) { return i < n ? a.v[i] : b.v[i]; });
  }
  // Bit i: a > b in lane i.
  static uint32_t GreaterMask(F a, F b) {
    uint32_t mask = 0;
    for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(a.v[i] > b.v[i]) << i;
    return mask;
  }
  // Halves are added until one lane is left: the order of additions every instruction set follows.
  static float Sum(F a) {
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    }
    return a.v[0];
  }
  static float MaxOf(F a) {
    float m = a.v[0];
    for (int i = 1; i < 16; ++i) m = m > a.v[i] ? m : a.v[i];
    return m;
  }

  static I SetI(int32_t x) {
    return MakeI([&](int) { return x; });
  }
  static I LoadI(const int32_t* p) {  // Also of floats' bits.
    I r;
    std::memcpy(r.v, p, sizeof(r.v));
    return r;
  }
  static I LoadI8(const int8_t* p) {
    return MakeI([&](int i) { return p[i]; });
  }
  // n of 16 rows, 4 bits each and less one: byte i holds row i low and row i + 8 high.
  static I LoadGroupScales(const uint8_t* p) {
    return MakeI([&](int i) { return (i < 8 ? p[i] & 15 : p[i - 8] >> 4) + 1; });
  }
  static void StoreI(int32_t* p, I a) { std::memcpy(p, a.v, sizeof(a.v)); }
  static void StoreI8(int8_t* p, I a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
  }
  static I AddI(I a, I b) {
    return MakeI([&](int i) { return Wrap(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i])); });
  }
  static I MulI(I a, I b) {
    return MakeI([&](int i) { return Wrap(static_cast<uint32_t>(a.v[i]) * static_cast<uint32_t>(b.v[i])); });
  }
  // a + b * c; b and c fit in 16 bits.
  static I AddProduct16(I a, I b, int32_t c) { return AddI(a, MulI(b, SetI(c))); }
  // Byte kByte of every lane, its sign extended.
  template <int kByte>
  static I SignedByte(I a) {
    return MakeI([&](int i) { return static_cast<int8_t>(static_cast<uint32_t>(a.v[i]) >> (8 * kByte)); });
  }
  static I MaxI(I a, I b) {
    return MakeI([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static int32_t SumI(I a) {
    int32_t sum = 0;
    for (int i = 0; i < 16; ++i) sum += a.v[i];
    return sum;
  }
  static int32_t MaxOfI(I a) {
    int32_t m = a.v[0];
    for (int i = 1; i < 16; ++i) m = m > a.v[i] ? m : a.v[i];
    return m;
  }
  // |a| as bits: ordered like the magnitudes, with infinity and then NaN above all.
  static I AbsBits(F a) {
    return MakeI([&](int i) { return Bits(a.v[i]) & 0x7fffffff; });
  }
  // To the nearest integer, ties to even; |a| < 2^22.
  static I Round(F a) {
    constexpr float kMagic = 0x1.8p23f;
    return MakeI([&](int i) { return Wrap(static_cast<uint32_t>(Bits(a.v[i] + kMagic)) - 0x4b400000u); });
  }
  static F ToFloat(I a) {
    return MakeF([&](int i) { return static_cast<float>(a.v[i]); });
  }
  // 2^a; -126 <= a <= 127.
  static F Pow2(I a) {
    return MakeF([&](int i) { return std::bit_cast<float>((static_cast<uint32_t>(a.v[i]) + 127u) << 23); });
  }
  // sum[i] += a[i] rounded to a multiple of 2^-30 (RoundToQuantum of weight.h).
  static void AddQuantized(double* sum, F a) {
    constexpr double kMagic = 0x1.8p22;
    for (int i = 0; i < 16; ++i) sum[i] += (static_cast<double>(a.v[i]) + kMagic) - kMagic;
  }

  // out[j * 16 + i] = in[i * stride + j] for i < n; 0 for the lanes i >= n.
  static void Transpose(const float* in, int64_t stride, int64_t n, int64_t cols, float* out) {
    for (int64_t j = 0; j < cols; ++j) {
      for (int64_t i = 0; i < 16; ++i) out[j * 16 + i] = i < n ? in[i * stride + j] : 0.0f;
    }
  }
  // The same of f16 values; cols and stride are even.
  static void TransposeF16(const uint16_t* in, int64_t stride, int64_t n, int64_t cols, uint16_t* out) {
    for (int64_t j = 0; j < cols; ++j) {
      for (int64_t i = 0; i < 16; ++i) out[j * 16 + i] = i < n ? in[i * stride + j] : 0;
    }
  }

  // out[r][m] = start[m * start_stride] + 16 rows' sums over k < cols of w[r][k, row] * a[m * stride + k]; w as
  // [cols / 4][16 rows][4] bytes. kStream: w comes from memory, not from a cache.
  template <int R, int M, bool kStream>
  static void DotInt8(const uint8_t* const* w, int64_t cols, const int8_t* a, int64_t stride, const int32_t* start,
                      int64_t start_stride, I out[R][M]) {
    for (int r = 0; r < R; ++r) {
      for (int m = 0; m < M; ++m) {
        I sum = SetI(start[m * start_stride]);
        for (int64_t k = 0; k < cols; k += 4) {
          const uint8_t* block = w[r] + k * 16;
          const int8_t* x = a + m * stride + k;
          for (int i = 0; i < 16; ++i) {
            for (int j = 0; j < 4; ++j) sum.v[i] += block[i * 4 + j] * x[j];
          }
        }
        out[r][m] = sum;
      }
    }
  }

  // out[m] = 16 rows' sums over the columns of `groups` weight groups of w8[k, row] * a[m * stride + k], where
  // w8 = n * q + m; sums.parts[m * sums.parts_stride + g] is the sum of a over the columns of group g.
  template <int M>
  static void DotInt4(const PackedInt4& w, int64_t groups, const int8_t* a, int64_t stride, const GroupSums& sums,
                      I out[M]) {
    for (int m = 0; m < M; ++m) {
      out[m] = SetI(0);
      for (int64_t g = 0; g < groups; ++g) {
        const uint8_t* q = w.q + g * 256;
        const int8_t* x = a + m * stride + g * 32;
        I dot = SetI(0);
        for (int v = 0; v < 4; ++v, q += 64, x += 8) {
          for (int i = 0; i < 64; ++i) dot.v[i / 4] += (q[i] & 15) * x[i % 4] + (q[i] >> 4) * x[4 + i % 4];
        }
        const I n = LoadGroupScales(w.scales + g * 8), offset = LoadI8(w.offsets + g * 16);
        out[m] = AddI(AddProduct16(out[m], offset, sums.parts[m * sums.parts_stride + g]), MulI(n, dot));
      }
    }
  }

  // The bytes w8 + 128 of `groups` weight groups, laid out as DotInt8 reads them.
  static void UnpackInt4(const PackedInt4& w, int64_t groups, uint8_t* out) {
    for (int64_t g = 0; g < groups; ++g, out += 512) {
      const I n = LoadGroupScales(w.scales + g * 8), offset = LoadI8(w.offsets + g * 16);
      for (int i = 0; i < 256; ++i) {
        const int row = i % 64 / 4, q = w.q[g * 256 + i], to = i / 64 * 128 + i % 64;
        out[to] = static_cast<uint8_t>((q & 15) * n.v[row] + offset.v[row] + 128);
        out[to + 64] = static_cast<uint8_t>((q >> 4) * n.v[row] + offset.v[row] + 128);
      }
    }
  }
};

}  // namespace
}  // namespace shoal::cpu
