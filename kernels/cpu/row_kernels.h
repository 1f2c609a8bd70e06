// Element-wise loops and reductions over one row, over any lanes_*.h: norms, quantization, SiLU, RoPE, top-k.
//
// Anonymous namespaces here and in the other *_kernels.h keep each instruction set's copy apart (see kernel_table.h).
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace shoal::cpu {
namespace {

inline int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// e^x within 2 units in the last place for -87 <= x <= 88; clamped to the values at the ends outside. NaN stays NaN.
// Range reduction by ln 2 in two parts; the polynomial is Cephes' expf (S. Moshier).
template <class L>
typename L::F Exp(typename L::F x) {
  using F = typename L::F;
  x = L::Min(L::Set(88.0f), L::Max(L::Set(-87.0f), x));
  const typename L::I n = L::Round(L::Mul(x, L::Set(1.44269504088896341f)));
  const F whole = L::ToFloat(n);
  F r = L::Fma(whole, L::Set(-0.693359375f), x);
  r = L::Fma(whole, L::Set(2.12194440e-4f), r);
  F p = L::Set(1.9875691500e-4f);
  p = L::Fma(p, r, L::Set(1.3981999507e-3f));
  p = L::Fma(p, r, L::Set(8.3334519073e-3f));
  p = L::Fma(p, r, L::Set(4.1665795894e-2f));
  p = L::Fma(p, r, L::Set(1.6666665459e-1f));
  p = L::Fma(p, r, L::Set(5.0000001201e-1f));
  p = L::Fma(p, L::Mul(r, r), r);
  return L::Mul(L::Add(p, L::Set(1.0f)), L::Pow2(n));
}

// One activation group of n (a multiple of 32) values, as weight.h says.
template <class L>
void QuantizeGroup(const float* x, int64_t n, int8_t* q, float* scale, int32_t* sum) {
  typename L::I bits = L::SetI(0);
  for (int64_t j = 0; j < n; j += 16) bits = L::MaxI(bits, L::AbsBits(L::Load(x + j)));
  const int32_t largest = L::MaxOfI(bits);
  float amax;
  __builtin_memcpy(&amax, &largest, 4);
  if (!(amax >= 0x1p-100f && amax <= 0x1.fffffep127f)) {
    for (int64_t j = 0; j < n; ++j) q[j] = 0;
    for (int64_t j = 0; j < n / 32; ++j) sum[j] = 0;
    *scale = amax < 0x1p-100f ? 0.0f : __builtin_nanf("");
    return;
  }
  *scale = amax * (1 / 127.0f);
  const typename L::F inverse = L::Set(127.0f / amax);
  for (int64_t j = 0; j < n; j += 32) {
    // |x * inverse| <= 127 * (1 + 2^-23), so that rounding alone keeps it in range.
    const typename L::I a = L::Round(L::Mul(L::Load(x + j), inverse));
    const typename L::I b = L::Round(L::Mul(L::Load(x + j + 16), inverse));
    L::StoreI8(q + j, a);
    L::StoreI8(q + j + 16, b);
    sum[j / 32] = L::SumI(L::AddI(a, b));
  }
}

// Makes row `row` of `out`, a group at a time: fill(begin, n, destination) computes n values from column `begin` on.
template <class L, typename Fill>
void EmitRow(const ActivationOut& out, int64_t row, int64_t cols, Fill fill) {
  alignas(64) float chunk[256];
  const int64_t step = out.q != nullptr ? out.group : 256;
  for (int64_t begin = 0; begin < cols; begin += step) {
    const int64_t n = Smaller(step, cols - begin);
    float* values = out.dense != nullptr ? out.dense + row * out.dense_stride + begin : chunk;
    fill(begin, n, values);
    if (out.q == nullptr) continue;
    QuantizeGroup<L>(values, n, out.q + row * out.q_stride + begin, out.scale + row * out.scale_stride + begin / step,
                     out.sum + row * out.sum_stride + begin / 32);
  }
}

template <class L>
void Quantize(const float* x, int64_t x_stride, int64_t cols, const ActivationOut& out, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t j = 0; j < cols; j += out.group) {
      QuantizeGroup<L>(x + row * x_stride + j, out.group, out.q + row * out.q_stride + j,
                       out.scale + row * out.scale_stride + j / out.group, out.sum + row * out.sum_stride + j / 32);
    }
  }
}

template <class L>
void AddResidual(const double* delta, float* residual, int64_t n) {
  for (int64_t j = 0; j < n; j += 16) {
    const int64_t left = n - j;
    L::StoreN(residual + j, L::Add(L::LoadN(residual + j, left), L::LoadF64(delta + j, left)), left);
  }
}

// 1 / sqrt(mean(x^2) + eps): squares summed in 64 lanes by fma, then by halves.
template <class L>
float InverseRms(const float* x, int64_t n, float eps) {
  typename L::F squares[4] = {L::Set(0.0f), L::Set(0.0f), L::Set(0.0f), L::Set(0.0f)};
  for (int64_t j = 0; j < n; j += 64) {
    for (int64_t i = 0; i < 4 && j + 16 * i < n; ++i) {
      const typename L::F v = L::LoadN(x + j + 16 * i, n - j - 16 * i);
      squares[i] = L::Fma(v, v, squares[i]);
    }
  }
  const typename L::F sum = L::Add(L::Add(squares[0], squares[2]), L::Add(squares[1], squares[3]));
  return 1.0f / __builtin_sqrtf(L::Sum(sum) / static_cast<float>(n) + eps);
}

