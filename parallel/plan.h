// Who holds what: every rank's layers, heads, widths and bytes. Made by the planner, read by everyone else.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"

namespace shoal {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// The numbers of a decoder that decide shards and bytes.
struct ModelShape {
  int layers = 0;
  int64_t hidden = 0;    // E
  int heads = 0;         // Query heads, whole model.
  int kv_heads = 0;      // KV heads, whole model.
  int64_t head_dim = 0;  // D
  int64_t ffn = 0;       // FFN width, whole model.
  int64_t vocab = 0;     // V
  bool qkv_bias = false;
  bool qk_norm = false;
};

// The format of every tensor class. Norm gains and biases are f32. The embedding is f32 or bf16.
struct FormatPlan {
  WeightFormat qkv = WeightFormat::kInt8;
  WeightFormat attention_out = WeightFormat::kInt8;
  WeightFormat gate_up = WeightFormat::kInt8;
  WeightFormat down = WeightFormat::kInt8;
  WeightFormat lm_head = WeightFormat::kInt8;
  WeightFormat embedding = WeightFormat::kBF16;
  DType kv = DType::kF16;  // kF32, kF16 or kI8
};

// The embedding's format where only that of the matrices is given. It is looked up and not multiplied, so int8 and int4
// do not apply, and less than bf16 would save little; f32 throughout means f32 here, too.
inline WeightFormat EmbeddingFormatBeside(WeightFormat matrices) {
  return matrices == WeightFormat::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16;
}

// One stage of an explicit plan.
struct StageSpec {
  int ranks = 1;               // Tensor-parallel ranks.
  int layers = 0;              // 0: share what the stages with a number leave, by cost.
  std::vector<double> shares;  // Optional weights of the ranks' shares of heads and widths; empty: equal.
};

struct PlanRequest {
  ModelShape shape;
  FormatPlan formats;
  int ranks = 1;
  std::vector<StageSpec> stages;       // Empty: automatic, from the budgets.
  std::vector<int64_t> memory_budget;  // Bytes per rank: one entry for all, or one each; 0: no limit.
  int64_t reserved_bytes = 0;          // Per rank, kept free of the budget for the device's context and libraries.
  int64_t workspace_bytes = 0;         // Per rank, of the device's own for its ops; counted with the activations.
  int kv_block_tokens = 32;            // B
  int64_t kv_blocks = 0;  // 0: as many as the smallest budget holds (or kv_tokens_default without a budget).
  int64_t kv_tokens_default = 16384;  // KV tokens when neither kv_blocks nor a budget is given.
  int max_step_tokens = 512;          // T: tokens of one step at most (prefill chunk + decode).
  int max_sequences = 64;             // Sequences running at once, S at most.
  int64_t max_context = 0;            // Tokens of one sequence at most.
};

// Bytes of one rank, by kind.
struct RankMemory {
  int64_t weights = 0;
  int64_t kv = 0;
  int64_t activations = 0;
  int64_t communication = 0;
  int64_t reserved = 0;
  int64_t budget = 0;  // 0: no limit.
  int64_t total() const { return weights + kv + activations + communication + reserved; }
};

struct RankPlan {
  int rank = 0;  // In the world.
  int stage = 0;
  int tp_rank = 0;  // In the stage.
  int tp_size = 1;
  Range layers;                // Of the whole model.
  Range heads;                 // Query heads.
  Range kv_heads;              // KV heads its query heads read; neighbours may hold the same one.
  Range ffn;                   // Columns of down, rows of gate and of up.
  Range vocab;                 // Rows of the head; empty unless the last stage.
  bool has_embedding = false;  // First stage: every rank holds the whole table.
  RankMemory memory;
  double cost = 0;  // Weight bytes a decode step reads: the planner's measure of time.
};

struct Plan {
  ModelShape shape;
  FormatPlan formats;
  std::vector<RankPlan> ranks;           // By rank in the world.
  std::vector<std::vector<int>> stages;  // World ranks of each stage, by tp_rank.
  int kv_block_tokens = 0;
  int64_t kv_blocks = 0;
  int max_step_tokens = 0;
  int max_sequences = 0;
  int64_t max_context = 0;
  bool automatic = false;

  int64_t kv_tokens() const { return kv_blocks * kv_block_tokens; }
};

// Attention geometry of a rank.
HeadMap HeadsOf(const ModelShape& shape, const RankPlan& rank);

// Columns at which `attention_out` and `down` may be cut, and their activation groups.
int64_t AttentionGroup(const ModelShape& shape);  // Divides head_dim.
int64_t FfnGroup(const ModelShape& shape);        // Divides ffn.
int64_t HiddenGroup(const ModelShape& shape);     // Of q/k/v, gate/up and the head.

// Which ranks send the residual stream to which, from stage to stage: sender and receiver.
std::vector<std::pair<int, int>> PipelineHops(const Plan& plan);

// Bytes of the activations of one rank (see model/activations.h), so that planner and runner agree.
int64_t ActivationBytes(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank, int max_step_tokens,
                        int max_sequences, int64_t max_context, int kv_block_tokens);

// Makes the plan, or says in one sentence why there is none, with the numbers and what to change.
// Errors: kInvalidArgument (request cannot be cut so), kResourceExhausted (does not fit the budgets).
absl::StatusOr<Plan> MakePlan(const PlanRequest& request);

}  // namespace shoal
