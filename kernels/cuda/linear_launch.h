// The three kernels behind LaunchQuantizedLinear.
#pragma once

#include "kernels/cuda/kernels.h"

namespace shoal::cuda {

constexpr int kDecodeTokensMax = 8;

// Up to kDecodeTokensMax tokens.
void LaunchLinearDecode(const QuantizedLinearArgs& args, Stream stream);
// Any number; `path` is not kDp4a.
void LaunchLinearMma(const QuantizedLinearArgs& args, Path path, Stream stream);
// Any number.
void LaunchLinearDp4a(const QuantizedLinearArgs& args, Stream stream);

}  // namespace shoal::cuda
