#include "engine/runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

absl::Status PlanError(const StepPlan& plan, std::string_view what) {
  return absl::InternalError(StrCat("step ", plan.step, ": ", what));
}

}  // namespace

Runner::Runner(const ModelConfig& config, const Plan& plan, int rank, DecoderWeights weights, Device& device,
               Communicator& tp, Communicator& pipeline)
    : config_(config),
      plan_(plan),
      rank_(plan.ranks[rank]),
      weights_(std::move(weights)),
      device_(device),
      tp_(tp),
      pipeline_(pipeline) {}

absl::StatusOr<std::unique_ptr<Runner>> Runner::Create(const ModelConfig& config, const Plan& plan, int rank,
                                                       DecoderWeights weights, Device& device, Communicator& tp,
                                                       Communicator& pipeline) {
  std::unique_ptr<Runner> runner(new Runner(config, plan, rank, std::move(weights), device, tp, pipeline));
  ASSIGN_OR_RETURN(runner->kv_, AllocateKvCache(plan, runner->rank_, device));
  ASSIGN_OR_RETURN(runner->activations_, AllocateActivations(plan, runner->rank_, device));
  std::vector<float> inv_freq = RopeInverseFrequencies(config.rope, config.shape.head_dim);
  ASSIGN_OR_RETURN(
      const Tensor inv_freq_tensor,
      device.LoadTensor(MakeTensor(inv_freq.data(), DType::kF32, {static_cast<int64_t>(inv_freq.size())})));
  RETURN_IF_ERROR(device.Synchronize());
  runner->context_ = std::make_unique<DecoderContext>(DecoderContext{.config = config,
                                                                     .rank = runner->rank_,
                                                                     .weights = runner->weights_,
                                                                     .heads = HeadsOf(config.shape, runner->rank_),
                                                                     .inv_freq = inv_freq_tensor,
                                                                     .kv = runner->kv_.layers,
                                                                     .act = runner->activations_.views,
                                                                     .ops = device.ops(),
                                                                     .tp = tp});
  RETURN_IF_ERROR(runner->RecordGraphs());
  runner->last_end_ns_ = NowNs();
  return runner;
}

StepResult Runner::Run(const StepPlan& plan) {
  StepResult result;
  result.step = plan.step;
  result.rank = rank_.rank;
  const auto exchanged_ns = [this] { return tp_.exchange_ns() + pipeline_.exchange_ns(); };
  const int64_t exchanged_before = exchanged_ns();
  const int64_t begin = NowNs();
  result.status = Compute(plan, result);
  const int64_t end = NowNs();
  result.busy_ns = end - begin - (exchanged_ns() - exchanged_before);
  result.wall_ns = end - last_end_ns_;
  last_end_ns_ = end;
  return result;
}

absl::Status Runner::Check(const StepPlan& plan) const {
  const Activations& a = activations_.views;
  if (plan.num_tokens() < 1 || plan.num_tokens() > plan_.max_step_tokens) return PlanError(plan, "token count");
  if (plan.num_sequences() < 1 || plan.num_sequences() > plan_.max_sequences) return PlanError(plan, "sequence count");
  if (plan.sample_rows.size() > static_cast<size_t>(plan_.max_sequences)) return PlanError(plan, "sampled rows");
  if (plan.candidates < 0 || plan.candidates > kCandidatesMax) return PlanError(plan, "candidates");
  const int64_t vocab = config_.shape.vocab;
  for (const int32_t id : plan.ids) {
    if (id < 0 || id >= vocab) return PlanError(plan, StrCat("token id ", id));
  }
  for (const int32_t slot : plan.kv_slots) {
    if (slot < 0 || slot >= plan_.kv_tokens()) return PlanError(plan, StrCat("KV slot ", slot));
  }
  for (const int32_t block : plan.blocks) {
    if (block < 0 || block >= plan_.kv_blocks) return PlanError(plan, StrCat("KV block ", block));
  }
  for (int s = 0; s < plan.num_sequences(); ++s) {
    const int64_t blocks = plan.block_start[s + 1] - plan.block_start[s];
    if (blocks > a.block_table.cols()) return PlanError(plan, "blocks of a sequence");
    if (plan.context_len[s] > blocks * plan_.kv_block_tokens) return PlanError(plan, "context beyond its blocks");
  }
  for (const int32_t row : plan.sample_rows) {
    if (row < 0 || row >= plan.num_tokens()) return PlanError(plan, "sampled row");
  }
  return absl::OkStatus();
}

bool Runner::HasGraph(int bucket) const {
  return device_.records() && tp_.SumOnlyQueues(bucket * config_.shape.hidden * SizeOf(DType::kF64));
}

int Runner::BucketMax() const { return std::min(plan_.max_sequences, plan_.max_step_tokens); }

