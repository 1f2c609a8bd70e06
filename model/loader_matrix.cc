#include "model/loader_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/half.h"
#include "model/gguf_blocks.h"
#include "model/loader_parallel.h"

namespace shoal {
namespace {

// Floats that one thread works on at a time: about a megabyte.
constexpr int64_t kChunkFloats = 1 << 18;
// Parts of rows shorter than this are not worth a system call each: the rows are read whole.
constexpr int64_t kRowReadMin = 4096;

absl::Status TensorError(const Checkpoint::Entry& entry, const std::string& what) {
  return absl::InvalidArgumentError(StrCat(entry.file->path(), ": tensor '", entry.tensor->name, "' ", what));
}

// Columns [begin, end) of some rows of a matrix of `row_bytes` bytes a row; `begin` and `end` in bytes.
absl::Status ReadSlice(const Checkpoint::Entry& entry, int64_t row_bytes, Range rows, Range bytes, std::byte* out) {
  const auto read = [&](int64_t offset, int64_t count, std::byte* to) {
    return entry.file->Read(*entry.tensor, static_cast<uint64_t>(offset), std::span(to, static_cast<size_t>(count)));
  };
  if (bytes.size() == row_bytes) return read(rows.begin * row_bytes, rows.size() * row_bytes, out);
  if (bytes.size() >= kRowReadMin) {
    for (int64_t i = 0; i < rows.size(); ++i) {
      RETURN_IF_ERROR(read((rows.begin + i) * row_bytes + bytes.begin, bytes.size(), out + i * bytes.size()));
    }
    return absl::OkStatus();
  }
  std::vector<std::byte> whole(static_cast<size_t>(rows.size() * row_bytes));
  RETURN_IF_ERROR(read(rows.begin * row_bytes, rows.size() * row_bytes, whole.data()));
  for (int64_t i = 0; i < rows.size(); ++i) {
    std::memcpy(out + i * bytes.size(), whole.data() + i * row_bytes + bytes.begin, bytes.size());
  }
  return absl::OkStatus();
}

void ToFloats(SafetensorsType type, const std::byte* in, int64_t count, float* out) {
  if (type == kSafeF32) {
    std::memcpy(out, in, count * sizeof(float));
    return;
  }
  if (IsGgufBlockType(type)) return DecodeBlocks(type, in, count, out);
  const bool bf16 = type == kSafeBF16;
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, in + 2 * i, sizeof(bits));
    out[i] = bf16 ? Bf16ToFloat(bits) : HalfToFloat(bits);
  }
}

// Rows of `stored` bytes, as the file has them, to the floats of rows and columns that are asked for.
void PickFloats(const Checkpoint::Entry& entry, const std::byte* stored, Range stored_rows, Range stored_cols,
                Range rows, Range cols, float* out) {
  const StoredType& type = entry.tensor->type;
  std::vector<float> row(static_cast<size_t>(stored_cols.size()));
  for (int64_t i = rows.begin; i < rows.end; ++i, out += cols.size()) {
    const int64_t place = entry.StoredRow(i) - stored_rows.begin;
    ToFloats(type, stored + place * type.Bytes(stored_cols.size()), stored_cols.size(), row.data());
    std::copy_n(row.begin() + (cols.begin - stored_cols.begin), cols.size(), out);
  }
}

// Floats of some rows and columns of a tensor that is not of our quantized family. Errors: NaN or infinity.
absl::Status ReadFloats(const Checkpoint::Entry& entry, int64_t cols_all, Range rows, Range cols,
                        std::vector<float>& out) {
  const StoredType& type = entry.tensor->type;
  // A GGUF file may have blocks that reach beyond the columns, and another order of the rows in a head.
  const Range stored_rows = entry.StoredRows(rows);
  const Range stored_cols = {cols.begin / type.block * type.block,
                             (cols.end + type.block - 1) / type.block * type.block};
  std::vector<std::byte> raw(static_cast<size_t>(stored_rows.size() * type.Bytes(stored_cols.size())));
  RETURN_IF_ERROR(ReadSlice(entry, type.Bytes(cols_all), stored_rows,
                            {type.Bytes(stored_cols.begin), type.Bytes(stored_cols.end)}, raw.data()));
  const int64_t count = rows.size() * cols.size();
  out.resize(static_cast<size_t>(count));
  if (entry.paired_head_size == 0 && stored_cols.size() == cols.size()) {
    ToFloats(type, raw.data(), count, out.data());
  } else {
    PickFloats(entry, raw.data(), stored_rows, stored_cols, rows, cols, out.data());
  }
  if (!AllFinite(out)) return TensorError(entry, "holds NaN or infinity; the file is damaged or not a usable model");
  return absl::OkStatus();
}

