#include "tools/offline_bench.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "tools/process_stats.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// A sequence and where its keys and values are.
struct Lane {
  std::vector<int32_t> blocks;
  int64_t length = 0;   // Tokens that have run.
  int32_t next_id = 0;  // Of the next decode step.
};

// One model under measurement.
class OfflineBench {
 public:
  OfflineBench(OfflineModel& model, const OfflineBenchOptions& options)
      : model_(model), options_(options), random_(options.seed), lanes_(options.model.max_sequences) {
    const int64_t blocks = model.plan().kv_blocks / options.model.max_sequences;
    int32_t next = 0;
    for (Lane& lane : lanes_) {
      for (int64_t i = 0; i < blocks; ++i) lane.blocks.push_back(next++);
    }
  }

  // Runs a prompt from its start and returns the seconds.
  absl::StatusOr<double> Prefill(int64_t tokens) {
    lanes_[0].length = 0;
    const std::vector<int32_t> ids = RandomIds(tokens);
    const Clock::time_point start = Clock::now();
    RETURN_IF_ERROR(Extend(lanes_[0], ids));
    return SecondsSince(start);
  }

  absl::StatusOr<SpeedRow> MeasurePrefill(int64_t tokens) {
    SpeedRow row;
    row.prompt = row.tokens = tokens;
    for (int64_t done = 0; done < tokens; done += Chunk()) {
      const int64_t chunk = std::min(Chunk(), tokens - done);
      row.cost += Cost(1, chunk, done, done + chunk == tokens ? 1 : 0);
      ++row.steps;
    }
    ASSIGN_OR_RETURN(row.seconds, Repeat([&] { return Prefill(tokens); }));
    return row;
  }

  // Fills every lane to `depth`: the first by prefill, the others with copies of its blocks. Depths must not fall.
  absl::Status FillTo(int64_t depth) {
    Lane& first = lanes_[0];
    if (depth > first.length) RETURN_IF_ERROR(Extend(first, RandomIds(depth - first.length)));
    const int64_t block_tokens = model_.plan().kv_block_tokens;
    const auto used = static_cast<size_t>((depth + block_tokens - 1) / block_tokens);
    for (Lane& lane : lanes_) {
      if (&lane == &first) continue;
      RETURN_IF_ERROR(model_.CopyKvBlocks(std::span(first.blocks).first(used), std::span(lane.blocks).first(used)));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<SpeedRow> MeasureDecode(int64_t batch, int64_t depth) {
    SpeedRow row;
    row.batch = batch;
    row.depth = depth;
    row.steps = options_.generate;
    row.tokens = batch * row.steps;
    for (int64_t i = 0; i < row.steps; ++i) row.cost += Cost(batch, 1, depth + i, batch);
    ASSIGN_OR_RETURN(row.seconds, Repeat([&] { return Decode(batch, depth); }));
    return row;
  }

  // Back to an empty context.
  void Reset() { lanes_[0].length = 0; }

 private:
  int64_t Chunk() const { return model_.plan().max_step_tokens; }
  StepCost Cost(int64_t sequences, int64_t tokens, int64_t context, int64_t sampled) const {
    const Plan& plan = model_.plan();
    return CostOfStep(plan.shape, plan.formats, model_.rank(), sequences, tokens, context, sampled);
  }

  std::vector<int32_t> RandomIds(int64_t n) {
    std::vector<int32_t> ids(static_cast<size_t>(n));
    for (int32_t& id : ids) id = static_cast<int32_t>(random_() % static_cast<uint64_t>(model_.plan().shape.vocab));
    return ids;
  }

  template <typename Fn>
  absl::StatusOr<Spread> Repeat(Fn once) {
    RETURN_IF_ERROR(once().status());
    std::vector<double> seconds;
    for (int64_t i = 0; i < options_.repeat; ++i) {
      ASSIGN_OR_RETURN(seconds.emplace_back(), once());
    }
    return SpreadOf(seconds);
  }

  StepPlan NewStep() {
    StepPlan step;
    step.step = ++step_;
    step.query_start = step.block_start = {0};
    step.candidates = 1;
    return step;
  }

  // Appends `ids` to the lane's part of the step.
  void AddTokens(const Lane& lane, std::span<const int32_t> ids, bool sample, StepPlan& step) const {
    const int64_t block_tokens = model_.plan().kv_block_tokens;
    int64_t position = lane.length;
    for (const int32_t id : ids) {
      step.ids.push_back(id);
      step.positions.push_back(static_cast<int32_t>(position));
      step.kv_slots.push_back(
          static_cast<int32_t>(lane.blocks[position / block_tokens] * block_tokens + position % block_tokens));
      ++position;
    }
    step.query_start.push_back(step.num_tokens());
    step.context_len.push_back(static_cast<int32_t>(position));
    const int64_t used = (position + block_tokens - 1) / block_tokens;
    step.blocks.insert(step.blocks.end(), lane.blocks.begin(), lane.blocks.begin() + used);
    step.block_start.push_back(static_cast<int32_t>(step.blocks.size()));
    if (sample) step.sample_rows.push_back(step.num_tokens() - 1);
  }

  // Prefill in chunks; the last row of the last one is sampled.
  absl::Status Extend(Lane& lane, const std::vector<int32_t>& ids) {
    for (size_t done = 0; done < ids.size();) {
      const size_t chunk = std::min(static_cast<size_t>(Chunk()), ids.size() - done);
      StepPlan step = NewStep();
      AddTokens(lane, std::span(ids).subspan(done, chunk), done + chunk == ids.size(), step);
      RETURN_IF_ERROR(model_.Run(step).status());
      lane.length += static_cast<int64_t>(chunk);
      done += chunk;
    }
    return absl::OkStatus();
  }

  // `generate` steps of the first `batch` lanes from `depth` on, each taking the likeliest token; returns the seconds.
  absl::StatusOr<double> Decode(int64_t batch, int64_t depth) {
    const std::span<Lane> lanes = std::span(lanes_).first(static_cast<size_t>(batch));
    const std::vector<int32_t> ids = RandomIds(batch);
    for (size_t i = 0; i < lanes.size(); ++i) {
      lanes[i].length = depth;
      lanes[i].next_id = ids[i];
    }
    const Clock::time_point start = Clock::now();
    for (int64_t i = 0; i < options_.generate; ++i) {
      StepPlan step = NewStep();
      for (const Lane& lane : lanes) AddTokens(lane, std::span(&lane.next_id, 1), /*sample=*/true, step);
      ASSIGN_OR_RETURN(const StepResult result, model_.Run(step));
      for (size_t j = 0; j < lanes.size(); ++j) {
        lanes[j].next_id = result.ids[j];
        ++lanes[j].length;
      }
    }
    const double seconds = SecondsSince(start);
    lanes[0].length = depth;
    return seconds;
  }

  OfflineModel& model_;
  const OfflineBenchOptions& options_;
  std::mt19937_64 random_;
  std::vector<Lane> lanes_;
  uint64_t step_ = 0;
};

// How many sequences there are at once and how long they become.
void FillIn(OfflineBenchOptions& options) {
  std::sort(options.depths.begin(), options.depths.end());
  int64_t sequences = 1, context = 1;
  for (const int64_t prompt : options.prompts) context = std::max(context, prompt);
  if (options.generate > 0) {
    for (const int64_t batch : options.batches) sequences = std::max(sequences, batch);
    for (const int64_t depth : options.depths) context = std::max(context, depth + options.generate);
  }
  options.model.max_sequences = static_cast<int>(sequences);
  options.model.max_context = context;
}

absl::Status CheckPositions(const OfflineBenchOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(options.model.model_dir));
  if (options.model.max_context <= config.max_position_embeddings) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("a sequence of ", options.model.max_context, " tokens is asked for, but ",
                                           options.model.model_dir, " has ", config.max_position_embeddings,
                                           " positions; use a smaller --prompt, or --depth and --generate"));
}

}  // namespace

