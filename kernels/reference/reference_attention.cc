#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/half.h"
#include "kernels/reference/reference_ops.h"

namespace shoal {
namespace {

double CacheValue(const Tensor& cache, const Tensor& scale, int64_t at) {
  if (cache.dtype == DType::kI8) return cache.As<int8_t>()[at] * HalfToFloat(scale.As<uint16_t>()[at / kKvGroup]);
  return cache.dtype == DType::kF16 ? HalfToFloat(cache.As<uint16_t>()[at]) : cache.As<float>()[at];
}

// softmax(q k^T / sqrt(D)) v of one query head over its first `visible` keys.
void AttendHead(const float* q, const KvView& cache, const int32_t* blocks, int64_t kv_head, int64_t visible,
                float* out) {
  const int64_t kv_heads = cache.k.dims[1], block = cache.k.dims[2], head_dim = cache.k.dims[3];
  const auto offset = [&](int64_t position) {
    return ((blocks[position / block] * kv_heads + kv_head) * block + position % block) * head_dim;
  };
  std::vector<double> weights(visible, 0.0);
  for (int64_t p = 0; p < visible; ++p) {
    for (int64_t d = 0; d < head_dim; ++d) weights[p] += q[d] * CacheValue(cache.k, cache.k_scale, offset(p) + d);
    weights[p] /= std::sqrt(static_cast<double>(head_dim));
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  double total = 0;
  for (double& w : weights) total += w = std::exp(w - largest);
  for (int64_t d = 0; d < head_dim; ++d) {
    double sum = 0;
    for (int64_t p = 0; p < visible; ++p) sum += weights[p] * CacheValue(cache.v, cache.v_scale, offset(p) + d);
    out[d] = static_cast<float>(sum / total);
  }
}

}  // namespace

void ReferenceOps::Attention(Tensor q, KvView cache, const AttentionPlan& plan, const HeadMap& heads,
                             const Activation& out) {
  std::vector<float> row(q.cols());
  for (int64_t s = 0; s < plan.context_len.rows(); ++s) {
    const int32_t begin = plan.query_start.As<int32_t>()[s], end = plan.query_start.As<int32_t>()[s + 1];
    for (int32_t t = begin; t < end; ++t) {
      const int64_t visible = plan.context_len.As<int32_t>()[s] - (end - 1 - t);
      SHOAL_CHECK_GE(visible, 1);
      for (int h = 0; h < heads.heads; ++h) {
        AttendHead(q.Row<float>(t) + h * heads.head_dim, cache, plan.block_table.Row<int32_t>(s), heads.KvOf(h),
                   visible, row.data() + h * heads.head_dim);
      }
      ReferenceEmit(row.data(), t, q.cols(), out);
    }
  }
}

}  // namespace shoal
