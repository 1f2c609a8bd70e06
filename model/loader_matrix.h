// One matrix in canonical form, made row by row from tensors of a checkpoint: read, sliced, stacked, quantized.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/weight_source.h"
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

// How a prepared folder names the parts of a quantized tensor: "<name>.q8" or ".q4", ".scale", ".n", ".m".
inline constexpr std::string_view kScaleSuffix = ".scale";
inline constexpr std::string_view kGroupScalesSuffix = ".n";
inline constexpr std::string_view kGroupOffsetsSuffix = ".m";
std::string_view ValuesSuffix(WeightFormat format);

// The tensors of the checkpoint that hold one tensor of the model.
struct MatrixParts {
  bool quantized = false;
  Checkpoint::Entry values, scales, n, m;
};

class MatrixLoader {
 public:
  // `prepared`: quantized tensors lie quantized in the checkpoint.
  MatrixLoader(const Checkpoint& checkpoint, bool prepared) : checkpoint_(checkpoint), prepared_(prepared) {}

  // The slices, one below the other, in `format`, to be read when a device takes them in. All must have the same number
  // of columns. `error`, if not null, collects what quantization lost. `group` and the bias are left to the caller; the
  // source must not outlive checkpoint and `error`. Errors, here or of `read`: kNotFound or kInvalidArgument naming
  // file and tensor: absent, other shape or type, NaN or infinity, integers out of range.
  absl::StatusOr<WeightSource> Open(const std::vector<TensorSlice>& slices, WeightFormat format,
                                    QuantizationError* error = nullptr) const;

  // A vector, or several behind one another, as floats.
  absl::StatusOr<std::vector<float>> LoadVector(const std::vector<TensorSlice>& slices) const;

  // Bytes that are read for a slice.
  int64_t BytesToRead(const TensorSlice& slice, WeightFormat format) const;

  // Checks that the checkpoint has the tensor in the right shape and a type that can become `format`.
  absl::Status Check(const ModelTensor& tensor, const std::string& name, WeightFormat format) const;

 private:
  absl::StatusOr<Checkpoint::Entry> Find(const std::string& name, const std::vector<uint64_t>& shape) const;
  absl::StatusOr<MatrixParts> Locate(const ModelTensor& tensor, const std::string& name, WeightFormat format) const;

  const Checkpoint& checkpoint_;
  bool prepared_;
};

}  // namespace shoal
