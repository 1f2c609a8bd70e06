#include "model/gguf_config.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/gguf_tensors.h"

namespace shoal {
namespace {

struct Architecture {
  std::string_view name;  // `general.architecture` and config.json's model_type.
  std::string_view class_name;
  bool paired_rows;  // Rows of q and k in rotary pairs.
};
constexpr std::array<Architecture, 3> kArchitectures = {
    {{"llama", "LlamaForCausalLM", true}, {"qwen2", "Qwen2ForCausalLM", false}, {"qwen3", "Qwen3ForCausalLM", false}}};

// config.json's name of a size, and the key behind "llama." or whichever the architecture is.
struct SizeField {
  const char* field;
  const char* key;
};
constexpr std::array<SizeField, 7> kSizes = {{{"num_hidden_layers", "block_count"},
                                              {"hidden_size", "embedding_length"},
                                              {"num_attention_heads", "attention.head_count"},
                                              {"intermediate_size", "feed_forward_length"},
                                              {"max_position_embeddings", "context_length"},
                                              {"num_key_value_heads", "attention.head_count_kv"},
                                              {"head_dim", "attention.key_length"}}};
constexpr SizeField kNormEps = {"rms_norm_eps", "attention.layer_norm_rms_epsilon"};
constexpr SizeField kRopeTheta = {"rope_theta", "rope.freq_base"};

// Keys that would change the results unless they have the value that means "off".
struct OffKey {
  const char* key;
  double off;
};
constexpr std::array<OffKey, 10> kOffKeys = {{{"expert_count", 0},
                                              {"expert_used_count", 0},
                                              {"attention.max_alibi_bias", 0},
                                              {"attention.clamp_kqv", 0},
                                              {"attn_logit_softcapping", 0},
                                              {"final_logit_softcapping", 0},
                                              {"logit_scale", 1},
                                              {"residual_scale", 1},
                                              {"embedding_scale", 1},
                                              {"rope.scaling.attn_factor", 1}}};

// Control tokens that end an answer, whether or not a key says so: converters write one id only.
// Source: `llama_vocab` of llama.cpp, which looks for the same texts.
constexpr std::array<std::string_view, 5> kEndTexts = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>",
                                                       "<|end_of_text|>"};

absl::Status Unsupported(const GgufMetadata& metadata, std::string_view what) {
  return absl::UnimplementedError(StrCat(metadata.where(), ": ", what));
}

absl::StatusOr<Architecture> ReadArchitecture(const GgufMetadata& metadata) {
  ASSIGN_OR_RETURN(const std::string_view name, metadata.Text("general.architecture"));
  for (const Architecture& known : kArchitectures) {
    if (known.name == name) return known;
  }
  return Unsupported(metadata, StrCat("architecture '", name.substr(0, 64), "'; supported are llama, qwen2 and qwen3"));
}

// Reads keys of the architecture, whose name comes first in each.
class Reader {
 public:
  Reader(const GgufMetadata& metadata, const Architecture& architecture)
      : metadata_(metadata), architecture_(architecture) {}

  const Architecture& architecture() const { return architecture_; }
  std::string Key(std::string_view key) const { return StrCat(architecture_.name, ".", key); }
  bool Has(std::string_view key) const { return metadata_.Has(Key(key)); }
  absl::StatusOr<int64_t> Integer(std::string_view key) const { return metadata_.Integer(Key(key)); }
  absl::StatusOr<double> Number(std::string_view key) const { return metadata_.Number(Key(key)); }
  absl::StatusOr<std::string_view> Text(std::string_view key) const { return metadata_.Text(Key(key)); }

  absl::StatusOr<int64_t> HeadSize() const {
    if (Has("attention.key_length")) return Integer("attention.key_length");
    ASSIGN_OR_RETURN(const int64_t hidden, Integer("embedding_length"));
    ASSIGN_OR_RETURN(const int64_t heads, Integer("attention.head_count"));
    if (heads < 1 || hidden % heads != 0) {
      return absl::InvalidArgumentError(StrCat(metadata_.where(), ": ", Key("embedding_length"), " is ", hidden,
                                               ", no multiple of ", Key("attention.head_count"), " ", heads,
                                               "; convert the model again"));
    }
    return hidden / heads;
  }

