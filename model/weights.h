// A rank's weights in device memory.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "model/config.h"
#include "model/read_counter.h"
#include "parallel/plan.h"

namespace shoal {

struct LayerWeights {
  Tensor attention_norm, ffn_norm;  // [E]
  Tensor q_norm, k_norm;            // [D]; empty without qk_norm.
  Weight qkv;  // [H*D + 2*K*D, E]: q's rows, then k's, then v's, of this rank's heads; with bias if the model has one.
  Weight attention_out;  // [E, H*D]: this rank's columns.
  Weight gate_up;        // [2F, E]: gate's rows, then up's, of this rank's range.
  Weight down;           // [E, F]: this rank's columns.
};

struct DecoderWeights {
  Tensor embedding;                  // [V, E]; empty unless the first stage.
  std::vector<LayerWeights> layers;  // This rank's, in order.
  Tensor final_norm;                 // [E]; empty unless the last stage.
  Weight lm_head;                    // [rows of this rank, E]; unset unless the last stage.
};

// Opens the files of `model_dir` (safetensors, sharded or not; a folder prepared by PrepareModel loads without
// quantizing), reads only this rank's slices, quantizes where plan.formats asks for it and puts all in device memory.
// Groups and scales are those of the whole matrix, so that a slice has the very numbers it has in any other plan.
// Errors: kNotFound, kInvalidArgument (file, tensor, expected and found shape or type), kResourceExhausted (budget);
// what `progress` returns.
absl::StatusOr<DecoderWeights> LoadWeights(const std::string& model_dir, const ModelConfig& config, const Plan& plan,
                                           const RankPlan& rank, Device& device,
                                           const LoadProgress& progress = nullptr);

}  // namespace shoal
