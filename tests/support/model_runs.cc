#include "tests/support/model_runs.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/status_macros.h"

namespace shoal {
namespace {

// A prompt on its way through the model.
struct Progress {
  const Prompt* prompt;
  std::vector<int32_t> blocks;
  int done = 0;
  size_t wanted = 0;  // First entry of prompt->positions whose logits have not come.
};

void AddChunk(const ClusterView& view, Progress& p, int chunk, StepPlan& plan, std::vector<Progress*>& row_owner) {
  const int block_tokens = view.plan.kv_block_tokens;
  const int end = std::min<int>(p.done + chunk, static_cast<int>(p.prompt->ids.size()));
  for (; p.done < end; ++p.done) {
    if (p.wanted < p.prompt->positions.size() && p.prompt->positions[p.wanted] == p.done) {
      plan.sample_rows.push_back(plan.num_tokens());
      row_owner.push_back(&p);
      ++p.wanted;
    }
    plan.ids.push_back(p.prompt->ids[p.done]);
    plan.positions.push_back(p.done);
    plan.kv_slots.push_back(p.blocks[p.done / block_tokens] * block_tokens + p.done % block_tokens);
  }
  plan.query_start.push_back(plan.num_tokens());
  plan.context_len.push_back(p.done);
  plan.blocks.insert(plan.blocks.end(), p.blocks.begin(), p.blocks.end());
  plan.block_start.push_back(static_cast<int32_t>(plan.blocks.size()));
}

}  // namespace

absl::StatusOr<std::vector<std::vector<std::vector<float>>>> RunPrompts(const ClusterView& view,
                                                                        const std::vector<Prompt>& prompts, int chunk) {
  std::vector<Progress> progress(prompts.size());
  int next_block = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    progress[i].prompt = &prompts[i];
    for (size_t t = 0; t < prompts[i].ids.size(); t += view.plan.kv_block_tokens) {
      progress[i].blocks.push_back(next_block++);
    }
  }
  SHOAL_CHECK_LE(next_block, view.plan.kv_blocks);
  std::vector<std::vector<std::vector<float>>> logits(prompts.size());
  for (uint64_t step = 1;; ++step) {
    StepPlan plan;
    plan.step = step;
    plan.query_start = plan.block_start = {0};
    std::vector<Progress*> row_owner;
    for (Progress& p : progress) {
      if (p.done < static_cast<int>(p.prompt->ids.size())) AddChunk(view, p, chunk, plan, row_owner);
    }
    if (plan.ids.empty()) return logits;
    RETURN_IF_ERROR(view.executor.Submit(plan));
    ASSIGN_OR_RETURN(StepOutput output, view.executor.Wait());
    SHOAL_CHECK_EQ(output.rows.size(), row_owner.size());
    for (size_t i = 0; i < row_owner.size(); ++i) {
      logits[row_owner[i] - progress.data()].push_back(std::move(output.rows[i].logits));
    }
  }
}

absl::StatusOr<std::vector<std::vector<float>>> RunPrompt(const ClusterView& view, const Prompt& prompt, int chunk,
                                                          int first_block) {
  // Blocks before first_block are taken by a prompt of no tokens that never runs.
  Prompt shifted = prompt;
  Progress p{.prompt = &shifted, .blocks = {}, .done = 0, .wanted = 0};
  for (size_t t = 0; t < prompt.ids.size(); t += view.plan.kv_block_tokens) {
    p.blocks.push_back(first_block + static_cast<int>(p.blocks.size()));
  }
  std::vector<std::vector<float>> logits;
  for (uint64_t step = 1; p.done < static_cast<int>(prompt.ids.size()); ++step) {
    StepPlan plan;
    plan.step = step;
    plan.query_start = plan.block_start = {0};
    std::vector<Progress*> row_owner;
    AddChunk(view, p, chunk, plan, row_owner);
    RETURN_IF_ERROR(view.executor.Submit(plan));
    ASSIGN_OR_RETURN(StepOutput output, view.executor.Wait());
    for (StepOutput::Row& row : output.rows) logits.push_back(std::move(row.logits));
  }
  return logits;
}

std::vector<Prompt> DrawPrompts(const std::vector<int>& lengths, int wanted, int vocab, uint32_t seed) {
  std::vector<Prompt> prompts;
  for (const int length : lengths) {
    Prompt prompt;
    for (int i = 0; i < length; ++i) {
      seed = seed * 1664525 + 1013904223;
      prompt.ids.push_back(static_cast<int32_t>((seed >> 8) % vocab));
      if (i >= length - wanted) prompt.positions.push_back(i);
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

absl::StatusOr<Logits> RunPromptsOn(const LocalClusterOptions& options, const std::vector<Prompt>& prompts, int chunk) {
  Logits logits;
  RETURN_IF_ERROR(RunLocalCluster(options, [&](const ClusterView& view) -> absl::Status {
    ASSIGN_OR_RETURN(logits, RunPrompts(view, prompts, chunk));
    return absl::OkStatus();
  }));
  return logits;
}

std::string SourcePath(const std::string& relative) { return std::string(SHOAL_SOURCE_DIR) + "/" + relative; }

}  // namespace shoal
