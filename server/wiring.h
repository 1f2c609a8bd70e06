// From the configuration file to what the planner, the engine and the server take. Used by the rank program and by
// `shoal plan`.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "model/chat_template.h"
#include "model/config.h"
#include "parallel/plan.h"
#include "proto/shoal/v1/inference.pb.h"
#include "server/config.h"
#include "server/serving.h"

namespace shoal {

// What to ask of the planner. `prepared`: the formats of a prepared folder, see PreparedFormats of model/prepare.h.
// Errors: kInvalidArgument if `ranks` does not fit the explicit plan or the list of budgets, the config says PREPARED
// for an ordinary folder, or max_context is more than the model's positions.
absl::StatusOr<PlanRequest> MakePlanRequest(const Config& config, const ModelConfig& model, int ranks,
                                            const std::optional<FormatPlan>& prepared);

// The answer of GetPlan, with PlanToText's text; `device` of every rank's memory is left to the caller.
v1::GetPlanResponse PlanToProto(const Plan& plan);

// The answer of GetModelInfo.
v1::GetModelInfoResponse MakeModelInfo(const Config& config, const ModelConfig& model, const Plan& plan,
                                       bool has_chat_template);

// Sampling defaults and end tokens of generation_config.json. Warns of settings that are not supported.
GenerationDefaults MakeGenerationDefaults(const ModelConfig& model);

// `chat` must outlive the renderer.
ChatRenderer MakeChatRenderer(const ChatTemplate* chat);

}  // namespace shoal
