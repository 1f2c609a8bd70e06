// The AMX tile operations that the kernels use, in hardware and as plain loops with the same results.
//
// HardwareTiles has been compiled but never run by its authors: their machine has no AMX. EmulatedTiles runs the very
// same kernel code in the conformance suite on any machine; what it cannot prove is the hardware configuration below.
//
// Tiles 0-3 are int32 sums [rows][16], 4-5 are A (tokens) [rows][k bytes], 6-7 are B (weights) [k / 4][16 rows][4].
#pragma once

#include <cstdint>

namespace shoal::cpu {
namespace {

// Shapes of all tiles for up to 32 tokens and k columns.
struct TileShape {
  int rows0 = 0;  // Tokens of the first A tile, 1..16,
  int rows1 = 0;  // and of the second, 0..16.
  int k = 0;      // 32 or 64.

  bool operator==(const TileShape& o) const { return rows0 == o.rows0 && rows1 == o.rows1 && k == o.k; }
};

struct HardwareTiles {
  // The 64 bytes that LDTILECFG reads.
  struct alignas(64) Config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
  };

  void Configure(const TileShape& s) {
    const int rows1 = s.rows1 > 0 ? s.rows1 : 1;  // A configured tile cannot be empty.
    Config c{};
    c.palette = 1;
    const int rows[8] = {s.rows0, s.rows0, rows1, rows1, s.rows0, rows1, s.k / 4, s.k / 4};
    for (int i = 0; i < 8; ++i) {
      c.rows[i] = static_cast<uint8_t>(rows[i]);
      c.column_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? s.k : 64);
    }
    asm volatile("ldtilecfg %0" : : "m"(c) : "memory");
  }
  void Release() { asm volatile("tilerelease" : : : "memory"); }

  // Assembly instead of intrinsics, for two reasons. The intrinsics of gcc 12 want literal tile numbers, and they do
  // not say what memory they read (8 bytes of a configuration, nothing of a tile), so that stores before them may be
  // deleted or moved behind them; here every load has a memory clobber.
  template <int kTile>
  void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void Load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  // C += A B, A signed and B unsigned bytes.
  template <int kC, int kA, int kB>
  void Dot() {
    asm volatile("tdpbsud %%tmm%c0, %%tmm%c1, %%tmm%c2" : : "i"(kB), "i"(kA), "i"(kC));
  }
  template <int kTile>
  void Store(int32_t* p) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(int64_t{64}), "i"(kTile) : "memory");
  }
};

struct EmulatedTiles {
  TileShape shape;
  uint8_t bytes[8][1024];

  void Configure(const TileShape& s) {
    shape = s;
    __builtin_memset(bytes, 0, sizeof(bytes));  // As LDTILECFG does.
  }
  void Release() { shape = TileShape{}; }

  int Rows(int tile) const {
    if (tile >= 6) return shape.k / 4;
    return tile == 0 || tile == 1 || tile == 4 ? shape.rows0 : shape.rows1;
  }
  int ColumnBytes(int tile) const { return tile == 4 || tile == 5 ? shape.k : 64; }

  template <int kTile>
  void Zero() {
    __builtin_memset(bytes[kTile], 0, sizeof(bytes[kTile]));
  }
  template <int kTile>
  void Load(const void* p, int64_t stride) {
    for (int i = 0; i < Rows(kTile); ++i) {
      __builtin_memcpy(bytes[kTile] + i * 64, static_cast<const uint8_t*>(p) + i * stride, ColumnBytes(kTile));
    }
  }
  template <int kC, int kA, int kB>
  void Dot() {
    for (int i = 0; i < Rows(kA); ++i) {
      for (int j = 0; j < 16; ++j) {
        int32_t sum;
        __builtin_memcpy(&sum, bytes[kC] + i * 64 + j * 4, 4);
        for (int k = 0; k < shape.k; ++k) {
          sum += static_cast<int8_t>(bytes[kA][i * 64 + k]) * bytes[kB][k / 4 * 64 + j * 4 + k % 4];
        }
        __builtin_memcpy(bytes[kC] + i * 64 + j * 4, &sum, 4);
      }
    }
  }
  template <int kTile>
  void Store(int32_t* p) {
    for (int i = 0; i < Rows(kTile); ++i) __builtin_memcpy(p + i * 16, bytes[kTile] + i * 64, 64);
  }
};

}  // namespace
}  // namespace shoal::cpu
