// Quantization of weight rows into the integer family of kernels/weight.h.
//
// Every row is quantized on its own and as a whole, so a rank that keeps some columns of it has the same integers and
// the same scale under every plan. All of it is deterministic: the same bits on every machine, whatever its vector
// width.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/quantize_row.h"
#include "kernels/weight.h"

namespace shoal {

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

// scale = max |w| / 127; values = round-half-even(w * (127 / max |w|)), in [-127, 127]. False (and nothing written) if
// a weight is not finite. Adds to `error` if that is not null.
bool QuantizeRowInt8(std::span<const float> row, const QuantizedRow& out, QuantizationError* error);

// Searches scale, n and m for a small squared error; |n * q + m| <= 127 for every stored q. The number of columns must
// be a multiple of kWeightGroup. False (and nothing written) if a weight is not finite.
bool QuantizeRowInt4(std::span<const float> row, const QuantizedRow& out, QuantizationError* error);

// The weights that a quantized row stands for.
void DequantizeRow(WeightFormat format, const QuantizedRow& row, std::span<float> out);

namespace internal {

// Those that this CPU runs, plainest first. The last one is used.
std::vector<QuantizerPath> QuantizerPaths();

}  // namespace internal
}  // namespace shoal
