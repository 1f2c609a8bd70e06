#include "kernels/reference/reference_ops.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/half.h"

namespace shoal {
namespace {

// One group, in the float operations that weight.h fixes.
void QuantizeGroup(const float* x, int64_t n, int8_t* q, float* scale) {
  float amax = 0;
  bool finite = true;
  for (int64_t j = 0; j < n; ++j) {
    finite = finite && std::isfinite(x[j]);
    amax = std::max(amax, std::fabs(x[j]));
  }
  std::fill_n(q, n, int8_t{0});
  *scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  if (!finite || amax < kQuantizeMin) return;
  *scale = amax * (1 / 127.0f);
  const float inverse = 127.0f / amax;
  for (int64_t j = 0; j < n; ++j) {
    q[j] = static_cast<int8_t>(std::clamp(std::nearbyint(x[j] * inverse), -127.0f, 127.0f));
  }
}

// One row of RMSNorm.
std::vector<float> Normalize(const float* x, const float* gain, float eps, int64_t n) {
  double squares = 0;
  for (int64_t j = 0; j < n; ++j) squares += static_cast<double>(x[j]) * x[j];
  const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
  std::vector<float> out(n);
  for (int64_t j = 0; j < n; ++j) out[j] = static_cast<float>(x[j] * scale * gain[j]);
  return out;
}

}  // namespace

void ReferenceEmit(const float* values, int64_t row, int64_t cols, const Activation& out) {
  if (!out.dense.empty()) std::copy_n(values, cols, out.dense.Row<float>(row));
  if (out.q.empty()) return;
  SHOAL_CHECK_EQ(cols % out.group, 0);
  int8_t* q = out.q.Row<int8_t>(row);
  for (int64_t g = 0; g < cols / out.group; ++g) {
    QuantizeGroup(values + g * out.group, out.group, q + g * out.group, out.scale.Row<float>(row) + g);
  }
  for (int64_t g = 0; g < cols / kWeightGroup; ++g) {
    const int8_t* begin = q + g * kWeightGroup;
    out.sum.Row<int32_t>(row)[g] = std::accumulate(begin, begin + kWeightGroup, 0);
  }
}

void ReferenceOps::Embed(Tensor table, Tensor ids, Tensor out) {
  for (int64_t i = 0; i < out.rows(); ++i) {
    const int32_t id = ids.As<int32_t>()[i];
    SHOAL_CHECK(id >= 0 && id < table.rows());
    for (int64_t j = 0; j < out.cols(); ++j) {
      out.Row<float>(i)[j] =
          table.dtype == DType::kBF16 ? Bf16ToFloat(table.Row<uint16_t>(id)[j]) : table.Row<float>(id)[j];
    }
  }
}

void ReferenceOps::RmsNorm(Tensor x, Tensor gain, float eps, const Activation& out) {
  for (int64_t i = 0; i < x.rows(); ++i) {
    ReferenceEmit(Normalize(x.Row<float>(i), gain.As<float>(), eps, x.cols()).data(), i, x.cols(), out);
  }
}

void ReferenceOps::AddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual, const Activation& out) {
  AddResidual(delta, residual);
  RmsNorm(residual, gain, eps, out);
}

void ReferenceOps::AddResidual(Tensor delta, Tensor residual) {
  for (int64_t i = 0; i < residual.rows(); ++i) {
    for (int64_t j = 0; j < residual.cols(); ++j) {
      residual.Row<float>(i)[j] += static_cast<float>(delta.Row<double>(i)[j]);
    }
  }
}

void ReferenceOps::HeadRmsNorm(Tensor gain, float eps, Tensor heads) {
  const int64_t n = gain.rows();
  for (int64_t i = 0; i < heads.rows(); ++i) {
    for (float* head = heads.Row<float>(i); head < heads.Row<float>(i) + heads.cols(); head += n) {
      std::ranges::copy(Normalize(head, gain.As<float>(), eps, n), head);
    }
  }
}

void ReferenceOps::RopeTable(Tensor positions, Tensor inv_freq, float scale, Tensor out) {
  const int64_t half = inv_freq.rows();
  for (int64_t i = 0; i < out.rows(); ++i) {
    for (int64_t j = 0; j < half; ++j) {
      const float angle = static_cast<float>(positions.As<int32_t>()[i]) * inv_freq.As<float>()[j];
      out.Row<float>(i)[j] = static_cast<float>(std::cos(static_cast<double>(angle)) * scale);
      out.Row<float>(i)[half + j] = static_cast<float>(std::sin(static_cast<double>(angle)) * scale);
    }
  }
}