  absl::Status CheckOffKeys() const {
    for (const OffKey& off : kOffKeys) {
      if (!Has(off.key)) continue;
      ASSIGN_OR_RETURN(const double value, Number(off.key));
      if (value != off.off && value != 0) {
        return Unsupported(metadata_, StrCat("key '", Key(off.key), "' is ", value, ", which is not supported"));
      }
    }
    if (Has("attention.sliding_window")) {
      ASSIGN_OR_RETURN(const int64_t window, Integer("attention.sliding_window"));
      ASSIGN_OR_RETURN(const int64_t context, Integer("context_length"));
      if (window > 0 && window < context) {
        return Unsupported(metadata_, StrCat("key '", Key("attention.sliding_window"), "' is ", window,
                                             "; sliding-window attention is not supported"));
      }
    }
    ASSIGN_OR_RETURN(const int64_t head_size, HeadSize());
    for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
      if (!Has(key)) continue;
      ASSIGN_OR_RETURN(const int64_t value, Integer(key));
      if (value == head_size) continue;
      return Unsupported(metadata_, StrCat("key '", Key(key), "' is ", value, ", but heads have ", head_size,
                                           " values; supported is the same for all"));
    }
    return absl::OkStatus();
  }

 private:
  const GgufMetadata& metadata_;
  const Architecture architecture_;
};

// The factors by which Llama 3 divides its rotary frequencies, one per pair; empty if the file has none.
absl::StatusOr<std::vector<float>> ReadRopeFactors(const GgufMetadata& metadata, GgufTensorFind find,
                                                   GgufTensorRead read, const Reader& reader) {
  std::vector<float> factors;
  const StoredTensor* tensor = find(kGgufRopeFactorsName);
  if (tensor == nullptr) return factors;
  ASSIGN_OR_RETURN(const int64_t head_size, reader.HeadSize());
  const uint64_t pairs = static_cast<uint64_t>(head_size) / 2;
  if (tensor->type.name != "F32" || tensor->shape != std::vector<uint64_t>{pairs}) {
    return absl::InvalidArgumentError(StrCat(metadata.where(), ": tensor '", tensor->name, "' has shape ",
                                             tensor->ShapeText(), " of ", tensor->type.name, "; it must be [", pairs,
                                             "] of F32: convert the model again"));
  }
  factors.resize(pairs);
  RETURN_IF_ERROR(read(*tensor, std::as_writable_bytes(std::span(factors))));
  return factors;
}

// `rope_scaling` of config.json, or null.
absl::StatusOr<Json> ReadRopeScaling(const GgufMetadata& metadata, GgufTensorFind find, GgufTensorRead read,
                                     const Reader& reader, int64_t context) {
  std::string type = "linear";  // What llama.cpp takes for an absent key; by itself it changes nothing.
  if (reader.Has("rope.scaling.type")) {
    ASSIGN_OR_RETURN(type, reader.Text("rope.scaling.type"));
  }
  if (type != "none" && type != "linear") {
    return Unsupported(metadata, StrCat("key '", reader.Key("rope.scaling.type"), "' is '", type.substr(0, 64),
                                        "'; supported are none and linear"));
  }
  double factor = 0;
  for (const char* key : {"rope.scale_linear", "rope.scaling.factor"}) {  // The first is of old files.
    if (!reader.Has(key)) continue;
    ASSIGN_OR_RETURN(factor, reader.Number(key));
  }
  const bool linear = type == "linear" && factor != 0 && factor != 1;
  ASSIGN_OR_RETURN(const std::vector<float> factors, ReadRopeFactors(metadata, find, read, reader));
  if (linear && !factors.empty()) {
    return Unsupported(metadata, StrCat("has both ", reader.Key("rope.scaling.factor"), " and ", kGgufRopeFactorsName));
  }
  if (linear) return Json{{"rope_type", "linear"}, {"factor", factor}};
  if (factors.empty()) return Json();
  // The one type of config.json that lists factors. Both lists are the same, so it does not depend on the length.
  return Json{{"rope_type", "longrope"},
              {"short_factor", factors},
              {"long_factor", factors},
              {"attention_factor", 1.0},
              {"original_max_position_embeddings", context}};
}

