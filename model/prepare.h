// Prepared folders: a model whose weights are stored quantized, so that loading it needs no such work. docs/formats.md
// has the layout.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/quantize.h"
#include "model/weights.h"

namespace shoal {

// The key in a safetensors file's metadata that marks a prepared folder.
inline constexpr std::string_view kPreparedVersionKey = "shoal.prepared";

struct PrepareOptions {
  int64_t shard_bytes_max = int64_t{2} << 30;  // A larger tensor gets a file of its own.
  LoadProgress progress;                       // Called with the bytes read so far and in all; may be null.
};

// Quantizes the model in `model_dir` (a folder or a GGUF file) and writes `out_dir`, with copies of its configuration
// and tokenizer. `out_dir`
// must not exist; it appears complete or not at all. LoadWeights on it gives the same bits as quantizing while loading.
// Errors: kAlreadyExists, kInvalidArgument, kNotFound, kResourceExhausted (disk full), kPermissionDenied.
absl::StatusOr<QuantizationReport> PrepareModel(const std::string& model_dir, const std::string& out_dir,
                                                const FormatPlan& formats, const PrepareOptions& options = {});

// The formats a prepared folder has (`kv` is left at its default); nothing for an ordinary model folder.
// Errors: as Checkpoint::Open; kInvalidArgument if the folder was prepared by an unknown version or for other sizes
// than config.json.
absl::StatusOr<std::optional<FormatPlan>> PreparedFormats(const std::string& model_dir);

// The same from an open checkpoint; `shape` is config.json's.
absl::StatusOr<std::optional<FormatPlan>> PreparedFormats(const Checkpoint& checkpoint, const ModelShape& shape);

// "int8" -> kInt8 and so on. Errors: kInvalidArgument.
absl::StatusOr<WeightFormat> WeightFormatFromName(std::string_view name);

}  // namespace shoal
