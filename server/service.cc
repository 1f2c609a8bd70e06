#include "server/service.h"

#include <chrono>
#include <utility>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "server/generate_reactor.h"
#include "server/grpc_status.h"

namespace shoal {
namespace {

constexpr char kVersion[] = "0.1.0";
constexpr int kAbortsMax = 10000;
// Clients refuse larger messages.
constexpr size_t kDetokenizeBytesMax = 4 << 20;

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

absl::Status RunTokenize(const Serving& serving, const v1::TokenizeRequest& request, v1::TokenizeResponse* response) {
  ASSIGN_OR_RETURN(const PromptInput input, CheckTokenizeRequest(request, serving.limits));
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                   EncodePrompt(input, *serving.model.tokenizer, serving.model.render_chat));
  response->mutable_token_ids()->Add(ids.begin(), ids.end());
  response->set_max_context_length(serving.limits.max_context);
  return absl::OkStatus();
}

absl::Status RunDetokenize(const Serving& serving, const v1::DetokenizeRequest& request,
                           v1::DetokenizeResponse* response) {
  ASSIGN_OR_RETURN(std::string text, serving.model.tokenizer->Decode(
                                         {request.token_ids().data(), static_cast<size_t>(request.token_ids_size())},
                                         request.skip_special_tokens(), kDetokenizeBytesMax));
  response->set_text(std::move(text));
  return absl::OkStatus();
}

// Runs `work` off the gRPC threads and finishes the call with its status. `bytes`: of the request.
template <typename Work>
grpc::ServerUnaryReactor* RunOnPool(Serving* serving, grpc::CallbackServerContext* context, size_t bytes, Work work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto job = [context, reactor, work = std::move(work)] {
    // Nobody wants the answer any more. The context lives until Finish.
    const absl::Status status = context->IsCancelled() ? absl::CancelledError("the client cancelled the call") : work();
    reactor->Finish(ToGrpcStatus(status));
  };
  if (!serving->prompts.Submit(job, bytes)) {
    const auto full = absl::ResourceExhaustedError("too many prompts wait to be read; try again later");
    reactor->Finish(ToGrpcStatus(RetryIfFull(full)));
  }
  return reactor;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                                           const v1::GenerateRequest* request) {
  return GenerateReactor::Start(serving_, context, *request);
}

// Request and response live until the call is finished, also after a cancel.
grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return RunOnPool(serving_, context, request->ByteSizeLong(),
                   [serving = serving_, request, response] { return RunTokenize(*serving, *request, response); });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return RunOnPool(serving_, context, request->ByteSizeLong(),
                   [serving = serving_, request, response] { return RunDetokenize(*serving, *request, response); });
}

grpc::ServerUnaryReactor* InferenceService::Abort(grpc::CallbackServerContext* context, const v1::AbortRequest* request,
                                                  v1::AbortResponse* response) {
  if (request->request_ids_size() > kAbortsMax) {
    return Answer(context, absl::InvalidArgumentError(StrCat("request_ids has ", request->request_ids_size(),
                                                             " entries; at most ", kAbortsMax, " are allowed")));
  }
  for (const std::string& id : request->request_ids()) {
    if (serving_->streams.Abort(id)) response->add_aborted_request_ids(id);
  }
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest*,
                                                         v1::GetModelInfoResponse* response) {
  *response = serving_->model.info;
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetServerInfoRequest*,
                                                          v1::GetServerInfoResponse* response) {
  response->set_version(kVersion);
  response->set_state(serving_->state());
  response->set_active_requests(static_cast<int64_t>(serving_->streams.size()));
  response->set_uptime_seconds(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - serving_->started).count());
  response->set_ranks(serving_->model.plan.ranks_size());
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::GetLoads(grpc::CallbackServerContext* context, const v1::GetLoadsRequest*,
                                                     v1::GetLoadsResponse* response) {
  const EngineLoads loads = serving_->model.engine->loads();
  response->set_num_running_reqs(loads.num_running);
  response->set_num_waiting_reqs(loads.num_waiting);
  response->set_kv_blocks_used(loads.kv_blocks_used);
  response->set_kv_blocks_total(loads.kv_blocks_total);
  response->set_kv_block_tokens(loads.kv_block_tokens);
  response->set_num_used_tokens(loads.kv_blocks_used * loads.kv_block_tokens);
  response->set_max_total_num_tokens(loads.kv_blocks_total * loads.kv_block_tokens);
  const double total = static_cast<double>(loads.kv_blocks_total);
  response->set_token_usage(total == 0 ? 0 : static_cast<double>(loads.kv_blocks_used) / total);
  response->set_gen_throughput(loads.generation_tokens_per_second);
  response->set_prompt_tokens_total(loads.prompt_tokens);
  response->set_generation_tokens_total(loads.generation_tokens);
  response->set_preemptions_total(loads.preemptions);
  response->set_requests_finished_total(loads.requests_finished);
  response->set_requests_cancelled_total(loads.requests_cancelled);
  response->set_requests_failed_total(loads.requests_failed);
  response->set_steps_total(loads.steps);
  for (size_t i = 0; i < loads.stages.size(); ++i) {
    v1::StageLoad* stage = response->add_stages();
    stage->set_stage(static_cast<int>(i));
    stage->set_busy_fraction(loads.stages[i].busy_fraction);
    stage->set_busy_seconds(loads.stages[i].busy_seconds);
    stage->set_wall_seconds(loads.stages[i].wall_seconds);
  }
  for (const v1::RankPlan& rank : serving_->model.plan.ranks()) *response->add_memory() = rank.memory();
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::GetPlan(grpc::CallbackServerContext* context, const v1::GetPlanRequest*,
                                                    v1::GetPlanResponse* response) {
  *response = serving_->model.plan;
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                              v1::DrainResponse* response) {
  const double seconds = request->has_deadline_seconds() ? request->deadline_seconds() : serving_->drain_seconds;
  if (!(seconds >= 0 && seconds <= 86400)) {
    return Answer(context,
                  absl::InvalidArgumentError(StrCat("deadline_seconds is ", seconds, "; it must be from 0 to 86400")));
  }
  drain_(seconds);
  response->set_active_requests(static_cast<int64_t>(serving_->streams.size()));
  return Answer(context, absl::OkStatus());
}

}  // namespace shoal
