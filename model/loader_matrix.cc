#include "model/loader_matrix.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/half.h"
#include "model/gguf_blocks.h"
#include "model/loader_check.h"

namespace shoal {
namespace {

// Floats that one thread works on at a time: with the bytes they come from and the integers they become they fit a
// core's second-level cache.
constexpr int64_t kPieceFloats = 1 << 16;
// Parts of rows shorter than this are not worth a system call each: the rows are read whole.
constexpr int64_t kRowReadMin = 4096;

absl::Status TensorError(const Checkpoint::Entry& entry, const std::string& what) {
  return absl::InvalidArgumentError(StrCat(entry.file->path(), ": tensor '", entry.tensor->name, "' ", what));
}

// Memory that one thread uses for piece after piece.
struct Scratch {
  std::vector<std::byte> rows;  // Of a file, whole.
  std::vector<std::byte> raw;   // The columns wanted, as the file has them.
  std::vector<float> floats;
};

// Columns [begin, end) of some rows of a matrix of `row_bytes` bytes a row; `begin` and `end` in bytes.
absl::Status ReadSlice(const Checkpoint::Entry& entry, int64_t row_bytes, Range rows, Range bytes, Scratch& scratch,
                       void* to) {
  auto* const out = static_cast<std::byte*>(to);
  const auto read = [&](int64_t offset, int64_t count, std::byte* at) {
    return entry.file->Read(*entry.tensor, static_cast<uint64_t>(offset), std::span(at, static_cast<size_t>(count)));
  };
  if (bytes.size() == row_bytes) return read(rows.begin * row_bytes, rows.size() * row_bytes, out);
  if (bytes.size() >= kRowReadMin) {
    for (int64_t i = 0; i < rows.size(); ++i) {
      RETURN_IF_ERROR(read((rows.begin + i) * row_bytes + bytes.begin, bytes.size(), out + i * bytes.size()));
    }
    return absl::OkStatus();
  }
  scratch.rows.resize(static_cast<size_t>(rows.size() * row_bytes));
  RETURN_IF_ERROR(read(rows.begin * row_bytes, rows.size() * row_bytes, scratch.rows.data()));
  for (int64_t i = 0; i < rows.size(); ++i) {
    std::memcpy(out + i * bytes.size(), scratch.rows.data() + i * row_bytes + bytes.begin, bytes.size());
  }
  return absl::OkStatus();
}

void ToFloats(StoredType type, const std::byte* in, int64_t count, float* out) {
  if (type == kSafeF32) {
    std::memcpy(out, in, count * sizeof(float));
    return;
  }
  if (IsGgufBlockType(type)) return DecodeBlocks(type, in, count, out);
  const auto each = [&](auto to_float) {  // A loop for each type, so that the compiler makes vectors of it.
    for (int64_t i = 0; i < count; ++i) {
      uint16_t bits;
      std::memcpy(&bits, in + 2 * i, sizeof(bits));
      out[i] = to_float(bits);
    }
  };
  if (type == kSafeBF16) {
    each([](uint16_t bits) { return Bf16ToFloat(bits); });
  } else {
    each([](uint16_t bits) { return HalfToFloat(bits); });
  }
}

absl::Status NotFinite(const Checkpoint::Entry& entry) {
  return TensorError(entry, "holds NaN or infinity; the file is damaged or not a usable model");
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

// Floats of some rows and columns of a tensor that is not of our quantized family, to `scratch.floats`. Errors: NaN or
// infinity.
absl::Status ReadFloats(const Checkpoint::Entry& entry, int64_t cols_all, Range rows, Range cols, Scratch& scratch) {
  const StoredType& type = entry.tensor->type;
  // A GGUF file may have blocks that reach beyond the columns, and another order of the rows in a head.
  const Range stored_rows = entry.StoredRows(rows);
  const Range stored_cols = {cols.begin / type.block * type.block,
                             (cols.end + type.block - 1) / type.block * type.block};
  scratch.raw.resize(static_cast<size_t>(stored_rows.size() * type.Bytes(stored_cols.size())));
  RETURN_IF_ERROR(ReadSlice(entry, type.Bytes(cols_all), stored_rows,
                            {type.Bytes(stored_cols.begin), type.Bytes(stored_cols.end)}, scratch, scratch.raw.data()));
  const int64_t count = rows.size() * cols.size();
  scratch.floats.resize(static_cast<size_t>(count));
  if (entry.paired_head_size == 0 && stored_cols.size() == cols.size()) {
    ToFloats(type, scratch.raw.data(), count, scratch.floats.data());
  } else {
    PickFloats(entry, scratch.raw.data(), stored_rows, stored_cols, rows, cols, scratch.floats.data());
  }
  return AllFinite(scratch.floats) ? absl::OkStatus() : NotFinite(entry);
}

// Rows of a dense tensor as f32 or bf16.
absl::Status ReadDense(const Checkpoint::Entry& entry, const TensorSlice& slice, Range rows, WeightFormat format,
                       Scratch& scratch, std::byte* out) {
  const Range cols = slice.cols;
  const int64_t count = rows.size() * cols.size();
  const bool f32 = format == WeightFormat::kF32;
  const StoredType& type = entry.tensor->type;
  if (entry.paired_head_size == 0 && type == (f32 ? kSafeF32 : kSafeBF16)) {
    const Range bytes{type.Bytes(cols.begin), type.Bytes(cols.end)};
    RETURN_IF_ERROR(ReadSlice(entry, type.Bytes(slice.tensor.cols), rows, bytes, scratch, out));
    const bool finite = f32 ? AllFinite(std::span(reinterpret_cast<const float*>(out), count))
                            : AllFiniteBf16(std::span(reinterpret_cast<const uint16_t*>(out), count));
    return finite ? absl::OkStatus() : NotFinite(entry);
  }
  RETURN_IF_ERROR(ReadFloats(entry, slice.tensor.cols, rows, cols, scratch));
  if (f32) {
    std::memcpy(out, scratch.floats.data(), count * sizeof(float));
    return absl::OkStatus();
  }
  uint16_t* const halves = reinterpret_cast<uint16_t*>(out);
  for (int64_t i = 0; i < count; ++i) halves[i] = FloatToBf16(scratch.floats[i]);
  if (AllFiniteBf16(std::span(halves, count))) return absl::OkStatus();
  return TensorError(entry, "holds values beyond the range of bf16; load it as f32");
}

QuantizedRow ToQuantizedRow(const HostRows& rows) {
  return {rows.values, rows.scales, rows.group_scales, rows.group_offsets};
}

// Columns `cols` of a quantized row.
void CopyColumns(const HostRows& row, WeightFormat format, Range cols, const HostRows& out) {
  const int64_t begin = RowBytes(format, cols.begin);
  std::memcpy(out.values, row.values + begin, RowBytes(format, cols.end) - begin);
  *out.scales = *row.scales;
  if (format != WeightFormat::kInt4) return;
  const Range groups{cols.begin / kWeightGroup, cols.end / kWeightGroup};
  std::copy(row.group_scales + groups.begin, row.group_scales + groups.end, out.group_scales);
  std::copy(row.group_offsets + groups.begin, row.group_offsets + groups.end, out.group_offsets);
}

// Rows of a dense tensor, each quantized as a whole, of which the slice's columns are kept.
absl::Status QuantizeRows(const Checkpoint::Entry& entry, const TensorSlice& slice, Range rows, WeightFormat format,
                          Scratch& scratch, const HostRows& out, QuantizationError& lost) {
  const int64_t cols = slice.tensor.cols;
  RETURN_IF_ERROR(ReadFloats(entry, cols, rows, {0, cols}, scratch));
  const auto quantize = format == WeightFormat::kInt8 ? QuantizeRowInt8 : QuantizeRowInt4;
  const bool whole = slice.cols.size() == cols;
  std::optional<RowBuffer> buffer;
  if (!whole) buffer.emplace(format, 1, cols);
  for (int64_t i = 0; i < rows.size(); ++i) {
    const HostRows to = out.From(format, slice.cols.size(), i);
    const HostRows row = whole ? to : buffer->rows();
    SHOAL_CHECK(quantize(std::span(scratch.floats).subspan(i * cols, cols), ToQuantizedRow(row), &lost));
    if (!whole) CopyColumns(row, format, slice.cols, to);
  }
  return absl::OkStatus();
}

// Rows of a tensor that lies quantized in a prepared folder. Kernels rely on the range of w8, so a file must not leave
// it.
absl::Status ReadPrepared(const MatrixParts& stored, const TensorSlice& slice, Range rows, WeightFormat format,
                          Scratch& scratch, const HostRows& out) {
  const Range cols = slice.cols;
  const auto read = [&](const Checkpoint::Entry& entry, int64_t row_bytes, Range bytes, void* to) {
    return ReadSlice(entry, row_bytes, rows, bytes, scratch, to);
  };
  RETURN_IF_ERROR(read(stored.values, RowBytes(format, slice.tensor.cols),
                       {RowBytes(format, cols.begin), RowBytes(format, cols.end)}, out.values));
  RETURN_IF_ERROR(read(stored.scales, sizeof(float), {0, sizeof(float)}, out.scales));
  if (!AllFinite(std::span(out.scales, rows.size()))) return TensorError(stored.scales, "holds NaN or infinity");
  if (format == WeightFormat::kInt8) {
    const std::span values(reinterpret_cast<const int8_t*>(out.values), rows.size() * cols.size());
    return GoodInt8(values) ? absl::OkStatus()
                            : TensorError(stored.values, "holds -128; values must lie in -127 to 127");
  }
  const Range groups{cols.begin / kWeightGroup, cols.end / kWeightGroup};
  const int64_t all_groups = slice.tensor.cols / kWeightGroup;
  RETURN_IF_ERROR(read(stored.n, all_groups, groups, out.group_scales));
  RETURN_IF_ERROR(read(stored.m, all_groups, groups, out.group_offsets));
  const int64_t count = rows.size() * groups.size();
  return GoodInt4Groups(std::span(out.group_scales, count), std::span(out.group_offsets, count))
             ? absl::OkStatus()
             : TensorError(stored.n, "and its offsets leave the range of an int8 weight");
}

// What a WeightSource of a MatrixLoader reads from.
class MatrixReader {
 public:
  MatrixReader(WeightFormat format, QuantizationError* error) : format_(format), error_(error) {}

  void Add(TensorSlice slice, MatrixParts stored) {
    const int64_t begin = rows();
    parts_.push_back({{begin, begin + slice.rows.size()}, std::move(slice), std::move(stored)});
  }
  int64_t rows() const { return parts_.empty() ? 0 : parts_.back().rows.end; }

  // As WeightSource::read.
  absl::Status Read(int64_t begin, int64_t end, const HostRows& out) {
    Scratch scratch;
    QuantizationError lost;
    for (const Part& part : parts_) {
      const int64_t part_end = std::min(end, part.rows.end);
      const int64_t piece = std::max<int64_t>(1, kPieceFloats / part.slice.tensor.cols);
      for (int64_t at = std::max(begin, part.rows.begin); at < part_end; at += piece) {
        const Range rows{at, std::min(at + piece, part_end)};
        RETURN_IF_ERROR(ReadPiece(part, rows, scratch, out.From(format_, part.slice.cols.size(), at - begin), lost));
      }
    }
    if (error_ == nullptr) return absl::OkStatus();
    const std::lock_guard<std::mutex> lock(mutex_);
    error_->Add(lost);
    return absl::OkStatus();
  }

 private:
  struct Part {
    Range rows;  // Of the stacked matrix.
    TensorSlice slice;
    MatrixParts stored;
  };

  absl::Status ReadPiece(const Part& part, Range stacked, Scratch& scratch, const HostRows& out,
                         QuantizationError& lost) const {
    const int64_t shift = part.slice.rows.begin - part.rows.begin;
    const Range rows{stacked.begin + shift, stacked.end + shift};
    if (part.stored.quantized) return ReadPrepared(part.stored, part.slice, rows, format_, scratch, out);
    const Checkpoint::Entry& entry = part.stored.values;
    if (IsQuantized(format_)) return QuantizeRows(entry, part.slice, rows, format_, scratch, out, lost);
    return ReadDense(entry, part.slice, rows, format_, scratch, out.values);
  }

  WeightFormat format_;
  std::vector<Part> parts_;
  std::mutex mutex_;
  QuantizationError* error_;  // Guarded by mutex_; may be null.
};

}  // namespace

std::string_view ValuesSuffix(WeightFormat format) { return format == WeightFormat::kInt8 ? ".q8" : ".q4"; }

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

absl::StatusOr<MatrixParts> MatrixLoader::Locate(const ModelTensor& tensor, const std::string& name,
                                                 WeightFormat format) const {
  MatrixParts source;
  const auto rows = static_cast<uint64_t>(tensor.rows), cols = static_cast<uint64_t>(tensor.cols);
  source.quantized = prepared_ && IsQuantized(format);
  if (!source.quantized) {
    const std::vector<uint64_t> shape = tensor.row->vector() ? std::vector{rows} : std::vector{rows, cols};
    ASSIGN_OR_RETURN(source.values, Find(name, shape));
    const StoredType type = source.values.tensor->type;
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
  const auto check = [](const Checkpoint::Entry& entry, StoredType type) {
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
  return Locate(tensor, name, format).status();
}

int64_t MatrixLoader::BytesToRead(const TensorSlice& slice, WeightFormat format) const {
  if (prepared_ && IsQuantized(format)) return slice.rows.size() * RowBytes(format, slice.cols.size());
  const Checkpoint::Entry entry = checkpoint_.Find(slice.name);
  if (entry.tensor == nullptr) return 0;
  return entry.tensor->type.Bytes(slice.rows.size() * (IsQuantized(format) ? slice.tensor.cols : slice.cols.size()));
}

absl::StatusOr<WeightSource> MatrixLoader::Open(const std::vector<TensorSlice>& slices, WeightFormat format,
                                                QuantizationError* error) const {
  const auto reader = std::make_shared<MatrixReader>(format, error);
  const int64_t cols = slices[0].cols.size();
  for (const TensorSlice& slice : slices) {
    SHOAL_CHECK_EQ(slice.cols.size(), cols);
    SHOAL_CHECK(format != WeightFormat::kInt4 ||
                (slice.cols.begin % kWeightGroup == 0 && slice.cols.end % kWeightGroup == 0));
    ASSIGN_OR_RETURN(MatrixParts stored, Locate(slice.tensor, slice.name, format));
    reader->Add(slice, std::move(stored));
  }
  WeightSource source;
  source.format = format;
  source.rows = reader->rows();
  source.cols = cols;
  source.read = [reader](int64_t begin, int64_t end, const HostRows& out) { return reader->Read(begin, end, out); };
  return source;
}

absl::StatusOr<std::vector<float>> MatrixLoader::LoadVector(const std::vector<TensorSlice>& slices) const {
  std::vector<float> all;
  Scratch scratch;
  for (const TensorSlice& slice : slices) {
    ASSIGN_OR_RETURN(const MatrixParts stored, Locate(slice.tensor, slice.name, WeightFormat::kF32));
    RETURN_IF_ERROR(ReadFloats(stored.values, 1, slice.rows, {0, 1}, scratch));
    all.insert(all.end(), scratch.floats.begin(), scratch.floats.end());
  }
  return all;
}

}  // namespace shoal
