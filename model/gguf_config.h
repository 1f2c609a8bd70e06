// A GGUF file's architecture and sizes, in the words of a Hugging Face config.json, so that one place checks both.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/json.h"
#include "model/gguf_model.h"

namespace shoal {

// Whether what a configuration names as its model is a GGUF file: it ends in ".gguf" and is no folder.
bool IsGgufPath(const std::string& model);

// What config.json and generation_config.json of the model would say.
struct GgufConfig {
  Json config;
  Json generation;  // Sampling defaults; an empty object if the file has none.
};

// Supported are the architectures llama, qwen2 and qwen3. Reads metadata and, for Llama 3, the factors of the rotary
// frequencies. Errors: kInvalidArgument for keys that are missing or of another type; kUnimplemented for other
// architectures and for what would change the results and is not supported (experts, YaRN, sliding windows, ...).
absl::StatusOr<GgufConfig> ReadGgufConfig(const GgufModel& model);

// The same from metadata; `find` gives a tensor by its name or null, `read` copies the whole of one.
using GgufTensorFind = absl::FunctionRef<const StoredTensor*(std::string_view name)>;
using GgufTensorRead = absl::FunctionRef<absl::Status(const StoredTensor& tensor, std::span<std::byte> out)>;
absl::StatusOr<GgufConfig> ReadGgufConfig(const GgufMetadata& metadata, GgufTensorFind find, GgufTensorRead read);

// An error about a field of config.json ("field 'hidden_size' is 0"), with the file's own key added.
absl::Status WithGgufKey(const absl::Status& status, const GgufConfig& config);

// Head size if the rows of q and k lie in rotary pairs (0, 1), (2, 3), ..., as files of architecture llama have them;
// else 0. Errors: as ReadGgufConfig.
absl::StatusOr<int64_t> GgufPairedHeadSize(const GgufMetadata& metadata);

}  // namespace shoal