// Where row `row` of `matrix`, whose rows are as wide as `view.cols`, keeps its parts.
QuantizedRow RowAt(OwnedMatrix& matrix, int64_t row) {
  QuantizedRow out{matrix.values.get() + row * RowBytes(matrix.view.format, matrix.view.cols)};
  if (!matrix.scales.empty()) out.scale = matrix.scales.data() + row;
  if (!matrix.group_scales.empty()) {
    const int64_t groups = matrix.view.cols / kWeightGroup;
    out.group_scales = matrix.group_scales.data() + row * groups;
    out.group_offsets = matrix.group_offsets.data() + row * groups;
  }
  return out;
}

// A whole row quantized, of which a slice is kept.
struct RowBuffer {
  RowBuffer(WeightFormat row_format, int64_t cols)
      : format(row_format), values(RowBytes(format, cols)), n(cols / kWeightGroup), m(cols / kWeightGroup) {}
  QuantizedRow row() { return {values.data(), &scale, n.data(), m.data()}; }
  void CopyTo(Range cols, const QuantizedRow& out) const {
    const int64_t begin = RowBytes(format, cols.begin);
    std::memcpy(out.values, values.data() + begin, RowBytes(format, cols.end) - begin);
    *out.scale = scale;
    if (format != WeightFormat::kInt4) return;
    std::copy(n.begin() + cols.begin / kWeightGroup, n.begin() + cols.end / kWeightGroup, out.group_scales);
    std::copy(m.begin() + cols.begin / kWeightGroup, m.begin() + cols.end / kWeightGroup, out.group_offsets);
  }
  WeightFormat format;
  std::vector<std::byte> values;
  std::vector<uint8_t> n;
  std::vector<int8_t> m;
  float scale = 0;
};

// Allocates the arrays of a matrix; values are left uninitialised, they are all written.
OwnedMatrix MakeMatrix(WeightFormat format, int64_t rows, int64_t cols) {
  OwnedMatrix matrix;
  matrix.view.format = format;
  matrix.view.rows = rows;
  matrix.view.cols = cols;
  matrix.values_bytes = rows * RowBytes(format, cols);
  matrix.values = std::make_unique_for_overwrite<std::byte[]>(matrix.values_bytes);
  if (IsQuantized(format)) matrix.scales.resize(rows);
  if (format == WeightFormat::kInt4) {
    matrix.group_scales.resize(rows * (cols / kWeightGroup));
    matrix.group_offsets.resize(rows * (cols / kWeightGroup));
  }
  return matrix;
}

void SetViews(OwnedMatrix& matrix) {
  matrix.view.values = matrix.values.get();
  if (!matrix.scales.empty()) matrix.view.scales = matrix.scales.data();
  if (!matrix.group_scales.empty()) matrix.view.group_scales = matrix.group_scales.data();
  if (!matrix.group_offsets.empty()) matrix.view.group_offsets = matrix.group_offsets.data();
  if (!matrix.bias.empty()) matrix.view.bias = matrix.bias.data();
}

}  // namespace

// The tensors of the checkpoint that hold one tensor of the model.
struct MatrixLoader::Source {
  bool quantized = false;
  Checkpoint::Entry values, scales, n, m;
};

std::string_view ValuesSuffix(WeightFormat format) { return format == WeightFormat::kInt8 ? ".q8" : ".q4"; }

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

absl::StatusOr<Checkpoint::Entry> MatrixLoader::Find(const std::string& name,
                                                     const std::vector<uint64_t>& shape) const {
  const Checkpoint::Entry entry = checkpoint_.Find(name);
  if (entry.tensor == nullptr) {
    return absl::NotFoundError(
        StrCat(checkpoint_.folder(), ": tensor '", checkpoint_.NameInFile(name), "' is missing from the weights"));
  }
  if (entry.tensor->shape != shape) {
    SafetensorsTensor expected;
    expected.shape = shape;
    return TensorError(entry, StrCat("has shape ", entry.tensor->ShapeText(), "; ", checkpoint_.config_name(),
                                     " asks for ", expected.ShapeText()));
  }
  return entry;
}

