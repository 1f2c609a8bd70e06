#include "server/wiring.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "parallel/plan_cost.h"
#include "parallel/plan_text.h"

namespace shoal {
namespace {

constexpr int64_t kContextDefaultMax = 32768;

WeightFormat ToFormat(v1::Formats::Weight format) {
  switch (format) {
    case v1::Formats::F32:
      return WeightFormat::kF32;
    case v1::Formats::BF16:
      return WeightFormat::kBF16;
    case v1::Formats::INT4:
      return WeightFormat::kInt4;
    default:
      return WeightFormat::kInt8;
  }
}

absl::StatusOr<FormatPlan> MakeFormats(const Config& config, const std::optional<FormatPlan>& prepared) {
  const v1::Formats& formats = config.proto.formats();
  FormatPlan plan;
  if (formats.weights() == v1::Formats::PREPARED) {
    if (!prepared) {
      return absl::InvalidArgumentError(StrCat(config.path, ": formats.weights is PREPARED but ", config.model_dir,
                                               " is no prepared folder; run `shoal quantize` on it or choose INT8"));
    }
    plan = *prepared;
  } else {
    const auto pick = [&](bool given, v1::Formats::Weight format) {
      return ToFormat(given ? format : formats.weights());
    };
    plan.qkv = pick(formats.has_qkv(), formats.qkv());
    plan.attention_out = pick(formats.has_attention_out(), formats.attention_out());
    plan.gate_up = pick(formats.has_gate_up(), formats.gate_up());
    plan.down = pick(formats.has_down(), formats.down());
    plan.lm_head = pick(formats.has_lm_head(), formats.lm_head());
    plan.embedding =
        formats.has_embedding() ? ToFormat(formats.embedding()) : EmbeddingFormatBeside(ToFormat(formats.weights()));
  }
  plan.kv = formats.kv() == v1::Formats::KV_F32    ? DType::kF32
            : formats.kv() == v1::Formats::KV_INT8 ? DType::kI8
                                                   : DType::kF16;
  return plan;
}

void SetRange(const Range& range, v1::IndexRange* out) {
  out->set_begin(range.begin);
  out->set_end(range.end);
}

void SetMemory(const RankPlan& rank, v1::RankMemory* out) {
  out->set_rank(rank.rank);
  out->set_weights_bytes(rank.memory.weights);
  out->set_kv_bytes(rank.memory.kv);
  out->set_activations_bytes(rank.memory.activations);
  out->set_communication_bytes(rank.memory.communication);
  out->set_reserved_bytes(rank.memory.reserved);
  out->set_total_bytes(rank.memory.total());
  out->set_budget_bytes(rank.memory.budget);
}

// "int8", or "int4, lm_head int8" where classes differ from most.
std::string FormatsText(const FormatPlan& formats) {
  std::string text(WeightFormatName(formats.qkv));
  const std::pair<const char*, WeightFormat> others[] = {{"attention_out", formats.attention_out},
                                                         {"gate_up", formats.gate_up},
                                                         {"down", formats.down},
                                                         {"lm_head", formats.lm_head}};
  for (const auto& [name, format] : others) {
    if (format != formats.qkv) text += StrCat(", ", name, " ", WeightFormatName(format));
  }
  return text;
}

v1::ModelWork MakeModelWork(const Plan& plan) {
  StepCost weights, token, context;
  for (const RankPlan& rank : plan.ranks) {
    weights += CostOfStep(plan.shape, plan.formats, rank, 0, 0, 0, 1);
    token += CostOfStep(plan.shape, plan.formats, rank, 1, 1, 0, 0);
    context += CostOfStep(plan.shape, plan.formats, rank, 1, 0, 1, 1);
  }
  v1::ModelWork work;
  work.set_weight_bytes(weights.bytes);
  work.set_kv_token_bytes(context.bytes - weights.bytes);
  work.set_token_ops(token.ops);
  work.set_head_ops(weights.ops);
  return work;
}

}  // namespace

absl::StatusOr<PlanRequest> MakePlanRequest(const Config& config, const ModelConfig& model, int ranks,
                                            const std::optional<FormatPlan>& prepared) {
  const v1::ServerConfig& proto = config.proto;
  if (const int planned = config.planned_ranks(); planned != 0 && planned != ranks) {
    return absl::InvalidArgumentError(StrCat(config.path, ": the plan has ", planned, " ranks but ", ranks,
                                             " were started; use mpirun -n ", planned, " or change plan.stages"));
  }
  if (config.memory_budget.size() > 1 && config.memory_budget.size() != static_cast<size_t>(ranks)) {
    return absl::InvalidArgumentError(StrCat(config.path, ": memory_budget has ", config.memory_budget.size(),
                                             " entries for ", ranks, " ranks; give one for all or one per rank"));
  }
  PlanRequest request;
  request.shape = model.shape;
  ASSIGN_OR_RETURN(request.formats, MakeFormats(config, prepared));
  request.ranks = ranks;
  for (const v1::Stage& stage : proto.plan().stages()) {
    request.stages.push_back({stage.ranks(), stage.layers(), {stage.shares().begin(), stage.shares().end()}});
  }
  request.memory_budget = config.memory_budget;
  request.reserved_bytes = config.reserved_bytes;
  request.kv_block_tokens = proto.kv_cache().block_tokens();
  request.kv_blocks = proto.kv_cache().blocks();
  request.kv_tokens_default = proto.kv_cache().tokens();
  request.max_step_tokens = proto.batch().max_step_tokens();
  request.max_sequences = proto.batch().max_sequences();
  request.max_context = std::min(model.max_position_embeddings, kContextDefaultMax);
  if (proto.has_max_context()) {
    if (proto.max_context() > model.max_position_embeddings) {
      return absl::InvalidArgumentError(StrCat(config.path, ": max_context is ", proto.max_context(),
                                               " but the model has ", model.max_position_embeddings,
                                               " positions (max_position_embeddings)"));
    }
    request.max_context = proto.max_context();
  }
  return request;
}

v1::GetPlanResponse PlanToProto(const Plan& plan) {
  v1::GetPlanResponse out;
  for (const RankPlan& rank : plan.ranks) {
    v1::RankPlan* to = out.add_ranks();
    to->set_rank(rank.rank);
    to->set_stage(rank.stage);
    to->set_tp_rank(rank.tp_rank);
    to->set_tp_size(rank.tp_size);
    SetRange(rank.layers, to->mutable_layers());
    SetRange(rank.heads, to->mutable_heads());
    SetRange(rank.kv_heads, to->mutable_kv_heads());
    SetRange(rank.ffn, to->mutable_ffn());
    SetRange(rank.vocab, to->mutable_vocab());
    SetMemory(rank, to->mutable_memory());
  }
  out.set_stages(static_cast<int>(plan.stages.size()));
  out.set_automatic(plan.automatic);
  out.set_kv_blocks(plan.kv_blocks);
  out.set_kv_block_tokens(plan.kv_block_tokens);
  out.set_max_step_tokens(plan.max_step_tokens);
  out.set_max_sequences(plan.max_sequences);
  out.set_max_context(plan.max_context);
  out.set_text(PlanToText(plan));
  return out;
}

v1::GetModelInfoResponse MakeModelInfo(const Config& config, const ModelConfig& model, const Plan& plan,
                                       bool has_chat_template) {
  v1::GetModelInfoResponse info;
  info.set_model_path(config.model_dir);
  info.set_served_model_name(config.served_model_name);
  info.set_model_type(model.model_type);
  info.set_architecture(model.architecture);
  info.set_max_context_length(plan.max_context);
  info.set_vocab_size(plan.shape.vocab);
  info.mutable_eos_token_ids()->Add(model.eos_token_ids.begin(), model.eos_token_ids.end());
  if (model.bos_token_id >= 0) info.set_bos_token_id(model.bos_token_id);
  info.set_has_chat_template(has_chat_template);
  info.set_weight_formats(FormatsText(plan.formats));
  *info.mutable_work() = MakeModelWork(plan);
  return info;
}

GenerationDefaults MakeGenerationDefaults(const ModelConfig& model) {
  GenerationDefaults defaults;
  if (model.temperature >= 0) defaults.temperature = model.temperature;
  if (model.top_p > 0) defaults.top_p = model.top_p;
  if (model.top_k >= 0) defaults.top_k = model.top_k;
  if (model.repetition_penalty > 0) defaults.repetition_penalty = model.repetition_penalty;
  if (model.min_p >= 0) defaults.min_p = model.min_p;
  if (!model.ignored_generation_settings.empty()) {
    LogWarning("generation_config.json: ", absl::StrJoin(model.ignored_generation_settings, ", "),
               " would change the output but is not supported and is ignored");
  }
  defaults.eos_token_ids = model.eos_token_ids;
  return defaults;
}

ChatRenderer MakeChatRenderer(const ChatTemplate* chat) {
  return [chat](const PromptChat& prompt) -> absl::StatusOr<std::string> {
    std::vector<ChatMessage> messages;
    messages.reserve(prompt.messages.size());
    for (const PromptMessage& message : prompt.messages) messages.push_back({message.role, message.content, {}});
    ChatTemplateOptions options;
    options.add_generation_prompt = prompt.add_generation_prompt;
    return chat->Render(messages, options);
  };
}

}  // namespace shoal
