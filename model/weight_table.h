// The tensors of a decoder as a table: name in the files, size, how ranks share it, where it goes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/weight.h"
#include "model/config.h"
#include "parallel/plan.h"

namespace shoal {

// The matrix or vector of DecoderWeights that a tensor becomes, or a part of.
enum class WeightTarget : uint8_t {
  kEmbedding,
  kFinalNorm,
  kHead,
  kAttentionNorm,
  kFfnNorm,
  kQNorm,
  kKNorm,
  kQkv,
  kAttentionOut,
  kGateUp,
  kDown,
};

// What the ranks of one stage divide among themselves.
enum class WeightSplit : uint8_t { kWhole, kQueryHeads, kKvHeads, kFfn, kVocab };

// A size, in letters of ModelShape.
enum class WeightSize : uint8_t { kOne, kHidden, kHeadDim, kQueryWidth, kKvWidth, kFfn, kVocab };

// Models that have the tensor.
enum class WeightCondition : uint8_t { kAlways, kQkvBias, kQkNorm };

// One row of the table.
struct WeightRow {
  std::string_view name;  // "{}" stands for the layer; without it the tensor occurs once.
  WeightTarget target;
  bool bias;        // Added to the target's rows instead of being some of them.
  WeightSize rows;  // Sizes in the file: [rows, cols], or [rows] where cols is kOne.
  WeightSize cols;
  WeightSplit split_rows;
  WeightSplit split_cols;
  WeightCondition condition;

  bool per_layer() const { return name.find("{}") != std::string_view::npos; }
  bool vector() const { return cols == WeightSize::kOne; }
};

// One tensor of one model.
struct ModelTensor {
  const WeightRow* row = nullptr;
  int layer = -1;    // -1: not of a layer.
  std::string name;  // In the files.
  int64_t rows = 0;
  int64_t cols = 0;  // 1 for vectors.
};

// All tensors of a model, layer by layer, parts of one target in the order in which they are stacked. The head is
// listed under its own name also where it is tied to the embedding.
std::vector<ModelTensor> ModelTensors(const ModelShape& shape);

// Those of one target in one layer (-1 outside of layers), in order, biases left out or alone.
std::vector<ModelTensor> TensorsOf(const ModelShape& shape, WeightTarget target, int layer, bool bias);

// The rows and columns of the whole tensor that `rank` holds.
Range RowsOf(const ModelTensor& tensor, const ModelShape& shape, const RankPlan& rank);
Range ColsOf(const ModelTensor& tensor, const ModelShape& shape, const RankPlan& rank);

// The plan's format of a matrix; norms are f32.
WeightFormat FormatOf(WeightTarget target, const FormatPlan& formats);

// The activation group of a matrix of the whole model, see kernels/weight.h.
int64_t GroupOf(WeightTarget target, const ModelShape& shape);

// For messages and prepared folders: "qkv", "attention_out", ...
std::string_view WeightTargetName(WeightTarget target);

inline constexpr std::string_view kEmbeddingName = "model.embed_tokens.weight";
inline constexpr std::string_view kHeadName = "lm_head.weight";

}  // namespace shoal