absl::StatusOr<MatrixLoader::Source> MatrixLoader::Open(const ModelTensor& tensor, const std::string& name,
                                                        WeightFormat format) const {
  Source source;
  const auto rows = static_cast<uint64_t>(tensor.rows), cols = static_cast<uint64_t>(tensor.cols);
  source.quantized = prepared_ && IsQuantized(format);
  if (!source.quantized) {
    const std::vector<uint64_t> shape = tensor.row->vector() ? std::vector{rows} : std::vector{rows, cols};
    ASSIGN_OR_RETURN(source.values, Find(name, shape));
    const SafetensorsType type = source.values.tensor->type;
    if (type != kSafeF32 && type != kSafeBF16 && type != kSafeF16 && !IsGgufBlockType(type)) {
      return TensorError(source.values, StrCat("has type ", type.name, "; supported are F32, BF16 and F16"));
    }
    if (tensor.row->vector() && IsGgufBlockType(type)) {
      return TensorError(source.values, StrCat("has type ", type.name, "; norms and biases must be F32, BF16 or F16"));
    }
    return source;
  }
  const bool int4 = format == WeightFormat::kInt4;
  const uint64_t groups = cols / kWeightGroup;
  ASSIGN_OR_RETURN(source.values, Find(StrCat(name, ValuesSuffix(format)), {rows, int4 ? cols / 2 : cols}));
  ASSIGN_OR_RETURN(source.scales, Find(StrCat(name, kScaleSuffix), {rows}));
  if (int4) {
    ASSIGN_OR_RETURN(source.n, Find(StrCat(name, kGroupScalesSuffix), {rows, groups}));
    ASSIGN_OR_RETURN(source.m, Find(StrCat(name, kGroupOffsetsSuffix), {rows, groups}));
  }
  const auto check = [](const Checkpoint::Entry& entry, SafetensorsType type) {
    if (entry.tensor == nullptr || entry.tensor->type == type) return absl::OkStatus();
    return TensorError(entry, StrCat("has type ", entry.tensor->type.name, "; it must be ", type.name));
  };
  RETURN_IF_ERROR(check(source.values, int4 ? kSafeU8 : kSafeI8));
  RETURN_IF_ERROR(check(source.scales, kSafeF32));
  RETURN_IF_ERROR(check(source.n, kSafeU8));
  RETURN_IF_ERROR(check(source.m, kSafeI8));
  return source;
}

absl::Status MatrixLoader::Check(const ModelTensor& tensor, const std::string& name, WeightFormat format) const {
  return Open(tensor, name, format).status();
}

int64_t MatrixLoader::BytesToRead(const TensorSlice& slice, WeightFormat format) const {
  if (prepared_ && IsQuantized(format)) return slice.rows.size() * RowBytes(format, slice.cols.size());
  const Checkpoint::Entry entry = checkpoint_.Find(slice.name);
  if (entry.tensor == nullptr) return 0;
  return entry.tensor->type.Bytes(slice.rows.size() * (IsQuantized(format) ? slice.tensor.cols : slice.cols.size()));
}

absl::StatusOr<OwnedMatrix> MatrixLoader::Load(const std::vector<TensorSlice>& slices, WeightFormat format,
                                               QuantizationError* error) const {
  int64_t rows = 0;
  for (const TensorSlice& slice : slices) {
    SHOAL_CHECK_EQ(slice.cols.size(), slices[0].cols.size());
    SHOAL_CHECK(format != WeightFormat::kInt4 ||
                (slice.cols.begin % kWeightGroup == 0 && slice.cols.end % kWeightGroup == 0));
    rows += slice.rows.size();
  }
  OwnedMatrix matrix = MakeMatrix(format, rows, slices[0].cols.size());
  int64_t first_row = 0;
  for (const TensorSlice& slice : slices) {
    RETURN_IF_ERROR(LoadSlice(slice, first_row, matrix, error));
    first_row += slice.rows.size();
  }
  SetViews(matrix);
  return matrix;
}

