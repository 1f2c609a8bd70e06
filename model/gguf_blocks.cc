#include "model/gguf_blocks.h"

#include <array>
#include <cstring>

#include "base/check.h"
#include "base/str_cat.h"
#include "kernels/half.h"

namespace shoal {
namespace {

// One block to its floats.
using Decoder = void (*)(const uint8_t* block, float* out);

// Scales are IEEE halfs, little-endian.
float HalfAt(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  return HalfToFloat(bits);
}

// Blocks of 32. Value j lies in the low nibble of byte j, value j + 16 in its high one.

// f16 d | u4 q[32]: d * (q - 8).
void DecodeQ4_0(const uint8_t* block, float* out) {
  const float d = HalfAt(block);
  const uint8_t* q = block + 2;
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((q[j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((q[j] >> 4) - 8);
  }
}

// f16 d | f16 m | u4 q[32]: d * q + m.
void DecodeQ4_1(const uint8_t* block, float* out) {
  const float d = HalfAt(block), m = HalfAt(block + 2);
  const uint8_t* q = block + 4;
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(q[j] & 15) + m;
    out[j + 16] = d * static_cast<float>(q[j] >> 4) + m;
  }
}

// The fifth bits of 32 values: bit j of `high`.
void Fives(const uint8_t* q, const uint8_t* high_bytes, int* out) {
  uint32_t high;
  std::memcpy(&high, high_bytes, sizeof(high));
  for (int j = 0; j < 16; ++j) {
    out[j] = (q[j] & 15) | static_cast<int>((high >> j & 1) << 4);
    out[j + 16] = (q[j] >> 4) | static_cast<int>((high >> (j + 16) & 1) << 4);
  }
}

// f16 d | u1 high[32] | u4 q[32]: d * (q5 - 16).
void DecodeQ5_0(const uint8_t* block, float* out) {
  const float d = HalfAt(block);
  int q[32];
  Fives(block + 6, block + 2, q);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(q[j] - 16);
}

// f16 d | f16 m | u1 high[32] | u4 q[32]: d * q5 + m.
void DecodeQ5_1(const uint8_t* block, float* out) {
  const float d = HalfAt(block), m = HalfAt(block + 2);
  int q[32];
  Fives(block + 8, block + 4, q);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(q[j]) + m;
}

// f16 d | i8 q[32]: d * q.
void DecodeQ8_0(const uint8_t* block, float* out) {
  const float d = HalfAt(block);
  const auto* q = reinterpret_cast<const int8_t*>(block + 2);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(q[j]);
}

// Blocks of 256, in eight groups of 32 with a scale and a minimum of 6 bits each, packed into 12 bytes.
struct GroupScales {
  float scale[8];
  float minimum[8];
};

// f16 d | f16 dmin | u6 scales and minimums. Products of a half and 6 bits are exact.
GroupScales ReadGroupScales(const uint8_t* block) {
  const float d = HalfAt(block), dmin = HalfAt(block + 2);
  const uint8_t* s = block + 4;
  GroupScales out;
  for (int j = 0; j < 4; ++j) {
    out.scale[j] = d * static_cast<float>(s[j] & 63);
    out.minimum[j] = dmin * static_cast<float>(s[j + 4] & 63);
    out.scale[j + 4] = d * static_cast<float>((s[j + 8] & 15) | (s[j] >> 6) << 4);
    out.minimum[j + 4] = dmin * static_cast<float>((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
  }
  return out;
}

// d, dmin, scales (16 bytes) | u4 q[256]: scale * q - minimum. 32 bytes hold two groups, the first in the low nibbles.
void DecodeQ4_K(const uint8_t* block, float* out) {
  const GroupScales g = ReadGroupScales(block);
  const uint8_t* q = block + 16;
  for (int pair = 0; pair < 4; ++pair, q += 32, out += 64) {
    const float d0 = g.scale[2 * pair], m0 = g.minimum[2 * pair];
    const float d1 = g.scale[2 * pair + 1], m1 = g.minimum[2 * pair + 1];
    for (int j = 0; j < 32; ++j) {
      out[j] = d0 * static_cast<float>(q[j] & 15) - m0;
      out[j + 32] = d1 * static_cast<float>(q[j] >> 4) - m1;
    }
  }
}

// d, dmin, scales (16 bytes) | u1 high[256] | u4 q[256]. Bit g of byte j of `high` is the fifth of value j of group g.
void DecodeQ5_K(const uint8_t* block, float* out) {
  const GroupScales g = ReadGroupScales(block);
  const uint8_t* high = block + 16;
  const uint8_t* q = block + 48;
  for (int pair = 0; pair < 4; ++pair, q += 32, out += 64) {
    const float d0 = g.scale[2 * pair], m0 = g.minimum[2 * pair];
    const float d1 = g.scale[2 * pair + 1], m1 = g.minimum[2 * pair + 1];
    for (int j = 0; j < 32; ++j) {
      const int bits = high[j] >> (2 * pair);
      out[j] = d0 * static_cast<float>((q[j] & 15) | (bits & 1) << 4) - m0;
      out[j + 32] = d1 * static_cast<float>((q[j] >> 4) | (bits & 2) << 3) - m1;
    }
  }
}

// u4 low[256] | u2 high[256] | i8 scale[16] | f16 d: d * scale * (q6 - 32). Scales are of 16 values. Each half of the
// block has 64 bytes of low and 32 of high bits: byte j of the high ones serves values j, j + 32, j + 64 and j + 96.
void DecodeQ6_K(const uint8_t* block, float* out) {
  const float d = HalfAt(block + 208);
  for (int half = 0; half < 2; ++half, out += 128) {
    const uint8_t* low = block + 64 * half;
    const uint8_t* high = block + 128 + 32 * half;
    const auto* scale = reinterpret_cast<const int8_t*>(block + 192 + 8 * half);
    for (int part = 0; part < 2; ++part) {
      float s[4];
      for (int k = 0; k < 4; ++k) s[k] = d * static_cast<float>(scale[part + 2 * k]);
      for (int j = 16 * part; j < 16 * part + 16; ++j) {
        const int h = high[j];
        out[j] = s[0] * static_cast<float>(((low[j] & 15) | (h & 3) << 4) - 32);
        out[j + 32] = s[1] * static_cast<float>(((low[j + 32] & 15) | (h >> 2 & 3) << 4) - 32);
        out[j + 64] = s[2] * static_cast<float>(((low[j] >> 4) | (h >> 4 & 3) << 4) - 32);
        out[j + 96] = s[3] * static_cast<float>(((low[j + 32] >> 4) | (h >> 6) << 4) - 32);
      }
    }
  }
}

struct TypeRow {
  uint32_t id;
  StoredType type;  // Without `bits`: not supported.
  Decoder decoder;  // Null: values one by one.
};

constexpr std::array<TypeRow, 34> kTypes = {{
    {0, {"F32", 32}, nullptr},
    {1, {"F16", 16}, nullptr},
    {30, {"BF16", 16}, nullptr},
    {8, {"Q8_0", 34 * 8, 32}, DecodeQ8_0},
    {2, {"Q4_0", 18 * 8, 32}, DecodeQ4_0},
    {3, {"Q4_1", 20 * 8, 32}, DecodeQ4_1},
    {6, {"Q5_0", 22 * 8, 32}, DecodeQ5_0},
    {7, {"Q5_1", 24 * 8, 32}, DecodeQ5_1},
    {12, {"Q4_K", 144 * 8, 256}, DecodeQ4_K},
    {13, {"Q5_K", 176 * 8, 256}, DecodeQ5_K},
    {14, {"Q6_K", 210 * 8, 256}, DecodeQ6_K},
    {9, {"Q8_1"}, nullptr},
    {10, {"Q2_K"}, nullptr},
    {11, {"Q3_K"}, nullptr},
    {15, {"Q8_K"}, nullptr},
    {16, {"IQ2_XXS"}, nullptr},
    {17, {"IQ2_XS"}, nullptr},
    {18, {"IQ3_XXS"}, nullptr},
    {19, {"IQ1_S"}, nullptr},
    {20, {"IQ4_NL"}, nullptr},
    {21, {"IQ3_S"}, nullptr},
    {22, {"IQ2_S"}, nullptr},
    {23, {"IQ4_XS"}, nullptr},
    {24, {"I8"}, nullptr},
    {25, {"I16"}, nullptr},
    {26, {"I32"}, nullptr},
    {27, {"I64"}, nullptr},
    {28, {"F64"}, nullptr},
    {29, {"IQ1_M"}, nullptr},
    {34, {"TQ1_0"}, nullptr},
    {35, {"TQ2_0"}, nullptr},
    {39, {"MXFP4"}, nullptr},
    {40, {"NVFP4"}, nullptr},
    {41, {"Q1_0"}, nullptr},
}};

const TypeRow* Find(const StoredType& type) {
  for (const TypeRow& row : kTypes) {
    if (row.type == type && type.bits > 0) return &row;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<StoredType> GgufTypeOf(uint32_t id, std::string_view where) {
  for (const TypeRow& row : kTypes) {
    if (row.id != id) continue;
    if (row.type.bits > 0) return row.type;
    return absl::UnimplementedError(StrCat(where, " has type ", row.type.name, "; supported are ", GgufTypeNames(),
                                           ": convert the model to one of these"));
  }
  return absl::InvalidArgumentError(StrCat(where, " has type number ", id, ", which is not known; supported are ",
                                           GgufTypeNames(), ": download the file again or convert the model"));
}

uint32_t GgufTypeId(const StoredType& type) {
  const TypeRow* row = Find(type);
  SHOAL_CHECK(row != nullptr);
  return row->id;
}

std::string GgufTypeNames() {
  std::string names;
  for (const TypeRow& row : kTypes) {
    if (row.type.bits > 0) names += StrCat(names.empty() ? "" : ", ", row.type.name);
  }
  return names;
}

bool IsGgufBlockType(const StoredType& type) {
  const TypeRow* row = Find(type);
  return row != nullptr && row->decoder != nullptr;
}

void DecodeBlocks(const StoredType& type, const std::byte* blocks, int64_t count, float* out) {
  const TypeRow* row = Find(type);
  SHOAL_CHECK(row != nullptr && row->decoder != nullptr && count % type.block == 0);
  const auto* bytes = reinterpret_cast<const uint8_t*>(blocks);
  for (int64_t i = 0; i < count; i += type.block, bytes += type.bits / 8) row->decoder(bytes, out + i);
}

}  // namespace shoal