absl::StatusOr<int64_t> ReadVocabularySize(const GgufMetadata& metadata, GgufTensorFind find, const Reader& reader) {
  std::optional<int64_t> by_key;
  if (reader.Has("vocab_size")) {
    ASSIGN_OR_RETURN(by_key, reader.Integer("vocab_size"));
  }
  const StoredTensor* embedding = find("token_embd.weight");
  if (embedding != nullptr && embedding->shape.size() == 2) {
    const auto rows = static_cast<int64_t>(embedding->shape[0]);
    if (by_key.value_or(rows) == rows) return rows;
    return absl::InvalidArgumentError(StrCat(metadata.where(), ": key '", reader.Key("vocab_size"), "' is ", *by_key,
                                             ", but token_embd.weight has ", rows, " rows; convert the model again"));
  }
  if (by_key.has_value()) return *by_key;
  ASSIGN_OR_RETURN(const std::vector<std::string_view> tokens, metadata.Texts("tokenizer.ggml.tokens"));
  return static_cast<int64_t>(tokens.size());
}

// Writers put 2^32 - 1 where there is no token: ids outside of the vocabulary count as absent.
absl::StatusOr<std::optional<int64_t>> TokenId(const GgufMetadata& metadata, std::string_view key, int64_t vocab) {
  if (!metadata.Has(key)) return std::optional<int64_t>();
  ASSIGN_OR_RETURN(const int64_t id, metadata.Integer(key));
  return id >= 0 && id < vocab ? std::optional<int64_t>(id) : std::nullopt;
}

absl::Status AddTokenIds(const GgufMetadata& metadata, int64_t vocab, Json& config) {
  ASSIGN_OR_RETURN(const auto bos, TokenId(metadata, "tokenizer.ggml.bos_token_id", vocab));
  if (bos.has_value()) config["bos_token_id"] = static_cast<uint64_t>(*bos);
  std::vector<uint64_t> ends;  // Unsigned, as ids in a JSON text are.
  const auto add = [&](uint64_t id) {
    if (std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  };
  for (const char* key : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    ASSIGN_OR_RETURN(const auto id, TokenId(metadata, StrCat("tokenizer.ggml.", key), vocab));
    if (id.has_value()) add(static_cast<uint64_t>(*id));
  }
  if (metadata.Has("tokenizer.ggml.tokens") && metadata.Has("tokenizer.ggml.token_type")) {
    constexpr int64_t kControl = 3;
    ASSIGN_OR_RETURN(const auto tokens, metadata.Texts("tokenizer.ggml.tokens"));
    ASSIGN_OR_RETURN(const auto types, metadata.Integers("tokenizer.ggml.token_type"));
    const size_t count = std::min({tokens.size(), types.size(), static_cast<size_t>(vocab)});
    for (size_t id = 0; id < count; ++id) {
      if (types[id] != kControl) continue;
      if (std::find(kEndTexts.begin(), kEndTexts.end(), tokens[id]) != kEndTexts.end()) add(id);
    }
  }
  if (!ends.empty()) config["eos_token_id"] = ends;
  return absl::OkStatus();
}

// Sampling defaults that newer files carry.
absl::StatusOr<Json> ReadGeneration(const GgufMetadata& metadata) {
  constexpr std::array<std::pair<const char*, const char*>, 4> kNumbers = {
      {{"general.sampling.temp", "temperature"},
       {"general.sampling.top_p", "top_p"},
       {"general.sampling.min_p", "min_p"},
       {"general.sampling.penalty_repeat", "repetition_penalty"}}};
  Json generation = Json::object();
  for (const auto& [key, field] : kNumbers) {
    if (!metadata.Has(key)) continue;
    ASSIGN_OR_RETURN(generation[field], metadata.Number(key));
  }
  if (metadata.Has("general.sampling.top_k")) {
    ASSIGN_OR_RETURN(generation["top_k"], metadata.Integer("general.sampling.top_k"));
  }
  return generation;
}

}  // namespace

