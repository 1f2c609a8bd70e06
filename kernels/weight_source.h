// Matrices and tables that are made row by row while a device takes them in, so that host memory never holds a whole
// one beside the device's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "base/thread_pool.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"

namespace shoal {

// Where canonical rows go as they are made. Parts as in HostWeight; those that the format lacks are null.
struct HostRows {
  std::byte* values = nullptr;
  float* scales = nullptr;
  uint8_t* group_scales = nullptr;
  int8_t* group_offsets = nullptr;

  // The same from row `row` on, of a matrix of `cols` columns.
  HostRows From(WeightFormat format, int64_t cols, int64_t row) const;
};

// A matrix to come; fields as in HostWeight.
struct WeightSource {
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group = 0;
  const float* bias = nullptr;  // [rows] or null.
  // Makes rows [begin, end) at `out`. Several threads may call it at once. Ranges of any length: it holds no more than
  // a few rows itself. The caller makes them as long as its caches like them, see SourceChunkRows.
  std::function<absl::Status(int64_t begin, int64_t end, const HostRows& out)> read;
};

// A row-major table (embedding) or vector (norm gain) to come.
struct TableSource {
  Tensor shape;  // Without data; a row is all dims but the first.
  // Makes rows [begin, end) at `out`; as WeightSource::read.
  std::function<absl::Status(int64_t begin, int64_t end, std::byte* out)> read;
};

// What lies in host memory already. `host` must outlive the result.
WeightSource SourceOf(const HostWeight& host);
TableSource SourceOf(const Tensor& host);

// Bytes of values of one canonical row.
int64_t RowBytes(WeightFormat format, int64_t cols);

// Rows to ask for at a time: a multiple of kRowBlock, whose values take about `bytes`.
int64_t SourceChunkRows(WeightFormat format, int64_t cols, int64_t bytes);

// Memory for some canonical rows, uninitialised.
class RowBuffer {
 public:
  RowBuffer(WeightFormat format, int64_t rows, int64_t cols);
  const HostRows& rows() const { return rows_; }

 private:
  std::unique_ptr<std::byte[]> memory_;
  HostRows rows_;
};

// Calls `work(begin, end)` for pieces of [0, n) of at most `chunk`, a multiple of `grain`. Every worker of the pool
// takes the range that ParallelFor(n, grain) gives it, in order, up to its first error. Returns the error of the first
// range that has one.
absl::Status ForChunks(ThreadPool& pool, int64_t n, int64_t grain, int64_t chunk,
                       const std::function<absl::Status(int64_t begin, int64_t end)>& work);

}  // namespace shoal
