#include "model/gguf_tensors.h"

#include <array>
#include <utility>

#include "base/str_cat.h"

namespace shoal {
namespace {

struct NamePair {
  std::string_view gguf;
  std::string_view hugging_face;
};

constexpr std::string_view kGgufLayer = "blk.";
constexpr std::string_view kHuggingFaceLayer = "model.layers.";

// Outside of the layers.
constexpr std::array<NamePair, 3> kNames = {{{"token_embd.weight", "model.embed_tokens.weight"},
                                             {"output_norm.weight", "model.norm.weight"},
                                             {"output.weight", "lm_head.weight"}}};

// Of a layer, without its number in front and ".weight" or ".bias" behind.
constexpr std::array<NamePair, 11> kLayerNames = {{{"attn_norm", "input_layernorm"},
                                                   {"attn_q", "self_attn.q_proj"},
                                                   {"attn_k", "self_attn.k_proj"},
                                                   {"attn_v", "self_attn.v_proj"},
                                                   {"attn_output", "self_attn.o_proj"},
                                                   {"attn_q_norm", "self_attn.q_norm"},
                                                   {"attn_k_norm", "self_attn.k_norm"},
                                                   {"ffn_norm", "post_attention_layernorm"},
                                                   {"ffn_gate", "mlp.gate_proj"},
                                                   {"ffn_up", "mlp.up_proj"},
                                                   {"ffn_down", "mlp.down_proj"}}};

// `name` in the other spelling; empty if it has none.
std::string Translate(std::string_view name, std::string_view NamePair::*from, std::string_view NamePair::*to) {
  for (const NamePair& pair : kNames) {
    if (pair.*from == name) return std::string(pair.*to);
  }
  const bool is_gguf = from == &NamePair::gguf;
  const std::string_view prefix = is_gguf ? kGgufLayer : kHuggingFaceLayer;
  if (name.substr(0, prefix.size()) != prefix) return "";
  name.remove_prefix(prefix.size());
  const size_t layer = name.find('.'), kind = name.rfind('.');
  if (layer == std::string_view::npos || kind <= layer) return "";
  if (layer == 0 || name.find_first_not_of("0123456789") != layer) return "";
  if (name.substr(kind) != ".weight" && name.substr(kind) != ".bias") return "";
  for (const NamePair& pair : kLayerNames) {
    if (pair.*from != name.substr(layer + 1, kind - layer - 1)) continue;
    return StrCat(is_gguf ? kHuggingFaceLayer : kGgufLayer, name.substr(0, layer + 1), pair.*to, name.substr(kind));
  }
  return "";
}

}  // namespace

std::string HuggingFaceTensorName(std::string_view gguf_name) {
  return Translate(gguf_name, &NamePair::gguf, &NamePair::hugging_face);
}

std::string GgufTensorName(std::string_view hugging_face_name) {
  std::string name = Translate(hugging_face_name, &NamePair::hugging_face, &NamePair::gguf);
  return name.empty() ? std::string(hugging_face_name) : name;
}

}  // namespace shoal
