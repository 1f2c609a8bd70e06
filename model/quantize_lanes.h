// Sixteen floats worked on together, in native vectors of W floats: the arithmetic and the order of sums are the same
// for every W. Only for quantize.cc, which compiles each W for its own instruction set; hence everything is inlined.
#pragma once

#include <cstring>

namespace shoal::internal {

#define SHOAL_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 16;

template <int W>
struct Lanes {
  // One native vector at a time: gcc takes wider ones apart into single floats where they are compared.
  typedef float Native __attribute__((vector_size(W * sizeof(float))));
  static constexpr int kParts = kLanes / W;
  Native part[kParts];

  SHOAL_INLINE static Lanes All(float value) {
    Lanes out;
    for (Native& p : out.part) p = Native{} + value;
    return out;
  }
  SHOAL_INLINE static Lanes Load(const float* from) {
    Lanes out;
    std::memcpy(out.part, from, sizeof(out.part));
    return out;
  }
  SHOAL_INLINE void Store(float* to) const { std::memcpy(to, part, sizeof(part)); }
};

template <int W>
SHOAL_INLINE Lanes<W> operator+(Lanes<W> a, const Lanes<W>& b) {
  for (int i = 0; i < Lanes<W>::kParts; ++i) a.part[i] += b.part[i];
  return a;
}
template <int W>
SHOAL_INLINE Lanes<W> operator-(Lanes<W> a, const Lanes<W>& b) {
  for (int i = 0; i < Lanes<W>::kParts; ++i) a.part[i] -= b.part[i];
  return a;
}
template <int W>
SHOAL_INLINE Lanes<W> operator*(Lanes<W> a, const Lanes<W>& b) {
  for (int i = 0; i < Lanes<W>::kParts; ++i) a.part[i] *= b.part[i];
  return a;
}
template <int W>
SHOAL_INLINE Lanes<W> operator/(Lanes<W> a, const Lanes<W>& b) {
  for (int i = 0; i < Lanes<W>::kParts; ++i) a.part[i] /= b.part[i];
  return a;
}
template <int W>
SHOAL_INLINE Lanes<W> Max(Lanes<W> a, const Lanes<W>& b) {
  for (int i = 0; i < Lanes<W>::kParts; ++i) a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
  return a;
}
template <int W>
SHOAL_INLINE Lanes<W> Min(Lanes<W> a, const Lanes<W>& b) {
  for (int i = 0; i < Lanes<W>::kParts; ++i) a.part[i] = a.part[i] < b.part[i] ? a.part[i] : b.part[i];
  return a;
}
template <int W>
SHOAL_INLINE Lanes<W> Clamp(const Lanes<W>& x, float low, float high) {
  return Min(Max(x, Lanes<W>::All(low)), Lanes<W>::All(high));
}

// Round half to even, for |x| < 2^22.
template <int W>
SHOAL_INLINE Lanes<W> Round(const Lanes<W>& x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + Lanes<W>::All(kMagic)) - Lanes<W>::All(kMagic);
}

// A fixed tree over the lanes.
template <int W>
SHOAL_INLINE float Sum(const Lanes<W>& x) {
  float v[kLanes];
  x.Store(v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) v[i] += v[i + width];
  }
  return v[0];
}

}  // namespace shoal::internal
