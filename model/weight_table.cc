#include "model/weight_table.h"

#include <array>

#include "base/str_cat.h"

namespace shoal {
namespace {

using T = WeightTarget;
using N = WeightSize;
using S = WeightSplit;
using C = WeightCondition;

constexpr std::array<WeightRow, 17> kTable = {{
    // name, target, bias, rows, cols, split of rows, split of columns, condition
    {kEmbeddingName, T::kEmbedding, false, N::kVocab, N::kHidden, S::kWhole, S::kWhole, C::kAlways},
    {"model.layers.{}.input_layernorm.weight", T::kAttentionNorm, false, N::kHidden, N::kOne, S::kWhole, S::kWhole,
     C::kAlways},
    {"model.layers.{}.self_attn.q_proj.weight", T::kQkv, false, N::kQueryWidth, N::kHidden, S::kQueryHeads, S::kWhole,
     C::kAlways},
    {"model.layers.{}.self_attn.k_proj.weight", T::kQkv, false, N::kKvWidth, N::kHidden, S::kKvHeads, S::kWhole,
     C::kAlways},
    {"model.layers.{}.self_attn.v_proj.weight", T::kQkv, false, N::kKvWidth, N::kHidden, S::kKvHeads, S::kWhole,
     C::kAlways},
    {"model.layers.{}.self_attn.q_proj.bias", T::kQkv, true, N::kQueryWidth, N::kOne, S::kQueryHeads, S::kWhole,
     C::kQkvBias},
    {"model.layers.{}.self_attn.k_proj.bias", T::kQkv, true, N::kKvWidth, N::kOne, S::kKvHeads, S::kWhole, C::kQkvBias},
    {"model.layers.{}.self_attn.v_proj.bias", T::kQkv, true, N::kKvWidth, N::kOne, S::kKvHeads, S::kWhole, C::kQkvBias},
    {"model.layers.{}.self_attn.q_norm.weight", T::kQNorm, false, N::kHeadDim, N::kOne, S::kWhole, S::kWhole,
     C::kQkNorm},
    {"model.layers.{}.self_attn.k_norm.weight", T::kKNorm, false, N::kHeadDim, N::kOne, S::kWhole, S::kWhole,
     C::kQkNorm},
    {"model.layers.{}.self_attn.o_proj.weight", T::kAttentionOut, false, N::kHidden, N::kQueryWidth, S::kWhole,
     S::kQueryHeads, C::kAlways},
    {"model.layers.{}.post_attention_layernorm.weight", T::kFfnNorm, false, N::kHidden, N::kOne, S::kWhole, S::kWhole,
     C::kAlways},
    {"model.layers.{}.mlp.gate_proj.weight", T::kGateUp, false, N::kFfn, N::kHidden, S::kFfn, S::kWhole, C::kAlways},
    {"model.layers.{}.mlp.up_proj.weight", T::kGateUp, false, N::kFfn, N::kHidden, S::kFfn, S::kWhole, C::kAlways},
    {"model.layers.{}.mlp.down_proj.weight", T::kDown, false, N::kHidden, N::kFfn, S::kWhole, S::kFfn, C::kAlways},
    {"model.norm.weight", T::kFinalNorm, false, N::kHidden, N::kOne, S::kWhole, S::kWhole, C::kAlways},
    {kHeadName, T::kHead, false, N::kVocab, N::kHidden, S::kVocab, S::kWhole, C::kAlways},
}};

int64_t SizeIn(WeightSize size, const ModelShape& shape) {
  switch (size) {
    case N::kOne:
      return 1;
    case N::kHidden:
      return shape.hidden;
    case N::kHeadDim:
      return shape.head_dim;
    case N::kQueryWidth:
      return shape.heads * shape.head_dim;
    case N::kKvWidth:
      return shape.kv_heads * shape.head_dim;
    case N::kFfn:
      return shape.ffn;
    case N::kVocab:
      return shape.vocab;
  }
  return 0;
}

bool Has(const ModelShape& shape, WeightCondition condition) {
  return condition == C::kAlways || (condition == C::kQkvBias ? shape.qkv_bias : shape.qk_norm);
}

ModelTensor Expand(const WeightRow& row, int layer, const ModelShape& shape) {
  std::string name(row.name);
  if (row.per_layer()) name.replace(name.find("{}"), 2, StrCat(layer));
  return {&row, layer, std::move(name), SizeIn(row.rows, shape), SizeIn(row.cols, shape)};
}

Range RangeOf(WeightSplit split, int64_t whole, const ModelShape& shape, const RankPlan& rank) {
  const int64_t d = shape.head_dim;
  switch (split) {
    case S::kWhole:
      return {0, whole};
    case S::kQueryHeads:
      return {rank.heads.begin * d, rank.heads.end * d};
    case S::kKvHeads:
      return {rank.kv_heads.begin * d, rank.kv_heads.end * d};
    case S::kFfn:
      return rank.ffn;
    case S::kVocab:
      return rank.vocab;
  }
  return {};
}

}  // namespace

std::vector<ModelTensor> ModelTensors(const ModelShape& shape) {
  std::vector<ModelTensor> tensors;
  // The table has the layers' rows in one run.
  size_t first = 0, last = 0;
  while (!kTable[first].per_layer()) ++first;
  for (last = first; kTable[last].per_layer();) ++last;
  const auto add = [&](size_t begin, size_t end, int layer) {
    for (size_t i = begin; i < end; ++i) {
      if (Has(shape, kTable[i].condition)) tensors.push_back(Expand(kTable[i], layer, shape));
    }
  };
  add(0, first, -1);
  for (int layer = 0; layer < shape.layers; ++layer) add(first, last, layer);
  add(last, kTable.size(), -1);
  return tensors;
}

std::vector<ModelTensor> TensorsOf(const ModelShape& shape, WeightTarget target, int layer, bool bias) {
  std::vector<ModelTensor> tensors;
  for (const WeightRow& row : kTable) {
    if (row.target == target && row.bias == bias && row.per_layer() == (layer >= 0) && Has(shape, row.condition)) {
      tensors.push_back(Expand(row, layer, shape));
    }
  }
  return tensors;
}

Range RowsOf(const ModelTensor& tensor, const ModelShape& shape, const RankPlan& rank) {
  return RangeOf(tensor.row->split_rows, tensor.rows, shape, rank);
}

Range ColsOf(const ModelTensor& tensor, const ModelShape& shape, const RankPlan& rank) {
  return RangeOf(tensor.row->split_cols, tensor.cols, shape, rank);
}

WeightFormat FormatOf(WeightTarget target, const FormatPlan& formats) {
  switch (target) {
    case T::kQkv:
      return formats.qkv;
    case T::kAttentionOut:
      return formats.attention_out;
    case T::kGateUp:
      return formats.gate_up;
    case T::kDown:
      return formats.down;
    case T::kHead:
      return formats.lm_head;
    case T::kEmbedding:
      return formats.embedding;
    default:
      return WeightFormat::kF32;
  }
}

int64_t GroupOf(WeightTarget target, const ModelShape& shape) {
  if (target == T::kAttentionOut) return AttentionGroup(shape);
  if (target == T::kDown) return FfnGroup(shape);
  return HiddenGroup(shape);
}

std::string_view WeightTargetName(WeightTarget target) {
  switch (target) {
    case T::kEmbedding:
      return "embedding";
    case T::kFinalNorm:
      return "final_norm";
    case T::kHead:
      return "lm_head";
    case T::kAttentionNorm:
      return "attention_norm";
    case T::kFfnNorm:
      return "ffn_norm";
    case T::kQNorm:
      return "q_norm";
    case T::kKNorm:
      return "k_norm";
    case T::kQkv:
      return "qkv";
    case T::kAttentionOut:
      return "attention_out";
    case T::kGateUp:
      return "gate_up";
    case T::kDown:
      return "down";
  }
  return "unknown";
}

}  // namespace shoal
