// The forward pass of a Llama-like decoder over this rank's shard, written once for every back end and every plan.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "model/activations.h"
#include "model/config.h"
#include "model/weights.h"
#include "parallel/communicator.h"
#include "parallel/plan.h"

namespace shoal {

// One step's inputs in device memory, cut to the step's sizes. T tokens, S sequences, n sampled rows.
struct StepInput {
  Tensor ids, positions, kv_slots;  // [T] i32; ids only on the first stage.
  AttentionPlan attention;
  Tensor sample_rows;  // [n] i32: rows whose logits are wanted; n may be 0.
};

// What a pass works on. Views only; the Runner owns everything behind them.
struct DecoderContext {
  const ModelConfig& config;
  const RankPlan& rank;
  const DecoderWeights& weights;
  HeadMap heads;
  Tensor inv_freq;         // [D / 2]
  std::vector<KvView> kv;  // One per layer of this rank.
  Activations act;
  Ops& ops;
  Communicator& tp;  // The ranks of this stage.
};

// Queues this rank's layers. On the first stage the residual stream starts from the ids; on a later one context.act.x
// holds what the stage before sent. Leaves this rank's logits of the sampled rows in context.act.logits on the last
// stage (nothing if n is 0), and on others the stream in context.act.x, complete for the next stage.
// Errors: what the Communicator reports.
absl::Status Forward(DecoderContext& context, const StepInput& in);

}  // namespace shoal
