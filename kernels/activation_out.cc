#include "kernels/activation_out.h"

#include "kernels/weight.h"

namespace shoal {

ActivationOut MakeActivationOut(const Activation& out, int64_t rows, int64_t cols) {
  SHOAL_CHECK(!out.dense.empty() || !out.q.empty());
  ActivationOut a{};
  if (!out.dense.empty()) {
    SHOAL_CHECK(out.dense.dtype == DType::kF32 && out.dense.rank == 2);
    SHOAL_CHECK_EQ(out.dense.rows(), rows);
    SHOAL_CHECK_EQ(out.dense.cols(), cols);
    a.dense = out.dense.As<float>();
    a.dense_stride = out.dense.row_stride;
  }
  if (!out.q.empty()) {
    SHOAL_CHECK(out.q.dtype == DType::kI8 && out.scale.dtype == DType::kF32 && out.sum.dtype == DType::kI32);
    SHOAL_CHECK(out.group >= kWeightGroup && out.group <= kActivationGroupMax);
    SHOAL_CHECK_EQ(out.group % kWeightGroup, 0);
    SHOAL_CHECK_EQ(cols % out.group, 0);
    SHOAL_CHECK(out.q.rows() == rows && out.scale.rows() == rows && out.sum.rows() == rows);
    SHOAL_CHECK_EQ(out.q.cols(), cols);
    SHOAL_CHECK_EQ(out.scale.cols(), cols / out.group);
    SHOAL_CHECK_EQ(out.sum.cols(), cols / kWeightGroup);
    a.q = out.q.As<int8_t>();
    a.q_stride = out.q.row_stride;
    a.scale = out.scale.As<float>();
    a.scale_stride = out.scale.row_stride;
    a.sum = out.sum.As<int32_t>();
    a.sum_stride = out.sum.row_stride;
    a.group = static_cast<int>(out.group);
  }
  return a;
}

}  // namespace shoal
