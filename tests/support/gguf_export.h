// Models as GGUF files, for tests, laid out as llama.cpp's converter does it.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/gguf_blocks.h"
#include "model/gguf_tensors.h"
#include "model/loader_matrix.h"
#include "model/weight_table.h"
#include "tests/support/gguf_encode.h"
#include "tests/support/gguf_writer.h"

namespace shoal {

inline StoredType GgufTypeNamed(std::string_view name) {
  for (uint32_t id = 0; id < 64; ++id) {
    const auto type = GgufTypeOf(id, "");
    if (type.ok() && type->name == name) return *type;
  }
  SHOAL_CHECK(false);
  return {};
}

// What a matrix, `cols` wide, is stored as.
struct GgufEncoded {
  StoredType type;
  std::string bytes;
};
using GgufEncoder = std::function<GgufEncoded(std::span<const float> values, int64_t cols)>;

// All in one type; F32 where rows are no whole blocks.
inline GgufEncoder EncodeAs(std::string_view name) {
  return [type = GgufTypeNamed(name)](std::span<const float> values, int64_t cols) {
    const StoredType used = cols % type.block == 0 ? type : GgufTypeNamed("F32");
    return GgufEncoded{used, EncodeGguf(used.name, values)};
  };
}

inline std::vector<float> DecodeGguf(const GgufEncoded& encoded, size_t count) {
  std::vector<float> values(count);
  DecodeBlocks(encoded.type, reinterpret_cast<const std::byte*>(encoded.bytes.data()), static_cast<int64_t>(count),
               values.data());
  return values;
}

// The values that blocks of the type stand for, as F32: what a reader of that type must see.
inline GgufEncoder DecodedFrom(GgufEncoder encoder) {
  return [encoder](std::span<const float> values, int64_t cols) {
    const GgufEncoded encoded = encoder(values, cols);
    if (!IsGgufBlockType(encoded.type)) return encoded;
    return GgufEncoded{GgufTypeNamed("F32"), EncodeGguf("F32", DecodeGguf(encoded, values.size()))};
  };
}

// Rows in halves to rows in rotary pairs: row i of a head goes to 2 i, row i + half to 2 i + 1.
inline std::vector<float> PairRows(const std::vector<float>& values, int64_t head_dim, int64_t cols) {
  std::vector<float> out(values.size());
  const auto rows = static_cast<int64_t>(values.size()) / cols;
  for (int64_t head = 0; head < rows; head += head_dim) {
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      for (const int64_t half : {0, 1}) {
        const float* from = &values[static_cast<size_t>((head + i + half * head_dim / 2) * cols)];
        std::copy_n(from, cols, &out[static_cast<size_t>((head + 2 * i + half) * cols)]);
      }
    }
  }
  return out;
}

inline void AddGgufConfig(const ModelConfig& config, GgufWriter& gguf) {
  const ModelShape& shape = config.shape;
  const std::string arch = config.model_type;
  const auto count = [&](const char* key, int64_t value) { gguf.Add(arch + "." + key, static_cast<uint32_t>(value)); };
  gguf.Add("general.architecture", arch);
  count("block_count", shape.layers);
  count("context_length", config.max_position_embeddings);
  count("embedding_length", shape.hidden);
  count("feed_forward_length", shape.ffn);
  count("attention.head_count", shape.heads);
  count("attention.head_count_kv", shape.kv_heads);
  count("attention.key_length", shape.head_dim);
  count("attention.value_length", shape.head_dim);
  gguf.Add(arch + ".rope.freq_base", static_cast<float>(config.rope.theta));
  gguf.Add(arch + ".attention.layer_norm_rms_epsilon", config.norm_eps);
  if (config.rope.kind == RopeConfig::Kind::kLinear) {
    gguf.Add(arch + ".rope.scaling.type", "linear");
    gguf.Add(arch + ".rope.scaling.factor", static_cast<float>(config.rope.factor));
  }
  gguf.Add("general.quantization_version", 2u);
  if (config.bos_token_id >= 0) gguf.Add("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(config.bos_token_id));
  if (!config.eos_token_ids.empty()) {
    gguf.Add("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(config.eos_token_ids[0]));
  }
}

// Llama 3: what each frequency is divided by.
inline std::vector<float> RopeFactors(const ModelConfig& config) {
  RopeConfig plain;
  plain.theta = config.rope.theta;
  const auto base = RopeInverseFrequencies(plain, config.shape.head_dim);
  const auto scaled = RopeInverseFrequencies(config.rope, config.shape.head_dim);
  std::vector<float> factors;
  for (size_t i = 0; i < base.size(); ++i) factors.push_back(base[i] / scaled[i]);
  return factors;
}

// Configuration and tensors; keys of a tokenizer may be added. `values` gives a tensor in the order of Hugging Face.
inline GgufWriter ExportGguf(const ModelConfig& config,
                             const std::function<std::vector<float>(const ModelTensor&)>& values,
                             const GgufEncoder& encoder) {
  GgufWriter gguf;
  AddGgufConfig(config, gguf);
  if (config.rope.kind == RopeConfig::Kind::kLlama3) {
    const std::vector<float> factors = RopeFactors(config);
    gguf.AddTensor(kGgufRopeFactorsName, 0, {factors.size()}, EncodeGguf("F32", factors));
  }
  for (const ModelTensor& tensor : ModelTensors(config.shape)) {
    if (tensor.row->target == WeightTarget::kHead && config.tie_word_embeddings) continue;
    std::vector<float> all = values(tensor);
    const std::string name = GgufTensorName(tensor.name);
    const auto rows = static_cast<uint64_t>(tensor.rows), cols = static_cast<uint64_t>(tensor.cols);
    const bool rotated = name.find(".attn_q.") != std::string::npos || name.find(".attn_k.") != std::string::npos;
    if (rotated && config.model_type == "llama") all = PairRows(all, config.shape.head_dim, tensor.cols);
    if (tensor.row->vector()) {
      gguf.AddTensor(name, 0, {rows}, EncodeGguf("F32", all));
      continue;
    }
    const GgufEncoded encoded = encoder(all, tensor.cols);
    gguf.AddTensor(name, GgufTypeId(encoded.type), {rows, cols}, encoded.bytes);
  }
  return gguf;
}

// The model of a Hugging Face folder.
inline GgufWriter ExportGguf(const std::string& model_dir, const GgufEncoder& encoder) {
  const auto config = LoadModelConfig(model_dir);
  const auto checkpoint = Checkpoint::Open(model_dir);
  SHOAL_CHECK(config.ok() && checkpoint.ok());
  const MatrixLoader loader(**checkpoint, false);
  const auto values = [&](const ModelTensor& tensor) {
    const TensorSlice slice{tensor, tensor.name, {0, tensor.rows}, {0, tensor.cols}};
    if (tensor.row->vector()) return loader.LoadVector({slice}).value();
    const WeightSource matrix = loader.Open({slice}, WeightFormat::kF32, nullptr).value();
    std::vector<float> out(static_cast<size_t>(tensor.rows * tensor.cols));
    HostRows rows;
    rows.values = reinterpret_cast<std::byte*>(out.data());
    SHOAL_CHECK(matrix.read(0, matrix.rows, rows).ok());
    return out;
  };
  return ExportGguf(*config, values, encoder);
}

}  // namespace shoal
