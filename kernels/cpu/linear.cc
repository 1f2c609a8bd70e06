// Matrix products: checks, then blocks of 16 weight rows shared out over the workers. Loops: linear_kernels.h.
// Bound: few tokens, one read of the weights; many, int8 (or float) multiply-adds.
#include <algorithm>
#include <numeric>

#include "kernels/cpu/cpu_ops.h"

namespace shoal::cpu {
namespace {

// Blocks that a register tile of any path takes side by side.
constexpr int64_t kTileBlocksMax = 2;

QuantizedLinearArgs MakeQuantizedArgs(const Activation& x, const Weight& w) {
  SHOAL_CHECK(!x.q.empty());
  SHOAL_CHECK_EQ(x.group, w.group);
  SHOAL_CHECK_EQ(x.q.cols(), w.cols);
  SHOAL_CHECK_EQ(x.scale.cols(), w.cols / w.group);
  SHOAL_CHECK_EQ(x.sum.cols(), w.cols / kWeightGroup);
  QuantizedLinearArgs a{};
  a.values = w.values.As<uint8_t>();
  a.group_scales = w.group_scales.As<uint8_t>();
  a.group_offsets = w.group_offsets.As<int8_t>();
  a.scales = w.scales.As<float>();
  a.bias = w.bias.As<float>();
  a.int4 = w.format == WeightFormat::kInt4;
  a.rows = w.rows;
  a.cols = w.cols;
  a.group = w.group;
  a.q = x.q.As<int8_t>();
  a.q_stride = x.q.row_stride;
  a.x_scale = x.scale.As<float>();
  a.x_scale_stride = x.scale.row_stride;
  a.x_sum = x.sum.As<int32_t>();
  a.x_sum_stride = x.sum.row_stride;
  a.tokens = x.q.rows();
  return a;
}

DenseLinearArgs MakeDenseArgs(const Activation& x, const Weight& w) {
  SHOAL_CHECK(!x.dense.empty());
  SHOAL_CHECK_EQ(x.dense.cols(), w.cols);
  DenseLinearArgs a{};
  a.values = w.values.data;
  a.bf16 = w.format == WeightFormat::kBF16;
  a.bias = w.bias.As<float>();
  a.rows = w.rows;
  a.cols = w.cols;
  a.group = w.group;
  a.x = x.dense.As<float>();
  a.x_stride = x.dense.row_stride;
  a.tokens = x.dense.rows();
  return a;
}

// `Args` is either of the two.
template <typename Args>
void SetOutput(const Tensor& out, bool partial, Args& args) {
  SHOAL_CHECK_EQ(out.rows(), args.tokens);
  SHOAL_CHECK_EQ(out.cols(), args.rows);
  SHOAL_CHECK(out.dtype == (partial ? DType::kF64 : DType::kF32));
  args.out = partial ? nullptr : out.As<float>();
  args.partial_out = partial ? out.As<double>() : nullptr;
  args.out_stride = out.row_stride;
}

}  // namespace

void CpuOps::SumGroups(const Activation& x) {
  const int64_t tokens = x.q.rows(), groups = x.scale.cols(), parts = x.group / kWeightGroup;
  byte_bias_.resize(std::max<size_t>(byte_bias_.size(), static_cast<size_t>(tokens * groups)));
  Parallel(tokens, groups * parts, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t* sums = x.sum.Row<int32_t>(t);
      for (int64_t g = 0; g < groups; ++g, sums += parts) {
        byte_bias_[t * groups + g] = -128 * std::accumulate(sums, sums + parts, 0);
      }
    }
  });
}

void CpuOps::Multiply(const Activation& x, const Weight& weight, Tensor out, bool partial) {
  const int64_t blocks = (weight.rows + kRowBlock - 1) / kRowBlock;
  if (IsQuantized(weight.format)) {
    QuantizedLinearArgs args = MakeQuantizedArgs(x, weight);
    SetOutput(out, partial, args);
    SumGroups(x);
    args.byte_bias = byte_bias_.data();
    // About 32 multiply-adds per nanosecond, and at least half a nanosecond per column for reading a block.
    const int64_t cost = weight.cols * (1 + args.tokens / 2);
    Parallel(
        blocks, cost, [&](int64_t begin, int64_t end) { kernels_.quantized_linear(args, begin, end); }, kTileBlocksMax);
  } else {
    DenseLinearArgs args = MakeDenseArgs(x, weight);
    SetOutput(out, partial, args);
    const int64_t cost = weight.cols * (1 + args.tokens);
    Parallel(
        blocks, cost, [&](int64_t begin, int64_t end) { kernels_.dense_linear(args, begin, end); }, kTileBlocksMax);
  }
}

void CpuOps::Linear(const Activation& x, const Weight& weight, Tensor out) { Multiply(x, weight, out, false); }

void CpuOps::LinearPartial(const Activation& x, const Weight& weight, Tensor out) { Multiply(x, weight, out, true); }

}  // namespace shoal::cpu
