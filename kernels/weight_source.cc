#include "kernels/weight_source.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace shoal {
namespace {

int64_t GroupsOf(WeightFormat format, int64_t cols) { return format == WeightFormat::kInt4 ? cols / kWeightGroup : 0; }

// `rows` rows of `row_elements` from row `begin` of a canonical array, if there is one.
template <typename T>
void CopyRows(const T* from, int64_t begin, int64_t rows, int64_t row_elements, T* to) {
  if (from != nullptr) std::memcpy(to, from + begin * row_elements, rows * row_elements * sizeof(T));
}

}  // namespace

HostRows HostRows::From(WeightFormat format, int64_t cols, int64_t row) const {
  const int64_t groups = GroupsOf(format, cols);
  HostRows out;
  out.values = values + row * RowBytes(format, cols);
  if (scales != nullptr) out.scales = scales + row;
  if (group_scales != nullptr) out.group_scales = group_scales + row * groups;
  if (group_offsets != nullptr) out.group_offsets = group_offsets + row * groups;
  return out;
}

WeightSource SourceOf(const HostWeight& host) {
  WeightSource source{host.format, host.rows, host.cols, host.group, host.bias, nullptr};
  source.read = [&host](int64_t begin, int64_t end, const HostRows& out) {
    const int64_t groups = GroupsOf(host.format, host.cols);
    CopyRows(static_cast<const std::byte*>(host.values), begin, end - begin, RowBytes(host.format, host.cols),
             out.values);
    CopyRows(host.scales, begin, end - begin, 1, out.scales);
    CopyRows(host.group_scales, begin, end - begin, groups, out.group_scales);
    CopyRows(host.group_offsets, begin, end - begin, groups, out.group_offsets);
    return absl::OkStatus();
  };
  return source;
}

TableSource SourceOf(const Tensor& host) {
  SHOAL_CHECK(host.contiguous());
  TableSource source{host, nullptr};
  source.shape.data = nullptr;
  const int64_t row_bytes = host.cols() * SizeOf(host.dtype);
  source.read = [data = host.data, row_bytes](int64_t begin, int64_t end, std::byte* out) {
    CopyRows<std::byte>(data, begin, end - begin, row_bytes, out);
    return absl::OkStatus();
  };
  return source;
}

int64_t RowBytes(WeightFormat format, int64_t cols) {
  switch (format) {
    case WeightFormat::kF32:
      return cols * 4;
    case WeightFormat::kBF16:
      return cols * 2;
    case WeightFormat::kInt8:
      return cols;
    case WeightFormat::kInt4:
      return cols / 2;
  }
  return 0;
}

int64_t SourceChunkRows(WeightFormat format, int64_t cols, int64_t bytes) {
  return std::max<int64_t>(1, bytes / (kRowBlock * RowBytes(format, cols))) * kRowBlock;
}

RowBuffer::RowBuffer(WeightFormat format, int64_t rows, int64_t cols) {
  const int64_t groups = rows * GroupsOf(format, cols);
  const int64_t scale_bytes = IsQuantized(format) ? rows * static_cast<int64_t>(sizeof(float)) : 0;
  const int64_t value_bytes = rows * RowBytes(format, cols);
  memory_ = std::make_unique_for_overwrite<std::byte[]>(scale_bytes + value_bytes + 2 * groups);
  std::byte* next = memory_.get();
  if (scale_bytes > 0) rows_.scales = reinterpret_cast<float*>(next);
  rows_.values = next + scale_bytes;
  if (groups == 0) return;
  next = rows_.values + value_bytes;
  rows_.group_scales = reinterpret_cast<uint8_t*>(next);
  rows_.group_offsets = reinterpret_cast<int8_t*>(next + groups);
}

absl::Status ForChunks(ThreadPool& pool, int64_t n, int64_t grain, int64_t chunk,
                       const std::function<absl::Status(int64_t begin, int64_t end)>& work) {
  SHOAL_CHECK(chunk > 0 && chunk % grain == 0);
  std::vector<absl::Status> statuses(pool.threads());
  pool.ParallelFor(n, grain, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end && statuses[worker].ok(); i += chunk) {
      statuses[worker] = work(i, std::min(end, i + chunk));
    }
  });
  for (absl::Status& status : statuses) {
    if (!status.ok()) return std::move(status);
  }
  return absl::OkStatus();
}

}  // namespace shoal
