// Row quantizers. Written once over 16-lane vectors, compiled for three instruction sets: lanes and the order of every
// sum are part of the algorithm, so all three give the same bits.
//
// Speed, one core of an AMD EPYC with AVX-512: see docs/formats.md.
#include "model/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "model/quantize_lanes.h"

namespace shoal {
namespace {

using internal::kLanes;
using internal::Lanes;

// Below this a row is taken for zero: 127 / max would overflow.
constexpr float kTiny = 1e-35f;
constexpr int kGroup = static_cast<int>(kWeightGroup);
static_assert(kGroup == 2 * kLanes);

// max |x| of the row, or infinity if one is not finite. Works on bits: the absolute value of an IEEE number orders like
// an integer, with infinity and NaN above all others.
SHOAL_INLINE float AbsMax(const float* row, int64_t cols) {
  int32_t most = 0;
  for (int64_t k = 0; k < cols; ++k) {
    int32_t bits;
    std::memcpy(&bits, row + k, sizeof(bits));
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  most = most > 0x7f800000 ? 0x7f800000 : most;
  float result;
  std::memcpy(&result, &most, sizeof(result));
  return result;
}

// Quantizes `count` <= kLanes weights; returns (w - q * scale)^2 and w^2 by lane, in units of scale^2, where nothing
// overflows.
template <int W>
SHOAL_INLINE void Int8Lanes(const Lanes<W>& w, float inverse, int8_t* out, int count, Lanes<W>& error,
                            Lanes<W>& energy) {
  const Lanes<W> x = w * Lanes<W>::All(inverse);
  const Lanes<W> q = Round(x);
  error = (x - q) * (x - q);
  energy = x * x;
  float values[kLanes];
  q.Store(values);
  for (int i = 0; i < count; ++i) out[i] = static_cast<int8_t>(static_cast<int32_t>(values[i]));
}

template <int W>
SHOAL_INLINE bool Int8Row(const float* row, int64_t cols, const QuantizedRow& out, QuantizationError* error) {
  const float top = AbsMax(row, cols);
  if (!std::isfinite(top)) return false;
  auto* values = static_cast<int8_t*>(out.values);
  const bool zero = top < kTiny;
  const float scale = zero ? 0.0f : top / 127.0f;
  const float inverse = zero ? 0.0f : 127.0f / top;
  *out.scale = scale;
  double lost = 0, energy = 0;
  // Float sums over 512 weights, then double: the report's digits cost no speed.
  for (int64_t begin = 0; begin < cols; begin += 512) {
    const int64_t end = std::min(cols, begin + 512);
    Lanes<W> lost_lanes = Lanes<W>::All(0), energy_lanes = lost_lanes, e, s;
    for (int64_t k = begin; k < end; k += kLanes) {
      const int count = static_cast<int>(std::min<int64_t>(kLanes, end - k));
      if (count == kLanes) {
        // A constant count lets the compiler keep the narrowing in registers.
        Int8Lanes<W>(Lanes<W>::Load(row + k), inverse, values + k, kLanes, e, s);
      } else {
        float padded[kLanes] = {};
        std::memcpy(padded, row + k, count * sizeof(float));
        Int8Lanes<W>(Lanes<W>::Load(padded), inverse, values + k, count, e, s);
      }
      lost_lanes = lost_lanes + e;
      energy_lanes = energy_lanes + s;
    }
    lost += Sum(lost_lanes);
    energy += Sum(energy_lanes);
  }
  const double unit = static_cast<double>(scale) * scale;
  if (error != nullptr) error->Add({lost * unit, energy * unit});
  return true;
}

// One int4 group: w8 = n * q + m. Offsets are kept in [-127, 127 - 15 n], so that no q at all leaves the range of w8.
struct Int4Group {
  int n = 1;
  int m = 0;
  float error = INFINITY;  // Sum of (x - w8)^2, x = w / scale.
};

// Sixteen guesses of (n, m), one per lane: what all weights of the group lose under each. No sum across lanes is
// needed, which makes this several times faster than guess after guess.
template <int W>
SHOAL_INLINE Int4Group BestOf(const float* x, const Lanes<W>& n, const Lanes<W>& guess) {
  const Lanes<W> lowest = Lanes<W>::All(-127), highest = Lanes<W>::All(127) - Lanes<W>::All(15) * n;
  const Lanes<W> m = Min(Max(guess, lowest), highest);
  const Lanes<W> inverse_n = Lanes<W>::All(1) / n;
  const Lanes<W> first = Lanes<W>::All(0) - m * inverse_n;  // q before rounding is x / n + first.
  Lanes<W> sum = Lanes<W>::All(0), squares = sum;
  for (int k = 0; k < kGroup; ++k) {
    const Lanes<W> weight = Lanes<W>::All(x[k]);
    const Lanes<W> q = Round(Clamp(weight * inverse_n + first, 0, 15));
    const Lanes<W> lost = (weight - m) - q * n;
    sum = sum + lost;
    squares = squares + lost * lost;
  }
  // Given these q the best offset is m + mean(lost).
  const Lanes<W> mean = Round(sum * Lanes<W>::All(1.0f / kGroup));
  const Lanes<W> shift = Min(Max(mean, lowest - m), highest - m);
  const Lanes<W> error = squares - shift * (Lanes<W>::All(2) * sum - Lanes<W>::All(kGroup) * shift);
  float errors[kLanes], ns[kLanes], ms[kLanes];
  error.Store(errors);
  n.Store(ns);
  (m + shift).Store(ms);
  int best = 0;
  for (int i = 1; i < kLanes; ++i) {
    if (errors[i] < errors[best]) best = i;
  }
  return {static_cast<int>(ns[best]), static_cast<int>(ms[best]), errors[best]};
}

// Steps from the one that covers the group's range down to three below, each at four offsets a quarter of a step apart:
// clipping the ends pays as long as the steps get clearly finer.
template <int W>
SHOAL_INLINE Int4Group FirstGuess(const float* x) {
  static constexpr float kBelow[kLanes] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  static constexpr float kPhase[kLanes] = {-.375f, -.125f, .125f, .375f, -.375f, -.125f, .125f, .375f,
                                           -.375f, -.125f, .125f, .375f, -.375f, -.125f, .125f, .375f};
  float low[kLanes], high[kLanes];
  Min(Lanes<W>::Load(x), Lanes<W>::Load(x + kLanes)).Store(low);
  Max(Lanes<W>::Load(x), Lanes<W>::Load(x + kLanes)).Store(high);
  for (int i = 1; i < kLanes; ++i) {
    low[0] = low[i] < low[0] ? low[i] : low[0];
    high[0] = high[i] > high[0] ? high[i] : high[0];
  }
  const float covering = std::min(16.0f, std::max(1.0f, std::ceil((high[0] - low[0]) * (1.0f / 15))));
  const Lanes<W> n = Max(Lanes<W>::All(covering) - Lanes<W>::Load(kBelow), Lanes<W>::All(1));
  const Lanes<W> middle = Lanes<W>::All((low[0] + high[0]) * 0.5f);
  return BestOf<W>(x, n, Round(middle - n * Lanes<W>::All(7.5f) + n * Lanes<W>::Load(kPhase)));
}

// Sixteen neighbours of the first guess.
template <int W>
SHOAL_INLINE Int4Group Refine(const float* x, const Int4Group& guess) {
  static constexpr float kStep[kLanes] = {0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1};
  static constexpr float kPhase[kLanes] = {-.375f, -.2f, -.07f, .07f, .2f,   .375f, -.5f, -.25f,
                                           0,      .25f, .5f,   -.5f, -.25f, 0,     .25f, .5f};
  const float guess_n = static_cast<float>(guess.n);
  const Lanes<W> n = Clamp(Lanes<W>::All(guess_n) + Lanes<W>::Load(kStep), 1, 16);
  // Keep the middle of the grid where it is while n changes.
  const Lanes<W> middle = Lanes<W>::All(static_cast<float>(guess.m) + 7.5f * guess_n);
  const Int4Group refined = BestOf<W>(x, n, Round(middle - n * Lanes<W>::All(7.5f) + n * Lanes<W>::Load(kPhase)));
  return refined.error < guess.error ? refined : guess;
}

// x = w / scale of one group, kept within the range of w8.
template <int W>
SHOAL_INLINE void ScaleGroup(const float* w, float inverse, float* x) {
  for (int k = 0; k < kGroup; k += kLanes) {
    Clamp(Lanes<W>::Load(w + k) * Lanes<W>::All(inverse), -127, 127).Store(x + k);
  }
}

// Scales tried, as parts of max / 127: smaller ones clip the largest weights of the row and make all steps finer.
constexpr std::array<float, 5> kInt4Scales = {1.0f, 0.92f, 0.84f, 0.7f, 0.55f};
// Groups that vote for the scale.
constexpr int64_t kInt4Sample = 12;

// The squared error of clipping the row at 127 scale, in units of scale^2.
template <int W>
SHOAL_INLINE float ClipError(const float* row, int64_t cols, float inverse) {
  Lanes<W> sum = Lanes<W>::All(0);
  for (int64_t k = 0; k < cols; k += kLanes) {
    const Lanes<W> x = Lanes<W>::Load(row + k) * Lanes<W>::All(inverse);
    const Lanes<W> over = x - Clamp(x, -127, 127);
    sum = sum + over * over;
  }
  return Sum(sum);
}

template <int W>
SHOAL_INLINE float ChooseInt4Scale(const float* row, int64_t groups, float top) {
  const int64_t stride = (groups + kInt4Sample - 1) / kInt4Sample;
  const int64_t sampled = (groups + stride - 1) / stride;
  float best_scale = 0, best_error = INFINITY;
  for (float part : kInt4Scales) {
    const float scale = top * part / 127.0f;
    const float inverse = 1.0f / scale;
    float error = 0;
    float x[kGroup];
    for (int64_t g = 0; g < groups; g += stride) {
      ScaleGroup<W>(row + g * kGroup, inverse, x);
      error += FirstGuess<W>(x).error;
    }
    error *= static_cast<float>(groups) / static_cast<float>(sampled);
    error = (error + ClipError<W>(row, groups * kGroup, inverse)) * (part * part);
    if (error < best_error) {
      best_error = error;
      best_scale = scale;
    }
  }
  return best_scale;
}

// q of 16 weights.
template <int W>
SHOAL_INLINE Lanes<W> Int4Lanes(const float* x, float n, float m) {
  return Round(Clamp((Lanes<W>::Load(x) - Lanes<W>::All(m)) * Lanes<W>::All(1.0f / n), 0, 15));
}

template <int W>
SHOAL_INLINE bool Int4Row(const float* row, int64_t cols, const QuantizedRow& out, QuantizationError* error) {
  const float top = AbsMax(row, cols);
  if (!std::isfinite(top)) return false;
  const int64_t groups = cols / kGroup;
  auto* values = static_cast<uint8_t*>(out.values);
  const bool zero = top < kTiny;
  const float scale = zero ? 0.0f : ChooseInt4Scale<W>(row, groups, top);
  const float inverse = zero ? 0.0f : 1.0f / scale;
  double energy = 0, cross = 0, squares = 0;
  for (int64_t g = 0; g < groups; ++g) {
    float x[kGroup];
    ScaleGroup<W>(row + g * kGroup, inverse, x);
    const Int4Group group = Refine<W>(x, FirstGuess<W>(x));
    const float n = static_cast<float>(group.n), m = static_cast<float>(group.m);
    out.group_scales[g] = static_cast<uint8_t>(group.n);
    out.group_offsets[g] = static_cast<int8_t>(group.m);
    float q[kGroup];
    for (int k = 0; k < kGroup; k += kLanes) {
      // Not x, which is clipped; and not w itself, whose square may overflow.
      const Lanes<W> w = Lanes<W>::Load(row + g * kGroup + k) * Lanes<W>::All(inverse);
      const Lanes<W> part = Int4Lanes<W>(x + k, n, m);
      const Lanes<W> w8 = part * Lanes<W>::All(n) + Lanes<W>::All(m);
      part.Store(q + k);
      energy += Sum(w * w);
      cross += Sum(w * w8);
      squares += Sum(w8 * w8);
    }
    for (int i = 0; i < kGroup / 2; ++i) {
      values[g * (kGroup / 2) + i] =
          static_cast<uint8_t>(static_cast<int32_t>(q[2 * i]) | static_cast<int32_t>(q[2 * i + 1]) << 4);
    }
  }
  // With all integers fixed, least squares gives the scale.
  const double fitted = squares > 0 ? cross / squares : 0;
  *out.scale = static_cast<float>(scale * fitted);
  const double unit = static_cast<double>(scale) * scale;
  const double lost = std::max(0.0, energy - 2 * fitted * cross + fitted * fitted * squares);
  if (error != nullptr) error->Add({lost * unit, energy * unit});
  return true;
}

bool Int8Portable(const float* r, int64_t n, const QuantizedRow& o, QuantizationError* e) {
  return Int8Row<4>(r, n, o, e);
}
bool Int4Portable(const float* r, int64_t n, const QuantizedRow& o, QuantizationError* e) {
  return Int4Row<4>(r, n, o, e);
}
#if defined(__x86_64__)
#define SHOAL_AVX2 __attribute__((target("avx2")))
#define SHOAL_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
SHOAL_AVX2 bool Int8Avx2(const float* r, int64_t n, const QuantizedRow& o, QuantizationError* e) {
  return Int8Row<8>(r, n, o, e);
}
SHOAL_AVX2 bool Int4Avx2(const float* r, int64_t n, const QuantizedRow& o, QuantizationError* e) {
  return Int4Row<8>(r, n, o, e);
}
SHOAL_AVX512 bool Int8Avx512(const float* r, int64_t n, const QuantizedRow& o, QuantizationError* e) {
  return Int8Row<16>(r, n, o, e);
}
SHOAL_AVX512 bool Int4Avx512(const float* r, int64_t n, const QuantizedRow& o, QuantizationError* e) {
  return Int4Row<16>(r, n, o, e);
}

bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace

namespace internal {

std::vector<QuantizerPath> QuantizerPaths() {
  std::vector<QuantizerPath> paths = {{"portable", Int8Portable, Int4Portable}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) paths.push_back({"avx2", Int8Avx2, Int4Avx2});
  if (HasAvx512()) paths.push_back({"avx512", Int8Avx512, Int4Avx512});
#endif
  return paths;
}

}  // namespace internal

bool QuantizeRowInt8(std::span<const float> row, const QuantizedRow& out, QuantizationError* error) {
  static const internal::QuantizerPath path = internal::QuantizerPaths().back();
  return path.int8(row.data(), static_cast<int64_t>(row.size()), out, error);
}

bool QuantizeRowInt4(std::span<const float> row, const QuantizedRow& out, QuantizationError* error) {
  SHOAL_CHECK(row.size() % kGroup == 0);
  static const internal::QuantizerPath path = internal::QuantizerPaths().back();
  return path.int4(row.data(), static_cast<int64_t>(row.size()), out, error);
}

void DequantizeRow(WeightFormat format, const QuantizedRow& row, std::span<float> out) {
  if (format == WeightFormat::kInt8) {
    const auto* values = static_cast<const int8_t*>(row.values);
    for (size_t k = 0; k < out.size(); ++k) out[k] = *row.scale * static_cast<float>(values[k]);
    return;
  }
  SHOAL_CHECK(format == WeightFormat::kInt4);
  const auto* values = static_cast<const uint8_t*>(row.values);
  for (size_t k = 0; k < out.size(); ++k) {
    const int q = values[k / 2] >> (4 * (k % 2)) & 15;
    const int w8 = row.group_scales[k / kGroup] * q + row.group_offsets[k / kGroup];
    out[k] = *row.scale * static_cast<float>(w8);
  }
}

}  // namespace shoal
