// How GGUF files store values: one by one, or in blocks of 32 or 256 that share scales, decoded to floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/tensor_file.h"

namespace shoal {

// The stored type with this number in a file. `where` starts the message, naming file and tensor.
// Errors: kInvalidArgument for an unknown number; kUnimplemented, by name, for a type that is not supported.
absl::StatusOr<StoredType> GgufTypeOf(uint32_t id, std::string_view where);

// The number of a supported type. CHECKs that it is one.
uint32_t GgufTypeId(const StoredType& type);

// "F32, F16, ...", for messages.
std::string GgufTypeNames();

// Whether DecodeBlocks knows the type.
bool IsGgufBlockType(const StoredType& type);

// The floats that `count` values of a block type stand for; `count` is a multiple of the type's block. Every result is
// rounded once, from the exact value of the format's definition. The bytes may be anything: NaN and infinity in a scale
// come out as such.
// Source: the `dequantize_row_*` functions of ggml, and its `get_scale_min_k4`.
void DecodeBlocks(const StoredType& type, const std::byte* blocks, int64_t count, float* out);

}  // namespace shoal
