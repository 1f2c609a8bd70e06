// How back ends lay out a weight's tensors in one allocation.
#pragma once

#include <cstddef>
#include <initializer_list>

#include "kernels/tensor.h"

namespace shoal {

// Takes consecutive parts of one allocation.
class Parts {
 public:
  explicit Parts(std::byte* data) : next_(data) {}
  Tensor Take(DType dtype, std::initializer_list<int64_t> shape) {
    const Tensor t = MakeTensor(next_, dtype, shape);
    next_ += t.bytes();
    return t;
  }
  const std::byte* next() const { return next_; }

 private:
  std::byte* next_;
};

}  // namespace shoal
