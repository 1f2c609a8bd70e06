// Sixteen floats worked on together, in registers `R` of R::kWidth floats: results and the order of sums are the same
// for every register. Only for the files that compile quantize_rows.h for one instruction set; hence everything is
// inlined, and nothing of the standard library but memcpy.
//
// A register has: Native, which knows + - * /; All, Load, Store; Max(a, b) = a > b ? a : b and Min(a, b) = a < b ? a :
// b; Round to even for |x| < 2^22; Less(a, q, n) = a - q * n, where q * n is exact; Equal, a bit for each lane;
// StoreInt8 and StoreNibbles (two values a byte, the first low) of small integers; and Half(x, n) = x with lane i + n
// in lane i, for n = kWidth / 2 .. 1, what comes above being unspecified.
#pragma once

#include <cstdint>
#include <cstring>

namespace shoal::internal {

#define SHOAL_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 16;

template <typename R>
struct Lanes {
  // One native vector at a time: gcc takes wider ones apart into single floats where they are compared.
  using Native = typename R::Native;
  static constexpr int kParts = kLanes / R::kWidth;
  Native part[kParts];

  SHOAL_INLINE static Lanes All(float value) {
    Lanes out;
    for (Native& p : out.part) p = R::All(value);
    return out;
  }
  SHOAL_INLINE static Lanes Load(const float* from) {
    Lanes out;
    for (int i = 0; i < kParts; ++i) out.part[i] = R::Load(from + i * R::kWidth);
    return out;
  }
  SHOAL_INLINE void Store(float* to) const {
    for (int i = 0; i < kParts; ++i) R::Store(part[i], to + i * R::kWidth);
  }
  SHOAL_INLINE void StoreInt8(int8_t* to) const {
    for (int i = 0; i < kParts; ++i) R::StoreInt8(part[i], to + i * R::kWidth);
  }
  SHOAL_INLINE void StoreNibbles(uint8_t* to) const {
    for (int i = 0; i < kParts; ++i) R::StoreNibbles(part[i], to + i * R::kWidth / 2);
  }
};

// Part by part.
template <typename R, typename Op>
SHOAL_INLINE Lanes<R> Each(Lanes<R> a, const Lanes<R>& b, Op op) {
  for (int i = 0; i < Lanes<R>::kParts; ++i) a.part[i] = op(a.part[i], b.part[i]);
  return a;
}
#define SHOAL_LANES_OP(name, expression)                      \
  template <typename R>                                       \
  SHOAL_INLINE Lanes<R> name(Lanes<R> a, const Lanes<R>& b) { \
    for (int i = 0; i < Lanes<R>::kParts; ++i) {              \
      const typename R::Native x = a.part[i], y = b.part[i];  \
      a.part[i] = expression;                                 \
    }                                                         \
    return a;                                                 \
  }
SHOAL_LANES_OP(operator+, x + y)
SHOAL_LANES_OP(operator-, x - y)
SHOAL_LANES_OP(operator*, x* y)
SHOAL_LANES_OP(operator/, x / y)
SHOAL_LANES_OP(Max, R::Max(x, y))
SHOAL_LANES_OP(Min, R::Min(x, y))
#undef SHOAL_LANES_OP

template <typename R>
SHOAL_INLINE Lanes<R> Clamp(const Lanes<R>& x, float low, float high) {
  return Min(Max(x, Lanes<R>::All(low)), Lanes<R>::All(high));
}

// Round half to even, for |x| < 2^22.
template <typename R>
SHOAL_INLINE Lanes<R> Round(Lanes<R> x) {
  for (auto& p : x.part) p = R::Round(p);
  return x;
}

// a - q * n, where q * n is exact.
template <typename R>
SHOAL_INLINE Lanes<R> Less(Lanes<R> a, const Lanes<R>& q, const Lanes<R>& n) {
  for (int i = 0; i < Lanes<R>::kParts; ++i) a.part[i] = R::Less(a.part[i], q.part[i], n.part[i]);
  return a;
}

// Lane i with lane i + 8, then with i + 4, + 2 and + 1: a fixed tree.
#define SHOAL_LANES_REDUCE(name, expression)                             \
  template <typename R>                                                  \
  SHOAL_INLINE float name(Lanes<R> lanes) {                              \
    using Native = typename R::Native;                                   \
    for (int n = Lanes<R>::kParts / 2; n > 0; n /= 2) {                  \
      for (int i = 0; i < n; ++i) {                                      \
        const Native x = lanes.part[i], y = lanes.part[i + n];           \
        lanes.part[i] = expression;                                      \
      }                                                                  \
    }                                                                    \
    Native x = lanes.part[0];                                            \
    _Pragma("GCC unroll 4") for (int n = R::kWidth / 2; n > 0; n /= 2) { \
      const Native y = R::Half(x, n);                                    \
      x = expression;                                                    \
    }                                                                    \
    return x[0];                                                         \
  }
SHOAL_LANES_REDUCE(Sum, x + y)
SHOAL_LANES_REDUCE(Smallest, R::Min(x, y))
SHOAL_LANES_REDUCE(Largest, R::Max(x, y))
#undef SHOAL_LANES_REDUCE

// The first lane that holds `value`; one does.
template <typename R>
SHOAL_INLINE int FirstOf(const Lanes<R>& lanes, float value) {
  unsigned mask = 0;
  for (int i = 0; i < Lanes<R>::kParts; ++i) {
    mask |= R::Equal(lanes.part[i], R::All(value)) << (i * R::kWidth);
  }
  return __builtin_ctz(mask | 1u << (kLanes - 1));
}

}  // namespace shoal::internal
