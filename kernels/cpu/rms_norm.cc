// RMSNorm, residual sums and the quantization that follows, one pass per row. Bound: each row is read and written once.
#include "kernels/cpu/cpu_ops.h"

namespace shoal::cpu {
namespace {

RmsNormArgs MakeArgs(Tensor x, Tensor gain, float eps, const Activation& out) {
  SHOAL_CHECK(x.dtype == DType::kF32 && gain.dtype == DType::kF32);
  SHOAL_CHECK_EQ(gain.rows(), x.cols());
  RmsNormArgs args{};
  args.x = x.As<float>();
  args.x_stride = x.row_stride;
  args.gain = gain.As<float>();
  args.eps = eps;
  args.cols = x.cols();
  args.out = MakeActivationOut(out, x.rows(), x.cols());
  return args;
}

void CheckDelta(const Tensor& delta, const Tensor& residual) {
  SHOAL_CHECK(delta.dtype == DType::kF64 && residual.dtype == DType::kF32);
  SHOAL_CHECK_EQ(delta.rows(), residual.rows());
  SHOAL_CHECK_EQ(delta.cols(), residual.cols());
}

}  // namespace

void CpuOps::RmsNorm(Tensor x, Tensor gain, float eps, const Activation& out) {
  const RmsNormArgs args = MakeArgs(x, gain, eps, out);
  Parallel(x.rows(), args.cols / 4, [&](int64_t begin, int64_t end) { kernels_.rms_norm(args, begin, end); });
}

void CpuOps::AddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual, const Activation& out) {
  CheckDelta(delta, residual);
  RmsNormArgs args = MakeArgs(residual, gain, eps, out);
  args.delta = delta.As<double>();
  args.delta_stride = delta.row_stride;
  Parallel(residual.rows(), args.cols / 2, [&](int64_t begin, int64_t end) { kernels_.rms_norm(args, begin, end); });
}

void CpuOps::AddResidual(Tensor delta, Tensor residual) {
  CheckDelta(delta, residual);
  Parallel(residual.rows(), residual.cols() / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.add_residual(delta.Row<double>(i), residual.Row<float>(i), residual.cols());
    }
  });
}

void CpuOps::HeadRmsNorm(Tensor gain, float eps, Tensor heads) {
  const int64_t head_dim = gain.rows();
  SHOAL_CHECK(gain.dtype == DType::kF32 && heads.dtype == DType::kF32);
  SHOAL_CHECK_EQ(heads.cols() % head_dim, 0);
  Parallel(heads.rows(), heads.cols() / 2, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.head_rms_norm(gain.As<float>(), eps, head_dim, heads.cols() / head_dim, heads.Row<float>(i));
    }
  });
}

}  // namespace shoal::cpu
