// Tensor names of GGUF files and of Hugging Face folders, which model/weight_table.h uses, one for the other.
#pragma once

#include <string>
#include <string_view>

namespace shoal {

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; empty if the decoder has no such tensor.
std::string HuggingFaceTensorName(std::string_view gguf_name);

// The reverse, for messages; a name without counterpart stays as it is.
std::string GgufTensorName(std::string_view hugging_face_name);

// Frequencies of rotary embeddings, which the configuration takes up; no tensor of the decoder.
inline constexpr std::string_view kGgufRopeFactorsName = "rope_freqs.weight";

}  // namespace shoal
