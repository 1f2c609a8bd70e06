// Floats to the blocks of GGUF files, for tests. The types with 32 values per block are encoded as ggml's
// `quantize_row_*_ref` do it, to the bit; Q4_K by a search of our own, about as good as ggml's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/check.h"
#include "kernels/half.h"

namespace shoal {
namespace gguf_encode_internal {

inline void AppendHalf(float value, std::string* out) {
  const uint16_t bits = FloatToHalf(value);
  out->append(reinterpret_cast<const char*>(&bits), sizeof(bits));
}

// 32 values of 4 or 5 bits: the fifth ones first, then value j and j + 16 in one byte.
inline void AppendNibbles(const int* q, bool fives, std::string* out) {
  if (fives) {
    uint32_t high = 0;
    for (int j = 0; j < 32; ++j) high |= static_cast<uint32_t>(q[j] >> 4 & 1) << j;
    out->append(reinterpret_cast<const char*>(&high), sizeof(high));
  }
  for (int j = 0; j < 16; ++j) out->push_back(static_cast<char>((q[j] & 15) | (q[j + 16] & 15) << 4));
}

inline void AppendQ8_0(const float* x, std::string* out) {
  float amax = 0;
  for (int j = 0; j < 32; ++j) amax = std::max(amax, std::fabs(x[j]));
  const float d = amax / 127, inverse = d != 0 ? 1 / d : 0;
  AppendHalf(d, out);
  for (int j = 0; j < 32; ++j) out->push_back(static_cast<char>(std::lround(x[j] * inverse)));
}

// Symmetric: the value of the largest magnitude becomes -levels / 2.
inline void AppendSymmetric(const float* x, int levels, std::string* out) {
  float largest = 0;
  for (int j = 0; j < 32; ++j) {
    if (std::fabs(x[j]) > std::fabs(largest)) largest = x[j];
  }
  const float d = largest / static_cast<float>(-levels / 2), inverse = d != 0 ? 1 / d : 0;
  int q[32];
  for (int j = 0; j < 32; ++j) {
    q[j] = std::min(levels - 1, static_cast<int>(x[j] * inverse + static_cast<float>(levels / 2) + 0.5f));
  }
  AppendHalf(d, out);
  AppendNibbles(q, levels == 32, out);
}

// With a minimum.
inline void AppendAffine(const float* x, int levels, std::string* out) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float d = (*high - *low) / static_cast<float>(levels - 1), inverse = d != 0 ? 1 / d : 0;
  int q[32];
  for (int j = 0; j < 32; ++j) q[j] = std::min(levels - 1, static_cast<int>((x[j] - *low) * inverse + 0.5f));
  AppendHalf(d, out);
  AppendHalf(*low, out);
  AppendNibbles(q, levels == 32, out);
}

// Scale and minimum of one group of 32, x ~ scale * q - minimum with minimum >= 0: several scales are tried, and for
// each the least-squares fit of both to its integers.
inline void FitGroup(const float* x, float* scale, float* minimum) {
  const float low = std::min(0.0f, *std::min_element(x, x + 32)), high = *std::max_element(x, x + 32);
  *scale = 0;
  *minimum = -low;
  if (high <= low) return;
  double best = 1e300;
  for (int step = 0; step <= 20; ++step) {
    const double inverse = (14.0 + 0.1 * step) / (high - low);
    double sq = 0, sqq = 0, sx = 0, sxq = 0;
    for (int j = 0; j < 32; ++j) {
      const double q = std::clamp(std::round((x[j] - low) * inverse), 0.0, 15.0);
      sq += q, sqq += q * q, sx += x[j], sxq += x[j] * q;
    }
    const double determinant = 32 * sqq - sq * sq;
    if (determinant <= 0) continue;
    double s = (32 * sxq - sx * sq) / determinant, m = (sqq * sx - sq * sxq) / determinant;
    if (m > 0) m = 0, s = sxq / sqq;
    double error = 0;
    for (int j = 0; j < 32; ++j) {
      const double e = s * std::clamp(std::round((x[j] - low) * inverse), 0.0, 15.0) + m - x[j];
      error += e * e;
    }
    if (error < best) best = error, *scale = static_cast<float>(s), *minimum = static_cast<float>(-m);
  }
}

inline void AppendQ4_K(const float* x, std::string* out) {
  float scales[8], minimums[8];
  for (int g = 0; g < 8; ++g) FitGroup(x + 32 * g, &scales[g], &minimums[g]);
  const float d = HalfToFloat(FloatToHalf(*std::max_element(scales, scales + 8) / 63));
  const float dmin = HalfToFloat(FloatToHalf(*std::max_element(minimums, minimums + 8) / 63));
  int s[8], m[8];
  for (int g = 0; g < 8; ++g) {
    s[g] = d > 0 ? std::clamp(static_cast<int>(std::lround(scales[g] / d)), 0, 63) : 0;
    m[g] = dmin > 0 ? std::clamp(static_cast<int>(std::lround(minimums[g] / dmin)), 0, 63) : 0;
  }
  AppendHalf(d, out);
  AppendHalf(dmin, out);
  for (int g = 0; g < 4; ++g) out->push_back(static_cast<char>(s[g] | (s[g + 4] >> 4) << 6));
  for (int g = 0; g < 4; ++g) out->push_back(static_cast<char>(m[g] | (m[g + 4] >> 4) << 6));
  for (int g = 0; g < 4; ++g) out->push_back(static_cast<char>((s[g + 4] & 15) | (m[g + 4] & 15) << 4));
  const auto level = [&](int g, int j) {
    const float step = d * static_cast<float>(s[g]);
    if (step == 0) return 0;
    return std::clamp(static_cast<int>(std::lround((x[32 * g + j] + dmin * static_cast<float>(m[g])) / step)), 0, 15);
  };
  for (int pair = 0; pair < 4; ++pair) {
    for (int j = 0; j < 32; ++j) out->push_back(static_cast<char>(level(2 * pair, j) | level(2 * pair + 1, j) << 4));
  }
}

}  // namespace gguf_encode_internal

// `values` in the type of this name; whole blocks.
inline std::string EncodeGguf(std::string_view type, std::span<const float> values) {
  namespace in = gguf_encode_internal;
  std::string out;
  const auto blocks = [&](size_t size, auto append) {
    SHOAL_CHECK_EQ(values.size() % size, 0u);
    for (size_t i = 0; i < values.size(); i += size) append(&values[i]);
  };
  if (type == "F32") {
    out.assign(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  } else if (type == "F16" || type == "BF16") {
    for (const float value : values) {
      const uint16_t bits = type == "F16" ? FloatToHalf(value) : FloatToBf16(value);
      out.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
    }
  } else if (type == "Q8_0") {
    blocks(32, [&](const float* x) { in::AppendQ8_0(x, &out); });
  } else if (type == "Q4_0" || type == "Q5_0") {
    blocks(32, [&](const float* x) { in::AppendSymmetric(x, type == "Q4_0" ? 16 : 32, &out); });
  } else if (type == "Q4_1" || type == "Q5_1") {
    blocks(32, [&](const float* x) { in::AppendAffine(x, type == "Q4_1" ? 16 : 32, &out); });
  } else {
    SHOAL_CHECK(type == "Q4_K");
    blocks(256, [&](const float* x) { in::AppendQ4_K(x, &out); });
  }
  return out;
}

}  // namespace shoal
