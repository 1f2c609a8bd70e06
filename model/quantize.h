// Quantization of weight rows into the integer family of kernels/weight.h.
//
// Every row is quantized on its own and as a whole, so a rank that keeps some columns of it has the same integers and
// the same scale under every plan. All of it is deterministic: the same bits on every machine, whatever its vector
// width.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/weight.h"

namespace shoal {

// What rounding lost, as sums over weights.
struct QuantizationError {
  double squared_error = 0;
  double squared_weight = 0;

  void Add(const QuantizationError& other) {
    squared_error += other.squared_error;
    squared_weight += other.squared_weight;
  }
  // Mean squared error over mean square; 0 for a matrix of zeros.
  double relative() const { return squared_weight > 0 ? squared_error / squared_weight : 0; }
};

// One tensor of a QuantizationReport.
struct QuantizedTensor {
  std::string name;
  WeightFormat format = WeightFormat::kInt8;
  int64_t rows = 0;
  int64_t cols = 0;
  QuantizationError error;
};

// What `shoal quantize` tells about a model.
struct QuantizationReport {
  std::vector<QuantizedTensor> tensors;  // Quantized ones only, in the order of the model.

  QuantizationError total() const {
    QuantizationError sum;
    for (const QuantizedTensor& tensor : tensors) sum.Add(tensor.error);
    return sum;
  }
};

// Where the results of one row go; sizes as in HostWeight.
struct QuantizedRow {
  void* values = nullptr;           // i8 [cols], or u8 [cols / 2] with even k in the low nibble.
  float* scale = nullptr;           // [1]
  uint8_t* group_scales = nullptr;  // n, [cols / kWeightGroup], int4.
  int8_t* group_offsets = nullptr;  // m, [cols / kWeightGroup], int4.
};

// scale = max |w| / 127; values = round-half-even(w * (127 / max |w|)), in [-127, 127]. False (and nothing written) if
// a weight is not finite. Adds to `error` if that is not null.
bool QuantizeRowInt8(std::span<const float> row, const QuantizedRow& out, QuantizationError* error);

// Searches scale, n and m for a small squared error; |n * q + m| <= 127 for every stored q. The number of columns must
// be a multiple of kWeightGroup. False (and nothing written) if a weight is not finite.
bool QuantizeRowInt4(std::span<const float> row, const QuantizedRow& out, QuantizationError* error);

// The weights that a quantized row stands for.
void DequantizeRow(WeightFormat format, const QuantizedRow& row, std::span<float> out);

namespace internal {

// One build of the two quantizers; for tests that compare them.
struct QuantizerPath {
  using Function = bool (*)(const float* row, int64_t cols, const QuantizedRow& out, QuantizationError* error);
  std::string_view name;
  Function int8;
  Function int4;
};

// Those that this CPU runs, plainest first. The last one is used.
std::vector<QuantizerPath> QuantizerPaths();

}  // namespace internal
}  // namespace shoal