namespace {

// Rows of a dense tensor into an f32 or bf16 matrix.
absl::Status CopyDense(const Checkpoint::Entry& entry, const TensorSlice& slice, Range rows, WeightFormat format,
                       std::byte* out) {
  std::vector<float> floats;
  RETURN_IF_ERROR(ReadFloats(entry, slice.tensor.cols, rows, slice.cols, floats));
  if (format == WeightFormat::kF32) {
    std::memcpy(out, floats.data(), floats.size() * sizeof(float));
    return absl::OkStatus();
  }
  bool fits = true;
  for (size_t i = 0; i < floats.size(); ++i) {
    const uint16_t bits = FloatToBf16(floats[i]);
    fits &= (bits & 0x7f80) != 0x7f80;
    std::memcpy(out + 2 * i, &bits, sizeof(bits));
  }
  return fits ? absl::OkStatus() : TensorError(entry, "holds values beyond the range of bf16; load it as f32");
}

// Rows of a dense tensor, each quantized as a whole, into a quantized matrix that keeps the slice's columns.
absl::Status QuantizeRows(const Checkpoint::Entry& entry, const TensorSlice& slice, Range rows, int64_t out_row,
                          OwnedMatrix& out, QuantizationError& lost) {
  const int64_t cols = slice.tensor.cols;
  const WeightFormat format = out.view.format;
  std::vector<float> floats;
  RETURN_IF_ERROR(ReadFloats(entry, cols, rows, {0, cols}, floats));
  const auto quantize = format == WeightFormat::kInt8 ? QuantizeRowInt8 : QuantizeRowInt4;
  const bool whole = slice.cols.size() == cols;
  RowBuffer buffer(format, cols);
  for (int64_t i = 0; i < rows.size(); ++i) {
    const QuantizedRow to = RowAt(out, out_row + i);
    SHOAL_CHECK(quantize(std::span(floats).subspan(i * cols, cols), whole ? to : buffer.row(), &lost));
    if (!whole) buffer.CopyTo(slice.cols, to);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MatrixLoader::ReadPrepared(const Source& source, const TensorSlice& slice, Range rows, WeightFormat format,
                                        const QuantizedRow& to) {
  const Range bytes{RowBytes(format, slice.cols.begin), RowBytes(format, slice.cols.end)};
  const int64_t row_bytes = RowBytes(format, slice.tensor.cols);
  RETURN_IF_ERROR(ReadSlice(source.values, row_bytes, rows, bytes, static_cast<std::byte*>(to.values)));
  RETURN_IF_ERROR(ReadSlice(source.scales, 4, rows, {0, 4}, reinterpret_cast<std::byte*>(to.scale)));
  if (!AllFinite({to.scale, static_cast<size_t>(rows.size())})) {
    return TensorError(source.scales, "holds NaN or infinity");
  }
  // Kernels rely on the range of w8, so a file must not leave it.
  bool good = true;
  if (format == WeightFormat::kInt8) {
    const auto* values = static_cast<const int8_t*>(to.values);
    for (int64_t i = 0; i < rows.size() * slice.cols.size(); ++i) good &= values[i] != -128;
    return good ? absl::OkStatus() : TensorError(source.values, "holds -128; values must lie in -127 to 127");
  }
  const Range groups{slice.cols.begin / kWeightGroup, slice.cols.end / kWeightGroup};
  const int64_t all_groups = slice.tensor.cols / kWeightGroup;
  RETURN_IF_ERROR(ReadSlice(source.n, all_groups, rows, groups, reinterpret_cast<std::byte*>(to.group_scales)));
  RETURN_IF_ERROR(ReadSlice(source.m, all_groups, rows, groups, reinterpret_cast<std::byte*>(to.group_offsets)));
  for (int64_t i = 0; i < rows.size() * groups.size(); ++i) {
    const int n = to.group_scales[i], m = to.group_offsets[i];
    good &= n >= 1 && n <= 16 && m >= -127 && m + 15 * n <= 127;
  }
  return good ? absl::OkStatus() : TensorError(source.n, "and its offsets leave the range of an int8 weight");
}

absl::Status MatrixLoader::LoadSlice(const TensorSlice& slice, int64_t first_row, OwnedMatrix& out,
                                     QuantizationError* error) const {
  const WeightFormat format = out.view.format;
  ASSIGN_OR_RETURN(const Source source, Open(slice.tensor, slice.name, format));
  const int64_t chunk = std::max<int64_t>(1, kChunkFloats / slice.tensor.cols);
  std::mutex mutex;  // Guards *error.
  return ParallelChunks(slice.rows.size(), chunk, threads_, [&](int64_t begin, int64_t end) -> absl::Status {
    const Range rows{slice.rows.begin + begin, slice.rows.begin + end};
    const int64_t out_row = first_row + begin;
    const QuantizedRow to = RowAt(out, out_row);
    if (!IsQuantized(format)) return CopyDense(source.values, slice, rows, format, static_cast<std::byte*>(to.values));
    if (!source.quantized) {
      QuantizationError lost;
      RETURN_IF_ERROR(QuantizeRows(source.values, slice, rows, out_row, out, lost));
      const std::lock_guard<std::mutex> lock(mutex);
      if (error != nullptr) error->Add(lost);
      return absl::OkStatus();
    }
    return ReadPrepared(source, slice, rows, format, to);
  });
}

absl::StatusOr<std::vector<float>> MatrixLoader::LoadVector(const std::vector<TensorSlice>& slices) const {
  std::vector<float> all, part;
  for (const TensorSlice& slice : slices) {
    ASSIGN_OR_RETURN(const Source source, Open(slice.tensor, slice.name, WeightFormat::kF32));
    RETURN_IF_ERROR(ReadFloats(source.values, 1, slice.rows, {0, 1}, part));
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace shoal
