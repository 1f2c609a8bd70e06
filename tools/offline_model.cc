#include "tools/offline_model.h"

#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/prepare.h"
#include "model/weights.h"
#include "parallel/single_communicator.h"
#include "server/config.h"
#include "server/wiring.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

v1::Formats::Weight ProtoFormat(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return v1::Formats::F32;
    case WeightFormat::kBF16:
      return v1::Formats::BF16;
    case WeightFormat::kInt4:
      return v1::Formats::INT4;
    case WeightFormat::kInt8:
      break;
  }
  return v1::Formats::INT8;
}

absl::Status SetFormats(const OfflineModelOptions& options, bool prepared, v1::Formats* formats) {
  formats->set_kv(options.kv == DType::kF32  ? v1::Formats::KV_F32
                  : options.kv == DType::kI8 ? v1::Formats::KV_INT8
                                             : v1::Formats::KV_F16);
  formats->set_weights(prepared ? v1::Formats::PREPARED : ProtoFormat(options.weights.value_or(WeightFormat::kInt8)));
  if (!prepared || !options.weights) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("--weights ", WeightFormatName(*options.weights), ": the weights in ", options.model_dir,
             " have a format already; leave --weights out or name the model they were made from"));
}

// The plan that the server would make of a configuration with these numbers.
absl::StatusOr<Plan> PlanFor(const OfflineModelOptions& options, const ModelConfig& model) {
  ASSIGN_OR_RETURN(const std::optional<FormatPlan> prepared, PreparedFormats(options.model_dir));
  Config config;
  config.path = "shoal bench";
  config.model_dir = options.model_dir;
  RETURN_IF_ERROR(SetFormats(options, prepared.has_value(), config.proto.mutable_formats()));
  config.proto.mutable_batch()->set_max_sequences(options.max_sequences);
  if (options.max_step_tokens > 0) config.proto.mutable_batch()->set_max_step_tokens(options.max_step_tokens);
  config.proto.set_max_context(options.max_context);
  ASSIGN_OR_RETURN(PlanRequest request, MakePlanRequest(config, model, /*ranks=*/1, prepared));
  const int64_t blocks_each = (options.max_context + request.kv_block_tokens - 1) / request.kv_block_tokens;
  request.kv_blocks = options.max_sequences * blocks_each;
  return MakePlan(request);
}

}  // namespace

absl::StatusOr<std::unique_ptr<OfflineModel>> OfflineModel::Load(const OfflineModelOptions& options) {
  std::unique_ptr<OfflineModel> made(new OfflineModel);
  ASSIGN_OR_RETURN(made->config_, LoadModelConfig(options.model_dir));
  ASSIGN_OR_RETURN(made->plan_, PlanFor(options, made->config_));
  ASSIGN_OR_RETURN(made->device_,
                   CreateCpuDevice({.threads = options.threads, .memory_budget = 0, .isa = options.isa}));
  made->alone_ = CreateSingleCommunicator();
  const Clock::time_point start = Clock::now();
  ASSIGN_OR_RETURN(DecoderWeights weights,
                   LoadWeights(options.model_dir, made->config_, made->plan_, made->rank(), *made->device_));
  made->load_seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
  ASSIGN_OR_RETURN(made->runner_, Runner::Create(made->config_, made->plan_, /*rank=*/0, std::move(weights),
                                                 *made->device_, *made->alone_, *made->alone_));
  return made;
}

absl::StatusOr<StepResult> OfflineModel::Run(const StepPlan& step) {
  StepResult result = runner_->Run(step);
  RETURN_IF_ERROR(result.status);
  return result;
}

absl::Status OfflineModel::CopyKvBlocks(std::span<const int32_t> from, std::span<const int32_t> to) {
  SHOAL_CHECK_EQ(from.size(), to.size());
  std::vector<std::byte> host;
  for (const KvView& layer : runner_->kv().layers) {
    for (const Tensor& part : {layer.k, layer.v, layer.k_scale, layer.v_scale}) {
      if (part.empty()) continue;
      for (size_t i = 0; i < from.size(); ++i) {
        const Tensor source = part.Slice(from[i], 1);
        host.resize(static_cast<size_t>(source.bytes()));
        device_->CopyOut(source, host.data());
        RETURN_IF_ERROR(device_->Synchronize());
        device_->CopyIn(host.data(), part.Slice(to[i], 1));
        RETURN_IF_ERROR(device_->Synchronize());
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
