// The working memory of a forward pass, reserved once before serving.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"
#include "parallel/activation_layout.h"
#include "parallel/plan.h"

namespace shoal {

// Buffers for the largest step; Rows(T) cuts them to one step's. Sizes: parallel/activation_layout.h, which the planner
// counts with.
struct Activations {
  // Inputs of a step.
  Tensor ids, positions, kv_slots;  // [T] i32
  Tensor query_start;               // [S + 1] i32
  Tensor context_len;               // [S] i32
  Tensor block_table;               // [S, max_blocks] i32
  Tensor sample_rows;               // [S] i32
  // The stream.
  Tensor x;             // [T, E] residual stream
  Tensor delta;         // [T, E] f64: a block's output before it is added
  Activation h;         // [T, E] a block's normalised input
  Tensor qkv;           // [T, (H + 2K)*D]
  Activation attended;  // [T, H*D]
  Tensor rope;          // [T, D]
  Tensor gate_up;       // [T, 2F]
  Activation ffn;       // [T, F]
  // Last stage only.
  Tensor last_x;      // [S, E]
  Tensor last_delta;  // [S, E] f64
  Activation last_h;  // [S, E]
  Tensor logits;      // [S, V / R]
  Tensor top_values;  // [S, kCandidatesMax]
  Tensor top_ids;     // [S, kCandidatesMax] i32

  // The stream's buffers cut to T rows (inputs and last-stage buffers are left whole).
  Activations Rows(int64_t tokens) const;
};

struct OwnedActivations {
  Activations views;
  std::unique_ptr<Buffer> buffer;
};

// Errors: kResourceExhausted if the budget is too small.
absl::StatusOr<OwnedActivations> AllocateActivations(const Plan& plan, const RankPlan& rank, Device& device);

}  // namespace shoal
