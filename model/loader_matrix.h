// One matrix in canonical host form, made from tensors of a checkpoint: read, sliced, stacked, quantized.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/weight.h"
#include "model/checkpoint.h"
#include "model/quantize.h"
#include "model/weight_table.h"

namespace shoal {

// Rows and columns of one tensor of the model; `name` is the one to look up, which for a tied head is the embedding's.
struct TensorSlice {
  ModelTensor tensor;
  std::string name;
  Range rows;
  Range cols;
};

// A HostWeight with its memory.
struct OwnedMatrix {
  HostWeight view;
  std::unique_ptr<std::byte[]> values;
  int64_t values_bytes = 0;
  std::vector<float> scales;
  std::vector<uint8_t> group_scales;
  std::vector<int8_t> group_offsets;
  std::vector<float> bias;
};

// How a prepared folder names the parts of a quantized tensor: "<name>.q8" or ".q4", ".scale", ".n", ".m".
inline constexpr std::string_view kScaleSuffix = ".scale";
inline constexpr std::string_view kGroupScalesSuffix = ".n";
inline constexpr std::string_view kGroupOffsetsSuffix = ".m";
std::string_view ValuesSuffix(WeightFormat format);

// Bytes per row of `cols` values in a format.
int64_t RowBytes(WeightFormat format, int64_t cols);

class MatrixLoader {
 public:
  // `prepared`: quantized tensors lie quantized in the checkpoint.
  MatrixLoader(const Checkpoint& checkpoint, bool prepared, int threads)
      : checkpoint_(checkpoint), prepared_(prepared), threads_(threads) {}

  // The slices, one below the other, in `format`. All must have the same number of columns. `error`, if not null,
  // collects what quantization lost. `view.group` and the bias are left to the caller. Errors: kNotFound or
  // kInvalidArgument naming file and tensor: absent, other shape or type, NaN or infinity.
  absl::StatusOr<OwnedMatrix> Load(const std::vector<TensorSlice>& slices, WeightFormat format,
                                   QuantizationError* error = nullptr) const;

  // A vector, or several behind one another, as floats.
  absl::StatusOr<std::vector<float>> LoadVector(const std::vector<TensorSlice>& slices) const;

  // Bytes that Load reads for a slice.
  int64_t BytesToRead(const TensorSlice& slice, WeightFormat format) const;

  // Checks that the checkpoint has the tensor in the right shape and a type that can become `format`.
  absl::Status Check(const ModelTensor& tensor, const std::string& name, WeightFormat format) const;

 private:
  struct Source;
  absl::StatusOr<Checkpoint::Entry> Find(const std::string& name, const std::vector<uint64_t>& shape) const;
  absl::StatusOr<Source> Open(const ModelTensor& tensor, const std::string& name, WeightFormat format) const;
  absl::Status LoadSlice(const TensorSlice& slice, int64_t first_row, OwnedMatrix& out, QuantizationError* error) const;

  // Some rows of a quantized tensor of a prepared folder.
  static absl::Status ReadPrepared(const Source& source, const TensorSlice& slice, Range rows, WeightFormat format,
                                   const QuantizedRow& to);

  const Checkpoint& checkpoint_;
  bool prepared_;
  int threads_;
};

}  // namespace shoal
