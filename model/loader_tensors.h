// Checks of a whole checkpoint against a model, before anything is read.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/weight_table.h"
#include "parallel/plan.h"

namespace shoal {

// The matrices' formats suit the model's sizes: quantized ones need activation groups of at least kWeightGroup columns.
// Errors: kInvalidArgument.
absl::Status CheckFormats(const ModelShape& shape, const FormatPlan& formats);

// A prepared folder has exactly the formats that are asked for. Errors: kInvalidArgument.
absl::Status CheckPrepared(const std::string& model_dir, const FormatPlan& prepared, const FormatPlan& wanted);

// Every tensor of the model is there in its shape and a usable type, and none is there that would change the results if
// it were ignored: other biases, layers beyond the last. What else there is, is logged and ignored. Errors: kNotFound,
// kInvalidArgument. `log_ignored`: false where another rank logs the same.
absl::Status CheckTensors(const Checkpoint& checkpoint, const ModelConfig& config, const FormatPlan& formats,
                          bool prepared, bool log_ignored);

// The name under which the checkpoint holds a tensor: a tied head is the embedding, unless a prepared folder has its
// own.
std::string StoredName(const ModelTensor& tensor, const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace shoal