void ReferenceOps::Rope(Tensor table, Tensor heads) {
  const int64_t half = table.cols() / 2;
  for (int64_t i = 0; i < heads.rows(); ++i) {
    const float* cosine = table.Row<float>(i);
    const float* sine = cosine + half;
    for (float* head = heads.Row<float>(i); head < heads.Row<float>(i) + heads.cols(); head += 2 * half) {
      for (int64_t j = 0; j < half; ++j) {
        const double a = head[j], b = head[j + half];
        head[j] = static_cast<float>(a * cosine[j] - b * sine[j]);
        head[j + half] = static_cast<float>(b * cosine[j] + a * sine[j]);
      }
    }
  }
}

namespace {

void StoreInt8(const float* x, int64_t n, int8_t* q, uint16_t* scales) {
  for (int64_t g = 0; g < n / kKvGroup; ++g, x += kKvGroup, q += kKvGroup) {
    float amax = 0;
    bool finite = true;
    for (int64_t j = 0; j < kKvGroup; ++j) {
      finite = finite && std::isfinite(x[j]);
      amax = std::max(amax, std::fabs(x[j]));
    }
    const float scale = HalfToFloat(FloatToHalf(amax * (1 / 127.0f)));
    finite = finite && std::isfinite(scale);
    scales[g] = finite ? FloatToHalf(scale) : FloatToHalf(std::numeric_limits<float>::quiet_NaN());
    for (int64_t j = 0; j < kKvGroup; ++j) {
      const bool zero = !finite || scale == 0;
      q[j] = zero ? int8_t{0} : static_cast<int8_t>(std::nearbyint(std::clamp(x[j] * (1 / scale), -127.0f, 127.0f)));
    }
  }
}

}  // namespace

void ReferenceOps::StoreKv(Tensor k, Tensor v, Tensor slots, KvView cache) {
  const int64_t kv_heads = cache.k.dims[1], block = cache.k.dims[2], head_dim = cache.k.dims[3];
  for (int64_t i = 0; i < k.rows(); ++i) {
    const int64_t slot = slots.As<int32_t>()[i];
    if (slot < 0) continue;
    SHOAL_CHECK_LT(slot, cache.k.dims[0] * block);
    if (cache.k.dtype == DType::kI8) {
      for (int64_t h = 0; h < kv_heads; ++h) {
        const int64_t at = ((slot / block * kv_heads + h) * block + slot % block) * head_dim;
        StoreInt8(k.Row<float>(i) + h * head_dim, head_dim, cache.k.As<int8_t>() + at,
                  cache.k_scale.As<uint16_t>() + at / kKvGroup);
        StoreInt8(v.Row<float>(i) + h * head_dim, head_dim, cache.v.As<int8_t>() + at,
                  cache.v_scale.As<uint16_t>() + at / kKvGroup);
      }
      continue;
    }
    for (int64_t j = 0; j < kv_heads * head_dim; ++j) {
      const int64_t at = ((slot / block * kv_heads + j / head_dim) * block + slot % block) * head_dim + j % head_dim;
      if (cache.k.dtype == DType::kF16) {
        cache.k.As<uint16_t>()[at] = FloatToHalf(k.Row<float>(i)[j]);
        cache.v.As<uint16_t>()[at] = FloatToHalf(v.Row<float>(i)[j]);
      } else {
        cache.k.As<float>()[at] = k.Row<float>(i)[j];
        cache.v.As<float>()[at] = v.Row<float>(i)[j];
      }
    }
  }
}

void ReferenceOps::GatherRows(Tensor x, Tensor rows, Tensor out) {
  const int64_t size = SizeOf(x.dtype);
  for (int64_t i = 0; i < out.rows(); ++i) {
    const int64_t row = rows.As<int32_t>()[i];
    SHOAL_CHECK(row >= 0 && row < x.rows());
    std::memcpy(out.data + i * out.row_stride * size, x.data + row * x.row_stride * size, x.cols() * size);
  }
}

void ReferenceOps::TopK(Tensor logits, Tensor values, Tensor ids) {
  const int64_t k = values.cols();
  SHOAL_CHECK(k >= 1 && k <= logits.cols());
  for (int64_t i = 0; i < logits.rows(); ++i) {
    const auto value = [&](int32_t id) {
      const float x = logits.Row<float>(i)[id];
      return std::isnan(x) ? -std::numeric_limits<float>::infinity() : x;
    };
    std::vector<int32_t> order(logits.cols());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return value(a) > value(b); });
    for (int64_t j = 0; j < k; ++j) {
      ids.Row<int32_t>(i)[j] = order[j];
      values.Row<float>(i)[j] = value(order[j]);
    }
  }
}

}  // namespace shoal
