// An Activation that is written, as the inner loops and kernels of every back end see it.
//
// No inline functions here: kernels/cpu/kernel_table.h, which includes this, says why.
#pragma once

#include <cstdint>

namespace shoal {

struct Activation;

// Where one or more rows of an Activation go; null pointers are forms not wanted. Strides in elements.
struct ActivationOut {
  float* dense;
  int64_t dense_stride;
  int8_t* q;
  int64_t q_stride;
  float* scale;
  int64_t scale_stride;
  int32_t* sum;
  int64_t sum_stride;
  int group;  // 32, 64, 128 or 256 if q is wanted.
};

// The view of `out`, whose forms must have `rows` rows and `cols` columns (CHECK).
ActivationOut MakeActivationOut(const Activation& out, int64_t rows, int64_t cols);

}  // namespace shoal
