#include "engine/world_executor.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "parallel/backoff.h"

namespace shoal {
namespace {

constexpr double kForgetSeconds = 1.0;  // Time constant of StageLoad::busy_fraction.
constexpr int64_t kShutdownSecondsMax = 5;

}  // namespace

WorldExecutor::WorldExecutor(World& world, const Plan& plan, Runner& runner)
    : world_(world),
      plan_(plan),
      runner_(runner),
      wait_policy_(BackoffFor(world.local_size())),
      loads_(plan.stages.size()),
      recent_(plan.stages.size()) {}

int WorldExecutor::depth() const {
  const int stages = static_cast<int>(plan_.stages.size());
  return stages == 1 ? 1 : stages + 1;
}

absl::Status WorldExecutor::Submit(const StepPlan& plan) {
  if (world_.size() > 1) {
    const std::vector<std::byte> bytes = EncodeStepPlan(plan);
    for (int rank = 1; rank < world_.size(); ++rank) RETURN_IF_ERROR(world_.Send(rank, Channel::kPlan, bytes));
    results_unread_ += world_.size() - 1;
  }
  Step step;
  step.step = plan.step;
  step.rows = static_cast<int>(plan.sample_rows.size());
  step.candidates = plan.candidates;
  step.after_idle = steps_.empty();
  step.parts_missing = static_cast<int>(plan_.stages.back().size());
  step.parts.resize(plan_.stages.back().size());
  steps_.push_back(std::move(step));
  return Take(runner_.Run(plan));
}

absl::StatusOr<StepOutput> WorldExecutor::Wait() {
  SHOAL_CHECK(!steps_.empty());
  Backoff backoff(wait_policy_);
  while (steps_.front().parts_missing > 0) {
    ASSIGN_OR_RETURN(std::optional<World::Message> message, world_.TryReceive(Channel::kResult));
    if (!message.has_value()) {
      backoff.Pause();
      continue;
    }
    backoff = Backoff(wait_policy_);
    RETURN_IF_ERROR(TakeMessage(*message));
  }
  StepOutput output = Merge(steps_.front());
  steps_.pop_front();
  return output;
}

absl::Status WorldExecutor::TakeMessage(const World::Message& message) {
  --results_unread_;
  ASSIGN_OR_RETURN(StepResult result, DecodeStepResult(message.bytes));
  if (result.rank != message.from) {
    return absl::InternalError(absl::StrCat("rank ", message.from, " sent a result of rank ", result.rank));
  }
  return Take(std::move(result));
}

absl::Status WorldExecutor::Take(StepResult result) {
  if (!result.status.ok()) {
    return absl::Status(result.status.code(), absl::StrCat("rank ", result.rank, ": ", result.status.message()));
  }
  const auto step = std::find_if(steps_.begin(), steps_.end(), [&](const Step& s) { return s.step == result.step; });
  // Results of earlier stages may come after the last stage's, when their step is already gone.
  Account(result, step == steps_.end() ? false : step->after_idle);
  const RankPlan& rank = plan_.ranks[result.rank];
  if (rank.stage + 1 != static_cast<int>(plan_.stages.size())) return absl::OkStatus();
  if (step == steps_.end() || step->parts_missing == 0) {
    return absl::InternalError(absl::StrCat("rank ", result.rank, " answered step ", result.step, " twice"));
  }
  const size_t values = static_cast<size_t>(step->rows) * result.columns;
  if (result.values.size() != values || result.ids.size() != (step->candidates == 0 ? 0 : values)) {
    return absl::InternalError(absl::StrCat("rank ", result.rank, ": wrong result size for step ", result.step));
  }
  step->parts[rank.tp_rank] = std::move(result);
  --step->parts_missing;
  return absl::OkStatus();
}

void WorldExecutor::Account(const StepResult& result, bool after_idle) {
  const RankPlan& rank = plan_.ranks[result.rank];
  if (rank.tp_rank != 0) return;  // The ranks of a stage go in step: one stands for all.
  const double busy = result.busy_ns * 1e-9;
  // Time without any step in flight says nothing about the pipeline.
  const double wall = after_idle ? busy : std::max(result.wall_ns * 1e-9, busy);
  StageLoad& load = loads_[rank.stage];
  load.busy_seconds += busy;
  load.wall_seconds += wall;
  auto& [recent_busy, recent_wall] = recent_[rank.stage];
  const double keep = std::exp(-wall / kForgetSeconds);
  recent_busy = recent_busy * keep + busy;
  recent_wall = recent_wall * keep + wall;
  load.busy_fraction = recent_wall > 0 ? recent_busy / recent_wall : 0;
}

StepOutput WorldExecutor::Merge(const Step& step) const {
  StepOutput output;
  output.step = step.step;
  output.rows.resize(step.rows);
  for (int i = 0; i < step.rows; ++i) {
    StepOutput::Row& row = output.rows[i];
    if (step.candidates == 0) {
      for (const StepResult& part : step.parts) {
        const float* values = part.values.data() + static_cast<size_t>(i) * part.columns;
        row.logits.insert(row.logits.end(), values, values + part.columns);
      }
      continue;
    }
    std::vector<std::pair<float, int32_t>> all;
    for (const StepResult& part : step.parts) {
      for (int j = 0; j < part.columns; ++j) {
        const size_t at = static_cast<size_t>(i) * part.columns + j;
        all.emplace_back(part.values[at], part.ids[at] + part.vocab_begin);
      }
    }
    const auto better = [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    };
    std::sort(all.begin(), all.end(), better);
    all.resize(std::min<size_t>(all.size(), step.candidates));
    for (const auto& [value, id] : all) {
      row.logits.push_back(value);
      row.ids.push_back(id);
    }
  }
  return output;
}

std::vector<StageLoad> WorldExecutor::stage_loads() const { return loads_; }

absl::Status WorldExecutor::Shutdown() {
  SHOAL_CHECK(steps_.empty());
  StepPlan plan;
  plan.shutdown = true;
  const std::vector<std::byte> bytes = EncodeStepPlan(plan);
  for (int rank = 1; rank < world_.size(); ++rank) RETURN_IF_ERROR(world_.Send(rank, Channel::kPlan, bytes));
  // A rank can leave MPI only once its last result has been read.
  Backoff backoff(wait_policy_);
  while (results_unread_ > 0) {
    ASSIGN_OR_RETURN(std::optional<World::Message> message, world_.TryReceive(Channel::kResult));
    if (message.has_value()) {
      RETURN_IF_ERROR(TakeMessage(*message));
    } else if (backoff.waited_us() > kShutdownSecondsMax * 1'000'000) {
      return absl::UnavailableError(absl::StrCat(results_unread_, " results of the last steps did not come within ",
                                                 kShutdownSecondsMax, " s; a rank is stuck"));
    } else {
      backoff.Pause();
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
