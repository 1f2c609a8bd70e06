#include <cmath>
#include <vector>

#include "kernels/half.h"
#include "kernels/reference/reference_ops.h"

namespace shoal {
namespace {

// The integer weight as weight.h defines it.
int32_t IntegerWeight(const Weight& w, int64_t row, int64_t k) {
  if (w.format == WeightFormat::kInt8) return w.values.As<int8_t>()[row * w.cols + k];
  const int q = w.values.As<uint8_t>()[(row * w.cols + k) / 2] >> (k % 2 * 4) & 15;
  const int64_t group = (row * w.cols + k) / kWeightGroup;
  return w.group_scales.As<uint8_t>()[group] * q + w.group_offsets.As<int8_t>()[group];
}

double DenseWeight(const Weight& w, int64_t row, int64_t k) {
  const int64_t at = row * w.cols + k;
  return w.format == WeightFormat::kBF16 ? Bf16ToFloat(w.values.As<uint16_t>()[at]) : w.values.As<float>()[at];
}

// sum over columns [begin, begin + w.group) of the integer product.
int32_t GroupDot(const Activation& x, const Weight& w, int64_t token, int64_t row, int64_t begin) {
  int32_t sum = 0;
  for (int64_t k = begin; k < begin + w.group; ++k) sum += IntegerWeight(w, row, k) * x.q.Row<int8_t>(token)[k];
  return sum;
}

double DenseGroupDot(const Activation& x, const Weight& w, int64_t token, int64_t row, int64_t begin) {
  double sum = 0;
  for (int64_t k = begin; k < begin + w.group; ++k) sum += DenseWeight(w, row, k) * x.dense.Row<float>(token)[k];
  return sum;
}

}  // namespace

void ReferenceOps::Linear(const Activation& x, const Weight& w, Tensor out) {
  const bool quantized = IsQuantized(w.format);
  if (quantized) SHOAL_CHECK_EQ(x.group, w.group);
  SHOAL_CHECK_EQ(quantized ? x.q.cols() : x.dense.cols(), w.cols);
  SHOAL_CHECK_EQ(out.cols(), w.rows);
  for (int64_t t = 0; t < out.rows(); ++t) {
    for (int64_t row = 0; row < w.rows; ++row) {
      const float bias = w.bias.empty() ? 0.0f : w.bias.As<float>()[row];
      float* y = out.Row<float>(t) + row;
      if (quantized) {
        float sum = 0;
        for (int64_t g = 0; g < w.cols / w.group; ++g) {
          const int32_t exact = GroupDot(x, w, t, row, g * w.group);
          sum = std::fmaf(static_cast<float>(exact), x.scale.Row<float>(t)[g], sum);
        }
        *y = w.scales.As<float>()[row] * sum;
        if (!w.bias.empty()) *y += bias;
      } else {
        double sum = 0;
        for (int64_t k = 0; k < w.cols; k += w.group) sum += DenseGroupDot(x, w, t, row, k);
        *y = static_cast<float>(sum + bias);
      }
    }
  }
}

void ReferenceOps::LinearPartial(const Activation& x, const Weight& w, Tensor out) {
  for (int64_t t = 0; t < out.rows(); ++t) {
    for (int64_t row = 0; row < w.rows; ++row) {
      double sum = 0;
      for (int64_t g = 0; g < w.cols / w.group; ++g) {
        float part;
        if (IsQuantized(w.format)) {
          part = static_cast<float>(GroupDot(x, w, t, row, g * w.group)) * x.scale.Row<float>(t)[g];
          part *= w.scales.As<float>()[row];
        } else {
          part = static_cast<float>(DenseGroupDot(x, w, t, row, g * w.group));
        }
        sum += RoundToQuantum(part);
      }
      out.Row<double>(t)[row] = sum;
    }
  }
}

void ReferenceOps::LinearSiluMul(const Activation& x, const Weight& gate_up, Tensor scratch, const Activation& out) {
  Linear(x, gate_up, scratch);
  const int64_t n = gate_up.rows / 2;
  std::vector<float> row(n);
  for (int64_t t = 0; t < scratch.rows(); ++t) {
    for (int64_t j = 0; j < n; ++j) {
      const double gate = scratch.Row<float>(t)[j], up = scratch.Row<float>(t)[n + j];
      row[j] = static_cast<float>(gate / (1 + std::exp(-gate)) * up);
    }
    ReferenceEmit(row.data(), t, n, out);
  }
}

}  // namespace shoal