template <class L>
void NormalizeRow(const float* x, const float* gain, float scale, int64_t n, float* out) {
  const typename L::F s = L::Set(scale);
  for (int64_t j = 0; j < n; j += 16) {
    const int64_t left = n - j;
    L::StoreN(out + j, L::Mul(L::Mul(L::LoadN(x + j, left), s), L::LoadN(gain + j, left)), left);
  }
}

template <class L>
void RmsNorm(const RmsNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    float* x = args.x + row * args.x_stride;
    if (args.delta != nullptr) AddResidual<L>(args.delta + row * args.delta_stride, x, args.cols);
    const float scale = InverseRms<L>(x, args.cols, args.eps);
    EmitRow<L>(args.out, row, args.cols, [&](int64_t first, int64_t n, float* out) {
      NormalizeRow<L>(x + first, args.gain + first, scale, n, out);
    });
  }
}

template <class L>
void HeadRmsNorm(const float* gain, float eps, int64_t head_dim, int64_t heads, float* row) {
  for (int64_t h = 0; h < heads; ++h, row += head_dim) {
    NormalizeRow<L>(row, gain, InverseRms<L>(row, head_dim, eps), head_dim, row);
  }
}

template <class L>
void SiluMul(const SiluMulArgs& args, int64_t begin, int64_t end) {
  const typename L::F one = L::Set(1.0f), zero = L::Set(0.0f);
  for (int64_t row = begin; row < end; ++row) {
    const float* gate = args.gate_up + row * args.stride;
    EmitRow<L>(args.out, row, args.cols, [&](int64_t first, int64_t n, float* out) {
      for (int64_t j = 0; j < n; j += 16) {
        const typename L::F g = L::LoadN(gate + first + j, n - j);
        const typename L::F u = L::LoadN(gate + args.cols + first + j, n - j);
        const typename L::F silu = L::Div(g, L::Add(one, Exp<L>(L::Sub(zero, g))));
        L::StoreN(out + j, L::Mul(silu, u), n - j);
      }
    });
  }
}

template <class L>
void Rope(const float* cos_sin, int64_t head_dim, int64_t heads, float* row) {
  const int64_t half = head_dim / 2;
  for (int64_t h = 0; h < heads; ++h, row += head_dim) {
    for (int64_t j = 0; j < half; j += 16) {
      const int64_t n = half - j;
      const typename L::F cosine = L::LoadN(cos_sin + j, n), sine = L::LoadN(cos_sin + half + j, n);
      const typename L::F a = L::LoadN(row + j, n), b = L::LoadN(row + half + j, n);
      L::StoreN(row + j, L::Sub(L::Mul(a, cosine), L::Mul(b, sine)), n);
      L::StoreN(row + half + j, L::Add(L::Mul(b, cosine), L::Mul(a, sine)), n);
    }
  }
}

template <class L>
void Bf16ToFloatRow(const uint16_t* in, float* out, int64_t n) {
  for (int64_t j = 0; j < n; j += 16) L::StoreN(out + j, L::LoadBf16(in + j, n - j), n - j);
}

template <class L>
void FloatToF16Row(const float* in, uint16_t* out, int64_t n) {
  for (int64_t j = 0; j < n; j += 16) L::StoreF16(out + j, L::LoadN(in + j, n - j), n - j);
}

template <class L>
void QuantizeKvRow(const float* in, int64_t n, int8_t* q, uint16_t* scales) {
  for (int64_t g = 0; g < n / 32; ++g, in += 32, q += 32) {
    const int32_t largest = L::MaxOfI(L::MaxI(L::AbsBits(L::Load(in)), L::AbsBits(L::Load(in + 16))));
    float amax;
    __builtin_memcpy(&amax, &largest, 4);
    alignas(64) float scale[16];
    L::StoreF16(scales + g, L::Set(amax * (1 / 127.0f)), 1);
    L::Store(scale, L::LoadF16(scales + g, 1));
    if (!(scale[0] > 0.0f && scale[0] <= 65504.0f)) {
      if (scale[0] != 0.0f) scales[g] = 0x7e00;  // NaN
      for (int64_t j = 0; j < 32; ++j) q[j] = 0;
      continue;
    }
    const typename L::F inverse = L::Set(1.0f / scale[0]), low = L::Set(-127.0f), high = L::Set(127.0f);
    for (int64_t j = 0; j < 32; j += 16) {
      L::StoreI8(q + j, L::Round(L::Max(low, L::Min(high, L::Mul(L::Load(in + j), inverse)))));
    }
  }
}

// Keeps the best k so far in order; most lanes fail one comparison with the last of them.
template <class L>
void TopK(const float* logits, int64_t n, int64_t k, float* values, int32_t* ids) {
  int64_t kept = 0;
  const auto offer = [&](int64_t id) {
    const float value = logits[id] == logits[id] ? logits[id] : -__builtin_inff();
    if (kept == k && !(value > values[k - 1])) return;
    int64_t at = kept < k ? kept++ : k - 1;
    for (; at > 0 && value > values[at - 1]; --at) {
      values[at] = values[at - 1];
      ids[at] = ids[at - 1];
    }
    values[at] = value;
    ids[at] = static_cast<int32_t>(id);
  };
  int64_t id = 0;
  for (; id < k; ++id) offer(id);
  for (; id < n; id += 16) {
    const int64_t left = n - id;
    const typename L::F least = L::Set(values[k - 1]);
    uint32_t better = L::GreaterMask(L::Select(L::LoadN(logits + id, left), least, left), least);
    for (; better != 0; better &= better - 1) offer(id + __builtin_ctz(better));
  }
}

}  // namespace
}  // namespace shoal::cpu
