// The CPU layout of pack.h, one block of 16 rows after the other: transpositions in 128-bit vectors, which every CPU
// has, and which keep up with memory. All inputs are 16 canonical rows, `stride` bytes apart.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/weight.h"

namespace shoal::cpu {

using Words = uint32_t __attribute__((vector_size(16)));
using Halves = uint16_t __attribute__((vector_size(16)));
using Bytes = uint8_t __attribute__((vector_size(16)));

template <typename V>
inline V LoadVector(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

// Element j of row[i] goes to element i of row[j].
inline void Transpose(Words (&row)[4]) {
  const Words a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  const Words b = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Words c = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const Words d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  row[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  row[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  row[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  row[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

inline Halves InterleaveLow(Halves a, Halves b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline Halves InterleaveHigh(Halves a, Halves b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
inline Bytes InterleaveLow(Bytes a, Bytes b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Bytes InterleaveHigh(Bytes a, Bytes b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// Of N rows of N elements: each pass interleaves the halves of the list, and log2 N passes transpose it.
template <typename V, int N>
inline void Transpose(V (&row)[N]) {
  for (int pass = 1; pass < N; pass *= 2) {
    V next[N];
    for (int i = 0; i < N / 2; ++i) {
      next[2 * i] = InterleaveLow(row[i], row[i + N / 2]);
      next[2 * i + 1] = InterleaveHigh(row[i], row[i + N / 2]);
    }
    std::memcpy(row, next, sizeof(next));
  }
}

// Four words of eight nibbles each (column 0 lowest): columns 0..3 to the low, 4..7 to the high halves of the bytes.
inline Words SplitNibbles(Words w) {
  const auto spread = [](Words four) {  // Four nibbles to the low nibbles of four bytes.
    four = (four | four << 8) & 0x00ff00ffu;
    return (four | four << 4) & 0x0f0f0f0fu;
  };
  return spread(w & 0xffffu) | spread(w >> 16) << 4;
}

// kWeightGroup columns of q: 16 bytes a row, to 256 bytes.
inline void PackInt4Group(const uint8_t* in, int64_t stride, uint8_t* out) {
  for (int r = 0; r < 16; r += 4) {
    Words words[4];
    for (int i = 0; i < 4; ++i) words[i] = SplitNibbles(LoadVector<Words>(in + (r + i) * stride));
    Transpose(words);
    for (int v = 0; v < 4; ++v) std::memcpy(out + v * 64 + r * 4, &words[v], 16);
  }
}

// kWeightGroup columns of w8, to 512 bytes.
inline void PackInt8Group(const uint8_t* in, int64_t stride, uint8_t* out) {
  for (int half = 0; half < 2; ++half, in += 16, out += 256) {
    for (int r = 0; r < 16; r += 4) {
      Words words[4];
      for (int i = 0; i < 4; ++i) words[i] = LoadVector<Words>(in + (r + i) * stride) ^ 0x80808080u;
      Transpose(words);
      for (int v = 0; v < 4; ++v) std::memcpy(out + v * 64 + r * 4, &words[v], 16);
    }
  }
}

// The byte of `count` groups (at most 16) of 16 rows, transposed to [count][16 rows] in `out`.
inline void TransposeGroupBytes(const uint8_t* in, int64_t stride, int64_t count, Bytes (&out)[16]) {
  for (int r = 0; r < 16; ++r) {
    uint8_t bytes[16] = {};
    std::memcpy(bytes, in + r * stride, count);
    out[r] = LoadVector<Bytes>(bytes);
  }
  Transpose(out);
}

// n of a row's `groups` groups, to 8 bytes a group. True if all of them lie in 1..16.
inline bool PackGroupScales(const uint8_t* in, int64_t groups, uint8_t* out) {
  Bytes high_bits = {};
  for (int64_t g = 0; g < groups; g += 16) {
    const int64_t count = groups - g < 16 ? groups - g : 16;
    Bytes n[16];
    TransposeGroupBytes(in + g, groups, count, n);
    for (int64_t i = 0; i < count; ++i, out += 8) {
      const Bytes less = n[i] - 1;
      high_bits |= less & 0xf0;
      uint64_t halves[2];
      std::memcpy(halves, &less, sizeof(halves));
      halves[0] |= halves[1] << 4;  // No carry: each byte is below 16.
      std::memcpy(out, &halves[0], 8);
    }
  }
  uint64_t bits[2];
  std::memcpy(bits, &high_bits, sizeof(bits));
  return (bits[0] | bits[1]) == 0;
}

// m of a row's `groups` groups, to 16 bytes a group.
inline void PackGroupOffsets(const uint8_t* in, int64_t groups, uint8_t* out) {
  for (int64_t g = 0; g < groups; g += 16) {
    const int64_t count = groups - g < 16 ? groups - g : 16;
    Bytes m[16];
    TransposeGroupBytes(in + g, groups, count, m);
    std::memcpy(out + g * 16, m, count * 16);
  }
}

// Columns of 2 or 4 bytes, to [cols][16 rows].
template <typename V, int N>
inline void PackDense(const std::byte* in, int64_t cols, std::byte* out) {
  constexpr int64_t kSize = sizeof(V) / N;
  const int64_t stride = cols * kSize;
  int64_t k = 0;
  for (; k + N <= cols; k += N) {
    for (int r = 0; r < 16; r += N) {
      V rows[N];
      for (int i = 0; i < N; ++i) rows[i] = LoadVector<V>(in + (r + i) * stride + k * kSize);
      Transpose(rows);
      for (int i = 0; i < N; ++i) std::memcpy(out + ((k + i) * 16 + r) * kSize, &rows[i], sizeof(V));
    }
  }
  for (; k < cols; ++k) {
    for (int r = 0; r < 16; ++r) std::memcpy(out + (k * 16 + r) * kSize, in + r * stride + k * kSize, kSize);
  }
}

}  // namespace shoal::cpu