Spread SpeedRow::tokens_per_second() const {
  const auto n = static_cast<double>(tokens);
  return {n / seconds.median, n / seconds.max, n / seconds.min};
}

bool MultipliesInt8(const FormatPlan& formats) {
  return IsQuantized(formats.qkv) && IsQuantized(formats.attention_out) && IsQuantized(formats.gate_up) &&
         IsQuantized(formats.down) && IsQuantized(formats.lm_head);
}

absl::StatusOr<OfflineReport> RunOfflineBench(OfflineBenchOptions options) {
  FillIn(options);
  RETURN_IF_ERROR(CheckPositions(options));
  ASSIGN_OR_RETURN(const std::unique_ptr<OfflineModel> model, OfflineModel::Load(options.model));
  OfflineReport report;
  report.architecture = model->config().architecture;
  report.plan = model->plan();
  report.device = model->device().description();
  report.load_seconds = model->load_seconds();
  ASSIGN_OR_RETURN(report.ready_seconds, SecondsSinceProcessStart());
  OfflineBench bench(*model, options);
  RETURN_IF_ERROR(bench.Prefill(options.prompts.empty() ? 1 : options.prompts[0]).status());
  ASSIGN_OR_RETURN(report.first_token_seconds, SecondsSinceProcessStart());
  for (const int64_t prompt : options.prompts) {
    ASSIGN_OR_RETURN(report.rows.emplace_back(), bench.MeasurePrefill(prompt));
  }
  bench.Reset();
  for (const int64_t depth : options.generate > 0 ? options.depths : std::vector<int64_t>{}) {
    RETURN_IF_ERROR(bench.FillTo(depth));
    for (const int64_t batch : options.batches) {
      ASSIGN_OR_RETURN(report.rows.emplace_back(), bench.MeasureDecode(batch, depth));
    }
  }
  report.memory = model->device().ledger();
  ASSIGN_OR_RETURN(report.peak_resident_bytes, PeakResidentBytes());
  options.rates.threads = options.model.threads;
  options.rates.isa = options.model.isa;
  ASSIGN_OR_RETURN(report.rates, MeasureMachineRates(options.rates));
  return report;
}

}  // namespace shoal
