// A view of a row-major array in one device's memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "base/check.h"

namespace shoal {

enum class DType : uint8_t { kF32, kF64, kBF16, kF16, kI32, kI8, kU8 };

constexpr int64_t SizeOf(DType type) {
  switch (type) {
    case DType::kF64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kI8:
    case DType::kU8:
      return 1;
  }
  return 0;
}

// Does not own the memory; owners are `Buffer`s made by `Device::Allocate`. Rows (dims[0]) may lie `row_stride`
// elements apart, so that q, k and v can be column ranges of one product's output; within a row elements are
// contiguous.
struct Tensor {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, 5> dims{};  // dims[0] varies slowest.
  int64_t row_stride = 0;         // Elements from row to row; cols() when dense.

  bool empty() const { return data == nullptr; }
  int64_t rows() const { return dims[0]; }
  // Elements per row: the product of all dims but the first.
  int64_t cols() const {
    int64_t n = 1;
    for (int i = 1; i < rank; ++i) n *= dims[i];
    return n;
  }
  bool contiguous() const { return rank < 2 || row_stride == cols(); }
  // Bytes from the first to the last element of a contiguous tensor.
  int64_t bytes() const { return rows() * cols() * SizeOf(dtype); }

  template <typename T>
  T* As() const {
    return reinterpret_cast<T*>(data);
  }
  template <typename T>
  T* Row(int64_t i) const {
    return reinterpret_cast<T*>(data) + i * row_stride;
  }

  // The first `n` rows; same memory.
  Tensor Rows(int64_t n) const { return Slice(0, n); }
  // Rows [begin, begin + n); same memory.
  Tensor Slice(int64_t begin, int64_t n) const {
    SHOAL_CHECK_LE(begin + n, dims[0]);
    Tensor t = *this;
    t.data += begin * row_stride * SizeOf(dtype);
    t.dims[0] = n;
    return t;
  }
  // Columns [begin, begin + n) of every row of a matrix; same memory.
  Tensor Cols(int64_t begin, int64_t n) const {
    SHOAL_CHECK_EQ(rank, 2);
    SHOAL_CHECK_LE(begin + n, dims[1]);
    Tensor t = *this;
    t.data += begin * SizeOf(dtype);
    t.dims[1] = n;
    return t;
  }
};

// A contiguous view of `data`.
inline Tensor MakeTensor(void* data, DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t;
  t.data = static_cast<std::byte*>(data);
  t.dtype = dtype;
  for (int64_t d : shape) t.dims[t.rank++] = d;
  t.row_stride = t.cols();
  return t;
}

}  // namespace shoal