StepInput Runner::Upload(const StepPlan& plan) {
  const Activations& a = activations_.views;
  const auto copy = [&](const std::vector<int32_t>& host, Tensor whole) {
    const Tensor t = whole.Rows(static_cast<int64_t>(host.size()));
    if (!host.empty()) device_.CopyIn(host.data(), t);
    return t;
  };
  const int64_t sequences = plan.num_sequences();
  const int64_t columns = a.block_table.cols();
  block_table_.assign(sequences * columns, 0);
  for (int64_t s = 0; s < sequences; ++s) {
    std::copy(plan.blocks.begin() + plan.block_start[s], plan.blocks.begin() + plan.block_start[s + 1],
              block_table_.begin() + s * columns);
  }
  StepInput in;
  in.ids = copy(plan.ids, a.ids);
  in.positions = copy(plan.positions, a.positions);
  in.kv_slots = copy(plan.kv_slots, a.kv_slots);
  in.sample_rows = copy(plan.sample_rows, a.sample_rows);
  in.attention.query_start = copy(plan.query_start, a.query_start);
  in.attention.context_len = copy(plan.context_len, a.context_len);
  in.attention.block_table = a.block_table.Rows(sequences);
  device_.CopyIn(block_table_.data(), in.attention.block_table);
  return in;
}

// Rank i of a stage gets the stream from rank i mod (ranks of the stage before): each of those holds all of it.
absl::Status Runner::ReceiveFromStageBefore(int tokens) {
  const std::vector<int>& before = plan_.stages[rank_.stage - 1];
  return pipeline_.Receive(activations_.views.x.Rows(tokens), before[rank_.tp_rank % before.size()]);
}

absl::Status Runner::SendToStageAfter(int tokens) {
  const std::vector<int>& after = plan_.stages[rank_.stage + 1];
  for (size_t i = rank_.tp_rank; i < after.size(); i += rank_.tp_size) {
    RETURN_IF_ERROR(pipeline_.Send(activations_.views.x.Rows(tokens), after[i]));
  }
  return absl::OkStatus();
}

absl::Status Runner::RunForward(const StepPlan& plan) {
  const int tokens = plan.num_tokens();
  const int bucket = tokens == plan.num_sequences() ? DecodeBucket(tokens, BucketMax()) : 0;
  if (bucket == 0 || plan.sample_rows.empty() || !HasGraph(bucket)) return Forward(*context_, Upload(plan));
  padded_ = PadDecodeStep(plan, bucket);
  const StepInput in = Upload(padded_);
  return device_.Replay(static_cast<uint64_t>(bucket), [&] { return Forward(*context_, in); });
}

absl::Status Runner::RecordGraphs() {
  for (int bucket = 1; bucket <= BucketMax(); bucket = DecodeBucket(bucket + 1, BucketMax())) {
    if (!HasGraph(bucket)) break;
    // Sequences of one token whose keys go nowhere.
    StepPlan nothing;
    nothing.query_start = {0};
    nothing.block_start = {0};
    nothing.sample_rows = {0};
    RETURN_IF_ERROR(RunForward(PadDecodeStep(nothing, bucket)));
    RETURN_IF_ERROR(device_.Synchronize());
    if (bucket == BucketMax()) break;
  }
  return absl::OkStatus();
}

absl::Status Runner::Compute(const StepPlan& plan, StepResult& result) {
  RETURN_IF_ERROR(Check(plan));
  const bool is_last_stage = rank_.stage + 1 == static_cast<int>(plan_.stages.size());
  if (rank_.stage > 0) RETURN_IF_ERROR(ReceiveFromStageBefore(plan.num_tokens()));
  RETURN_IF_ERROR(RunForward(plan));
  if (is_last_stage) {
    QueueCandidates(plan, result);
  } else {
    RETURN_IF_ERROR(SendToStageAfter(plan.num_tokens()));
  }
  return device_.Synchronize();
}

void Runner::QueueCandidates(const StepPlan& plan, StepResult& result) {
  const int64_t rows = static_cast<int64_t>(plan.sample_rows.size());
  if (rows == 0) return;
  const Tensor logits = activations_.views.logits.Rows(rows);
  result.vocab_begin = static_cast<int32_t>(rank_.vocab.begin);
  if (plan.candidates == 0) {
    result.columns = static_cast<int32_t>(logits.cols());
    result.values.resize(rows * logits.cols());
    device_.CopyOut(logits, result.values.data());
    return;
  }
  const int64_t k = std::min<int64_t>(plan.candidates, logits.cols());
  result.columns = static_cast<int32_t>(k);
  result.values.resize(rows * k);
  result.ids.resize(rows * k);
  // Dense [n, k] views at the front of the reserved buffers.
  const Tensor values = MakeTensor(activations_.views.top_values.data, DType::kF32, {rows, k});
  const Tensor ids = MakeTensor(activations_.views.top_ids.data, DType::kI32, {rows, k});
  device_.ops().TopK(logits, values, ids);
  device_.CopyOut(values, result.values.data());
  device_.CopyOut(ids, result.ids.data());
  // CopyOut has filled the host side only after Synchronize; ids become those of the whole vocabulary in the executor.
}

}  // namespace shoal
