// What the builds of the row quantizers share with their callers. As kernels/cpu/kernel_table.h: a file compiled for
// one instruction set must include nothing whose inline functions it would compile, too.
#pragma once

#include <cstdint>

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

// Where the results of one row go; sizes as in HostWeight.
struct QuantizedRow {
  void* values = nullptr;           // i8 [cols], or u8 [cols / 2] with even k in the low nibble.
  float* scale = nullptr;           // [1]
  uint8_t* group_scales = nullptr;  // n, [cols / kWeightGroup], int4.
  int8_t* group_offsets = nullptr;  // m, [cols / kWeightGroup], int4.
};

namespace internal {

constexpr int kGroup = 32;  // kWeightGroup

// One build of the two quantizers.
struct QuantizerPath {
  using Function = bool (*)(const float* row, int64_t cols, const QuantizedRow& out, QuantizationError* error);
  const char* name;
  Function int8;
  Function int4;
};

extern const QuantizerPath kQuantizerPortable;
extern const QuantizerPath kQuantizerAvx2;
extern const QuantizerPath kQuantizerAvx512;

}  // namespace internal
}  // namespace shoal
