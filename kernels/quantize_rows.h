// The row quantizers, written once over sixteen lanes and compiled for three instruction sets: lanes and the order of
// every sum are part of the algorithm, so all three give the same bits. `R` is a register, see quantize_lanes.h.
//
// Speed, one core of an AMD EPYC with AVX-512: see docs/formats.md.
#pragma once

#include "kernels/quantize_lanes.h"
#include "kernels/quantize_row.h"

namespace shoal::internal {

// Below this a row is taken for zero: 127 / max would overflow.
constexpr float kTiny = 1e-35f;
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

// Quantizes kLanes weights; returns (w - q * scale)^2 and w^2 by lane, in units of scale^2, where nothing overflows.
template <typename R>
SHOAL_INLINE void Int8Lanes(const Lanes<R>& w, float inverse, int8_t* out, Lanes<R>& error, Lanes<R>& energy) {
  const Lanes<R> x = w * Lanes<R>::All(inverse);
  const Lanes<R> q = Round(x);
  error = (x - q) * (x - q);
  energy = x * x;
  q.StoreInt8(out);
}

template <typename R>
SHOAL_INLINE bool Int8Row(const float* row, int64_t cols, const QuantizedRow& out, QuantizationError* error) {
  const float top = AbsMax(row, cols);
  if (!(top < __builtin_inff())) return false;
  auto* values = static_cast<int8_t*>(out.values);
  const bool zero = top < kTiny;
  const float scale = zero ? 0.0f : top / 127.0f;
  const float inverse = zero ? 0.0f : 127.0f / top;
  *out.scale = scale;
  double lost = 0, energy = 0;
  // Float sums over 512 weights, then double: the report's digits cost no speed.
  for (int64_t begin = 0; begin < cols; begin += 512) {
    const int64_t end = cols < begin + 512 ? cols : begin + 512;
    Lanes<R> lost_lanes = Lanes<R>::All(0), energy_lanes = lost_lanes, e, s;
    for (int64_t k = begin; k < end; k += kLanes) {
      const int64_t count = end - k;
      if (count >= kLanes) {
        Int8Lanes<R>(Lanes<R>::Load(row + k), inverse, values + k, e, s);
      } else {
        float padded[kLanes] = {};
        int8_t padded_values[kLanes];
        std::memcpy(padded, row + k, count * sizeof(float));
        Int8Lanes<R>(Lanes<R>::Load(padded), inverse, padded_values, e, s);
        std::memcpy(values + k, padded_values, count);
      }
      lost_lanes = lost_lanes + e;
      energy_lanes = energy_lanes + s;
    }
    lost += Sum(lost_lanes);
    energy += Sum(energy_lanes);
  }
  const double unit = static_cast<double>(scale) * scale;
  if (error == nullptr) return true;
  error->squared_error += lost * unit;
  error->squared_weight += energy * unit;
  return true;
}

// One int4 group: w8 = n * q + m. Offsets are kept in [-127, 127 - 15 n], so that no q at all leaves the range of w8.
struct Int4Group {
  int n = 1;
  int m = 0;
  float error = __builtin_inff();  // Sum of (x - w8)^2, x = w / scale.
};

// Sixteen guesses of (n, m), one per lane: what all weights of the group lose under each. No sum across lanes is
// needed, which makes this several times faster than guess after guess.
template <typename R>
SHOAL_INLINE Int4Group BestOf(const float* x, const Lanes<R>& n, const Lanes<R>& guess) {
  const Lanes<R> lowest = Lanes<R>::All(-127), highest = Lanes<R>::All(127) - Lanes<R>::All(15) * n;
  const Lanes<R> m = Min(Max(guess, lowest), highest);
  const Lanes<R> inverse_n = Lanes<R>::All(1) / n;
  const Lanes<R> first = Lanes<R>::All(0) - m * inverse_n;  // q before rounding is x / n + first.
  Lanes<R> sum = Lanes<R>::All(0), squares = sum;
  for (int k = 0; k < kGroup; ++k) {
    const Lanes<R> weight = Lanes<R>::All(x[k]);
    const Lanes<R> q = Round(Clamp(weight * inverse_n + first, 0, 15));
    const Lanes<R> lost = Less(weight - m, q, n);
    sum = sum + lost;
    squares = squares + lost * lost;
  }
  // Given these q the best offset is m + mean(lost).
  const Lanes<R> mean = Round(sum * Lanes<R>::All(1.0f / kGroup));
  const Lanes<R> shift = Min(Max(mean, lowest - m), highest - m);
  const Lanes<R> error = squares - shift * (Lanes<R>::All(2) * sum - Lanes<R>::All(kGroup) * shift);
  float ns[kLanes], ms[kLanes];
  n.Store(ns);
  (m + shift).Store(ms);
  const float least = Smallest(error);
  const int best = FirstOf(error, least);
  return {static_cast<int>(ns[best]), static_cast<int>(ms[best]), least};
}

// Steps from the one that covers the group's range down to three below, each at four offsets a quarter of a step apart:
// clipping the ends pays as long as the steps get clearly finer.
template <typename R>
SHOAL_INLINE Int4Group FirstGuess(const float* x) {
  static constexpr float kBelow[kLanes] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  static constexpr float kPhase[kLanes] = {-.375f, -.125f, .125f, .375f, -.375f, -.125f, .125f, .375f,
                                           -.375f, -.125f, .125f, .375f, -.375f, -.125f, .125f, .375f};
  const Lanes<R> first = Lanes<R>::Load(x), second = Lanes<R>::Load(x + kLanes);
  const float low = Smallest(Min(first, second)), high = Largest(Max(first, second));
  const float steps = __builtin_ceilf((high - low) * (1.0f / 15));
  const float covering = steps < 1 ? 1.0f : steps > 16 ? 16.0f : steps;
  const Lanes<R> n = Max(Lanes<R>::All(covering) - Lanes<R>::Load(kBelow), Lanes<R>::All(1));
  const Lanes<R> middle = Lanes<R>::All((low + high) * 0.5f);
  return BestOf<R>(x, n, Round(middle - n * Lanes<R>::All(7.5f) + n * Lanes<R>::Load(kPhase)));
}

// Sixteen neighbours of the first guess.
template <typename R>
SHOAL_INLINE Int4Group Refine(const float* x, const Int4Group& guess) {
  static constexpr float kStep[kLanes] = {0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1};
  static constexpr float kPhase[kLanes] = {-.375f, -.2f, -.07f, .07f, .2f,   .375f, -.5f, -.25f,
                                           0,      .25f, .5f,   -.5f, -.25f, 0,     .25f, .5f};
  const float guess_n = static_cast<float>(guess.n);
  const Lanes<R> n = Clamp(Lanes<R>::All(guess_n) + Lanes<R>::Load(kStep), 1, 16);
  // Keep the middle of the grid where it is while n changes.
  const Lanes<R> middle = Lanes<R>::All(static_cast<float>(guess.m) + 7.5f * guess_n);
  const Int4Group refined = BestOf<R>(x, n, Round(middle - n * Lanes<R>::All(7.5f) + n * Lanes<R>::Load(kPhase)));
  return refined.error < guess.error ? refined : guess;
}

// x = w / scale of one group, kept within the range of w8.
template <typename R>
SHOAL_INLINE void ScaleGroup(const float* w, float inverse, float* x) {
  for (int k = 0; k < kGroup; k += kLanes) {
    Clamp(Lanes<R>::Load(w + k) * Lanes<R>::All(inverse), -127, 127).Store(x + k);
  }
}

// Scales tried, as parts of max / 127: smaller ones clip the largest weights of the row and make all steps finer.
constexpr float kInt4Scales[] = {1.0f, 0.92f, 0.84f, 0.7f, 0.55f};
// Groups that vote for the scale.
constexpr int64_t kInt4Sample = 12;

// The squared error of clipping the row at 127 scale, in units of scale^2.
template <typename R>
SHOAL_INLINE float ClipError(const float* row, int64_t cols, float inverse) {
  Lanes<R> sum = Lanes<R>::All(0);
  for (int64_t k = 0; k < cols; k += kLanes) {
    const Lanes<R> x = Lanes<R>::Load(row + k) * Lanes<R>::All(inverse);
    const Lanes<R> over = x - Clamp(x, -127, 127);
    sum = sum + over * over;
  }
  return Sum(sum);
}

template <typename R>
SHOAL_INLINE float ChooseInt4Scale(const float* row, int64_t groups, float top) {
  const int64_t stride = (groups + kInt4Sample - 1) / kInt4Sample;
  const int64_t sampled = (groups + stride - 1) / stride;
  float best_scale = 0, best_error = __builtin_inff();
  for (float part : kInt4Scales) {
    const float scale = top * part / 127.0f;
    const float inverse = 1.0f / scale;
    float error = 0;
    float x[kGroup];
    for (int64_t g = 0; g < groups; g += stride) {
      ScaleGroup<R>(row + g * kGroup, inverse, x);
      error += FirstGuess<R>(x).error;
    }
    error *= static_cast<float>(groups) / static_cast<float>(sampled);
    error = (error + ClipError<R>(row, groups * kGroup, inverse)) * (part * part);
    if (error < best_error) {
      best_error = error;
      best_scale = scale;
    }
  }
  return best_scale;
}

// q of 16 weights.
template <typename R>
SHOAL_INLINE Lanes<R> Int4Lanes(const float* x, float n, float m) {
  return Round(Clamp((Lanes<R>::Load(x) - Lanes<R>::All(m)) * Lanes<R>::All(1.0f / n), 0, 15));
}

template <typename R>
SHOAL_INLINE bool Int4Row(const float* row, int64_t cols, const QuantizedRow& out, QuantizationError* error) {
  const float top = AbsMax(row, cols);
  if (!(top < __builtin_inff())) return false;
  const int64_t groups = cols / kGroup;
  auto* values = static_cast<uint8_t*>(out.values);
  const bool zero = top < kTiny;
  const float scale = zero ? 0.0f : ChooseInt4Scale<R>(row, groups, top);
  const float inverse = zero ? 0.0f : 1.0f / scale;
  double energy = 0, cross = 0, squares = 0;
  for (int64_t g = 0; g < groups; ++g) {
    float x[kGroup];
    ScaleGroup<R>(row + g * kGroup, inverse, x);
    const Int4Group group = Refine<R>(x, FirstGuess<R>(x));
    const float n = static_cast<float>(group.n), m = static_cast<float>(group.m);
    out.group_scales[g] = static_cast<uint8_t>(group.n);
    out.group_offsets[g] = static_cast<int8_t>(group.m);
    for (int k = 0; k < kGroup; k += kLanes) {
      // Not x, which is clipped; and not w itself, whose square may overflow.
      const Lanes<R> w = Lanes<R>::Load(row + g * kGroup + k) * Lanes<R>::All(inverse);
      const Lanes<R> part = Int4Lanes<R>(x + k, n, m);
      const Lanes<R> w8 = part * Lanes<R>::All(n) + Lanes<R>::All(m);
      part.StoreNibbles(values + g * (kGroup / 2) + k / 2);
      energy += Sum(w * w);
      cross += Sum(w * w8);
      squares += Sum(w8 * w8);
    }
  }
  // With all integers fixed, least squares gives the scale.
  const double fitted = squares > 0 ? cross / squares : 0;
  *out.scale = static_cast<float>(scale * fitted);
  const double unit = static_cast<double>(scale) * scale;
  const double left = energy - 2 * fitted * cross + fitted * fitted * squares;
  const double lost = left > 0 ? left : 0;
  if (error == nullptr) return true;
  error->squared_error += lost * unit;
  error->squared_weight += energy * unit;
  return true;
}

}  // namespace shoal::internal