bool IsGgufPath(const std::string& model) {
  struct stat info {};
  return absl::EndsWith(model, ".gguf") && !(stat(model.c_str(), &info) == 0 && S_ISDIR(info.st_mode));
}

absl::StatusOr<GgufConfig> ReadGgufConfig(const GgufModel& model) {
  const auto find = [&](std::string_view name) { return model.Find(name).tensor; };
  const auto read = [&](const StoredTensor& tensor, std::span<std::byte> out) {
    return model.Find(tensor.name).file->Read(tensor, 0, out);
  };
  return ReadGgufConfig(model.metadata(), find, read);
}

absl::StatusOr<GgufConfig> ReadGgufConfig(const GgufMetadata& metadata, GgufTensorFind find, GgufTensorRead read) {
  ASSIGN_OR_RETURN(const Architecture architecture, ReadArchitecture(metadata));
  const Reader reader(metadata, architecture);
  RETURN_IF_ERROR(reader.CheckOffKeys());
  GgufConfig out;
  out.config = {{"architectures", {std::string(architecture.class_name)}},
                {"model_type", std::string(architecture.name)},
                {"hidden_act", "silu"}};
  for (const SizeField& size : kSizes) {
    // These two may be left out.
    if (std::string_view(size.field) == "head_dim" ||
        (std::string_view(size.field) == "num_key_value_heads" && !reader.Has(size.key))) {
      continue;
    }
    ASSIGN_OR_RETURN(out.config[size.field], reader.Integer(size.key));
  }
  if (!reader.Has("attention.head_count_kv")) out.config["num_key_value_heads"] = out.config["num_attention_heads"];
  ASSIGN_OR_RETURN(out.config["head_dim"], reader.HeadSize());
  ASSIGN_OR_RETURN(out.config[kNormEps.field], reader.Number(kNormEps.key));
  if (reader.Has(kRopeTheta.key)) {
    ASSIGN_OR_RETURN(out.config[kRopeTheta.field], reader.Number(kRopeTheta.key));
  }
  ASSIGN_OR_RETURN(Json scaling,
                   ReadRopeScaling(metadata, find, read, reader, out.config["max_position_embeddings"].get<int64_t>()));
  if (!scaling.is_null()) out.config["rope_scaling"] = std::move(scaling);
  ASSIGN_OR_RETURN(const int64_t vocab, ReadVocabularySize(metadata, find, reader));
  out.config["vocab_size"] = vocab;
  out.config["tie_word_embeddings"] = find("output.weight") == nullptr;
  RETURN_IF_ERROR(AddTokenIds(metadata, vocab, out.config));
  ASSIGN_OR_RETURN(out.generation, ReadGeneration(metadata));
  return out;
}

absl::Status WithGgufKey(const absl::Status& status, const GgufConfig& config) {
  const std::string message(status.message());
  const auto explain = [&](const SizeField& size) {
    return absl::Status(status.code(), StrCat(message, " (", config.config["model_type"].get<std::string>(), ".",
                                              size.key, " of the file)"));
  };
  for (const SizeField& size : kSizes) {
    if (message.find(StrCat("field '", size.field, "'")) != std::string::npos) return explain(size);
  }
  for (const SizeField& number : {kNormEps, kRopeTheta}) {
    if (message.find(StrCat("field '", number.field, "'")) != std::string::npos) return explain(number);
  }
  return status;
}

absl::StatusOr<int64_t> GgufPairedHeadSize(const GgufMetadata& metadata) {
  ASSIGN_OR_RETURN(const Architecture architecture, ReadArchitecture(metadata));
  if (!architecture.paired_rows) return 0;
  ASSIGN_OR_RETURN(const int64_t head_size, Reader(metadata, architecture).HeadSize());
  if (head_size >= 2 && head_size % 2 == 0) return head_size;
  return absl::InvalidArgumentError(StrCat(metadata.where(), ": heads have ", head_size,
                                           " values; the number must be even: convert the model again"));
}

}  // namespace shoal
