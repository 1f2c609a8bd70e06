#include "tests/support/llama2c.h"

#include <array>
#include <cstring>
#include <fstream>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/read_file.h"
#include "base/status_macros.h"

namespace shoal {
namespace {

struct Header {
  int32_t dim, ffn, layers, heads, kv_heads, vocab, context;
};

// Tensors in the order they are added, with their values.
struct Tensors {
  struct Entry {
    std::string name;
    int64_t rows, cols;  // cols 0: a vector
    std::vector<float> values;
  };
  std::vector<Entry> entries;

  void Add(std::string name, int64_t rows, int64_t cols, const float* values) {
    const int64_t count = rows * std::max<int64_t>(cols, 1);
    entries.push_back({std::move(name), rows, cols, std::vector<float>(values, values + count)});
  }
};

// Row j of a head becomes row 2j for j < dim / 2, else 2 (j - dim / 2) + 1.
std::vector<float> HalfSplitRows(const float* rows, int heads, int head_dim, int cols) {
  std::vector<float> out(static_cast<size_t>(heads) * head_dim * cols);
  for (int h = 0; h < heads; ++h) {
    for (int j = 0; j < head_dim; ++j) {
      const int from = j < head_dim / 2 ? 2 * j : 2 * (j - head_dim / 2) + 1;
      std::memcpy(&out[(static_cast<size_t>(h) * head_dim + j) * cols],
                  rows + (static_cast<size_t>(h) * head_dim + from) * cols, cols * sizeof(float));
    }
  }
  return out;
}

Tensors ReadTensors(const Header& h, bool tied, const float* next) {
  const int head_dim = h.dim / h.heads;
  const int kv = h.kv_heads * head_dim;
  Tensors t;
  const auto take = [&](int64_t count) {
    const float* begin = next;
    next += count;
    return begin;
  };
  const auto per_layer = [&](const std::string& name, int64_t rows, int64_t cols, int rotate_heads = 0) {
    for (int i = 0; i < h.layers; ++i) {
      const float* values = take(rows * std::max<int64_t>(cols, 1));
      const std::string full = absl::StrCat("model.layers.", i, ".", name, ".weight");
      if (rotate_heads > 0) {
        t.Add(full, rows, cols, HalfSplitRows(values, rotate_heads, head_dim, static_cast<int>(cols)).data());
      } else {
        t.Add(full, rows, cols, values);
      }
    }
  };
  t.Add("model.embed_tokens.weight", h.vocab, h.dim, take(int64_t{h.vocab} * h.dim));
  per_layer("input_layernorm", h.dim, 0);
  per_layer("self_attn.q_proj", h.dim, h.dim, h.heads);
  per_layer("self_attn.k_proj", kv, h.dim, h.kv_heads);
  per_layer("self_attn.v_proj", kv, h.dim);
  per_layer("self_attn.o_proj", h.dim, h.dim);
  per_layer("post_attention_layernorm", h.dim, 0);
  per_layer("mlp.gate_proj", h.ffn, h.dim);
  per_layer("mlp.down_proj", h.dim, h.ffn);
  per_layer("mlp.up_proj", h.ffn, h.dim);
  t.Add("model.norm.weight", h.dim, 0, take(h.dim));
  take(int64_t{h.context} * head_dim);  // The two rotary tables.
  if (!tied) t.Add("lm_head.weight", h.vocab, h.dim, take(int64_t{h.vocab} * h.dim));
  return t;
}

void WriteSafetensors(const Tensors& tensors, const std::string& path) {
  Json header = Json::object();
  int64_t offset = 0;
  for (const Tensors::Entry& e : tensors.entries) {
    const int64_t bytes = static_cast<int64_t>(e.values.size() * sizeof(float));
    Json shape = e.cols > 0 ? Json{e.rows, e.cols} : Json::array({e.rows});
    header[e.name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length)).write(text.data(), text.size());
  for (const Tensors::Entry& e : tensors.entries) {
    out.write(reinterpret_cast<const char*>(e.values.data()), e.values.size() * sizeof(float));
  }
}

}  // namespace

absl::Status ConvertLlama2c(const std::string& checkpoint, const std::string& out_dir) {
  ASSIGN_OR_RETURN(const std::string file, ReadSmallFile(checkpoint, 64 << 20));
  Header h;
  if (file.size() < sizeof(h)) return absl::InvalidArgumentError(absl::StrCat(checkpoint, ": too short"));
  std::memcpy(&h, file.data(), sizeof(h));
  const bool tied = h.vocab > 0;
  h.vocab = std::abs(h.vocab);
  const int64_t dim = h.dim, kv = dim / h.heads * h.kv_heads;
  const int64_t floats = h.vocab * dim * (tied ? 1 : 2) + dim + int64_t{h.context} * (dim / h.heads) +
                         h.layers * (2 * dim + 2 * dim * dim + 2 * kv * dim + 3 * dim * h.ffn);
  if (file.size() != sizeof(h) + floats * sizeof(float)) {
    return absl::InvalidArgumentError(absl::StrCat(checkpoint, ": has ", file.size(), " bytes"));
  }
  WriteSafetensors(ReadTensors(h, tied, reinterpret_cast<const float*>(file.data() + sizeof(h))),
                   out_dir + "/model.safetensors");
  const Json config = {{"architectures", {"LlamaForCausalLM"}},
                       {"model_type", "llama"},
                       {"hidden_act", "silu"},
                       {"hidden_size", h.dim},
                       {"intermediate_size", h.ffn},
                       {"num_hidden_layers", h.layers},
                       {"num_attention_heads", h.heads},
                       {"num_key_value_heads", h.kv_heads},
                       {"vocab_size", h.vocab},
                       {"max_position_embeddings", h.context},
                       {"rms_norm_eps", 1e-5},
                       {"rope_theta", 10000.0},
                       {"tie_word_embeddings", tied},
                       {"bos_token_id", 1},
                       {"eos_token_id", 2}};
  std::ofstream(out_dir + "/config.json") << config.dump(1);
  return absl::OkStatus();
}

absl::StatusOr<TokenizerSpec> ReadLlama2cTokenizer(const std::string& path, int vocab_size) {
  ASSIGN_OR_RETURN(const std::string data, ReadSmallFile(path, 1 << 20));
  size_t at = sizeof(int32_t);  // After the longest length.
  TokenizerSpec spec;
  spec.where = path;
  for (int id = 0; id < vocab_size; ++id) {
    float score;
    int32_t length;
    if (at + 8 > data.size()) return absl::InvalidArgumentError(absl::StrCat(path, ": ends at token ", id));
    std::memcpy(&score, &data[at], 4);
    std::memcpy(&length, &data[at + 4], 4);
    at += 8;
    if (length < 0 || at + length > data.size()) return absl::InvalidArgumentError(absl::StrCat(path, ": token ", id));
    spec.tokens.push_back(data.substr(at, length));
    spec.scores.push_back(score);
    at += length;
  }
  spec.merge_kind = TokenizerSpec::MergeKind::kScored;
  spec.byte_fallback = true;
  spec.decoder.byte_fallback = true;
  spec.decoder.strip_leading_spaces = 1;
  NormalizerStep space;
  space.kind = NormalizerStep::Kind::kPrepend;
  space.content = " ";
  spec.normalizer = {space};
  spec.prefix_ids = {1};
  spec.bos_id = 1;
  spec.eos_id = 2;
  return spec;
}

}  // namespace shoal
