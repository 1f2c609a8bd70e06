#include "model/config.h"

#include <sys/stat.h>

#include <array>
#include <cmath>
#include <optional>

#include "base/json.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/gguf_config.h"

namespace shoal {
namespace {

constexpr size_t kConfigBytesMax = 1 << 20;
// 2^41 weights are eight times the largest published dense model: what lies beyond is a mistake or an attack.
constexpr int64_t kParametersMax = int64_t{1} << 41;

enum class Family { kQwen2, kLlama, kQwen3 };

struct FamilyRow {
  std::string_view architecture;
  std::string_view model_type;
  Family family;
};
constexpr std::array<FamilyRow, 3> kFamilies = {{{"Qwen2ForCausalLM", "qwen2", Family::kQwen2},
                                                 {"LlamaForCausalLM", "llama", Family::kLlama},
                                                 {"Qwen3ForCausalLM", "qwen3", Family::kQwen3}}};

absl::Status Bad(const std::string& where, std::string_view field, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(where, ": field '", field, "' ", what));
}

absl::Status Unsupported(const std::string& where, std::string_view field, std::string_view what) {
  return absl::UnimplementedError(StrCat(where, ": field '", field, "' ", what));
}

// An integer in [low, high]; absent: `fallback`, or an error if that is below `low`.
absl::StatusOr<int64_t> BoundedInt(const Json& json, std::string_view field, int64_t low, int64_t high,
                                   const std::string& where, int64_t fallback = INT64_MIN) {
  if (!JsonHas(json, field) && fallback >= low) return fallback;
  ASSIGN_OR_RETURN(const int64_t value, JsonInt(json, field, where));
  if (value < low || value > high) {
    return Bad(where, field, StrCat("is ", value, "; supported are ", low, " to ", high));
  }
  return value;
}

// A number in [low, high]; absent: `fallback`, or an error if that is not finite.
absl::StatusOr<double> BoundedNumber(const Json& json, std::string_view field, double low, double high,
                                     const std::string& where, double fallback = NAN) {
  if (!JsonHas(json, field) && std::isfinite(fallback)) return fallback;
  ASSIGN_OR_RETURN(const double value, JsonNumber(json, field, where));
  if (!(value >= low && value <= high)) {
    return Bad(where, field, StrCat("is ", value, "; supported are ", low, " to ", high));
  }
  return value;
}

absl::StatusOr<bool> BoolOr(const Json& json, std::string_view field, bool fallback, const std::string& where) {
  if (!JsonHas(json, field)) return fallback;
  return JsonBool(json, field, where);
}

absl::StatusOr<FamilyRow> ReadFamily(const Json& json, const std::string& where) {
  std::string architecture;
  if (JsonHas(json, "architectures")) {
    const Json& list = json["architectures"];
    if (!list.is_array() || list.size() != 1 || !list[0].is_string()) {
      return Bad(where, "architectures", "must be a list of one name");
    }
    architecture = list[0].get<std::string>();
  }
  ASSIGN_OR_RETURN(const std::string model_type, JsonString(json, "model_type", where));
  for (const FamilyRow& row : kFamilies) {
    if (!architecture.empty() ? row.architecture == architecture : row.model_type == model_type) {
      if (row.model_type != model_type) {
        return Bad(where, "model_type",
                   StrCat("is '", model_type.substr(0, 64), "', but ", architecture, " needs '", row.model_type, "'"));
      }
      return row;
    }
  }
  const bool by_name = !architecture.empty();
  return Unsupported(where, by_name ? "architectures" : "model_type",
                     StrCat("is '", (by_name ? architecture : model_type).substr(0, 64),
                            "'; supported are Qwen2ForCausalLM, LlamaForCausalLM and Qwen3ForCausalLM"));
}

absl::StatusOr<ModelShape> ReadShape(const Json& json, Family family, const std::string& where) {
  ModelShape shape;
  ASSIGN_OR_RETURN(const int64_t layers, BoundedInt(json, "num_hidden_layers", 1, 1024, where));
  ASSIGN_OR_RETURN(shape.hidden, BoundedInt(json, "hidden_size", 1, 1 << 17, where));
  ASSIGN_OR_RETURN(const int64_t heads, BoundedInt(json, "num_attention_heads", 1, 1024, where));
  // Llama 1 and 2 files may leave it out: every query head has its own KV head.
  const int64_t kv_default = family == Family::kLlama ? heads : INT64_MIN;
  ASSIGN_OR_RETURN(const int64_t kv_heads, BoundedInt(json, "num_key_value_heads", 1, heads, where, kv_default));
  ASSIGN_OR_RETURN(shape.ffn, BoundedInt(json, "intermediate_size", 1, 1 << 20, where));
  ASSIGN_OR_RETURN(shape.vocab, BoundedInt(json, "vocab_size", 1, 1 << 22, where));
  shape.layers = static_cast<int>(layers);
  shape.heads = static_cast<int>(heads);
  shape.kv_heads = static_cast<int>(kv_heads);
  if (heads % kv_heads != 0) {
    return Bad(where, "num_attention_heads",
               StrCat("is ", heads, ", not a multiple of num_key_value_heads ", kv_heads));
  }
  if (JsonHas(json, "head_dim")) {
    ASSIGN_OR_RETURN(shape.head_dim, BoundedInt(json, "head_dim", 2, 1024, where));
  } else if (family == Family::kQwen3) {
    shape.head_dim = 128;  // transformers' default, whatever the hidden size.
  } else if (shape.hidden % heads != 0) {
    return Bad(where, "hidden_size",
               StrCat("is ", shape.hidden, ", not a multiple of num_attention_heads ", heads, "; give head_dim"));
  } else {
    shape.head_dim = shape.hidden / heads;
  }
  if (shape.head_dim < 2 || shape.head_dim > 1024 || shape.head_dim % 2 != 0) {
    return Bad(where, "head_dim", StrCat("is ", shape.head_dim, "; it must be even, from 2 to 1024"));
  }
  shape.qkv_bias = family == Family::kQwen2;
  shape.qk_norm = family == Family::kQwen3;

  // With the bounds above no product here comes near 2^63.
  const int64_t per_layer = shape.hidden * shape.head_dim * 2 * (heads + kv_heads) + 3 * shape.hidden * shape.ffn;
  const int64_t parameters = layers * per_layer + 2 * shape.vocab * shape.hidden;
  if (parameters > kParametersMax) {
    return Bad(where, "hidden_size",
               StrCat("and the other sizes make ", parameters, " weights, more than the limit of ", kParametersMax));
  }
  return shape;
}

// "longrope" where both of its lists are the same, so that the length of the text does not matter: what a GGUF file's
// factors become.
absl::Status ReadRopeFactors(const Json& scaling, int64_t head_dim, const std::string& inside, RopeConfig& rope) {
  ASSIGN_OR_RETURN(const double attention, BoundedNumber(scaling, "attention_factor", 0, 1e6, inside, 0.0));
  const auto list = scaling.find("short_factor"), other = scaling.find("long_factor");
  if (list == scaling.end() || other == scaling.end() || *list != *other || attention != 1.0) {
    return Unsupported(inside, "rope_type",
                       "is 'longrope' with factors that depend on the length, or an attention_factor that is not 1");
  }
  if (!list->is_array() || list->size() != static_cast<size_t>(head_dim / 2)) {
    return Bad(inside, "short_factor", StrCat("must be a list of ", head_dim / 2, " numbers, one per rotary pair"));
  }
  for (const Json& factor : *list) {
    const double value = factor.is_number() ? factor.get<double>() : 0;
    if (!(value >= 1e-6 && value <= 1e6)) return Bad(inside, "short_factor", "must hold numbers from 1e-6 to 1e6");
    rope.factors.push_back(static_cast<float>(value));
  }
  rope.kind = RopeConfig::Kind::kFactors;
  return absl::OkStatus();
}

absl::Status ReadRopeScaling(const Json& scaling, std::string_view field, int64_t head_dim, const std::string& where,
                             RopeConfig& rope) {
  if (!scaling.is_object()) return Bad(where, field, "must be an object");
  const std::string inside = StrCat(where, ": ", field);
  std::string type = "default";
  for (const char* key : {"type", "rope_type"}) {  // Newer files say rope_type; where both are given they must agree.
    if (!JsonHas(scaling, key)) continue;
    ASSIGN_OR_RETURN(const std::string given, JsonString(scaling, key, inside));
    if (type != "default" && type != given)
      return Bad(inside, key, StrCat("is '", given.substr(0, 64), "', but type is '", type, "'"));
    type = given.substr(0, 64);
  }
  if (type == "default") return absl::OkStatus();
  if (type == "longrope") return ReadRopeFactors(scaling, head_dim, inside, rope);
  if (type != "linear" && type != "llama3") {
    return Unsupported(inside, "rope_type", StrCat("is '", type, "'; supported are default, linear and llama3"));
  }
  ASSIGN_OR_RETURN(rope.factor, BoundedNumber(scaling, "factor", 1, 1e6, inside));
  rope.kind = RopeConfig::Kind::kLinear;
  if (type == "linear") return absl::OkStatus();
  rope.kind = RopeConfig::Kind::kLlama3;
  ASSIGN_OR_RETURN(rope.low_freq_factor, BoundedNumber(scaling, "low_freq_factor", 1e-3, 1e6, inside));
  ASSIGN_OR_RETURN(rope.high_freq_factor, BoundedNumber(scaling, "high_freq_factor", 1e-3, 1e6, inside));
  ASSIGN_OR_RETURN(rope.original_max_position,
                   BoundedNumber(scaling, "original_max_position_embeddings", 1, 1 << 26, inside));
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    return Bad(inside, "high_freq_factor",
               StrCat("is ", rope.high_freq_factor, ", not above low_freq_factor ", rope.low_freq_factor));
  }
  return absl::OkStatus();
}

// transformers up to 4 writes rope_theta and rope_scaling, 5 one dictionary rope_parameters. A file may have both;
// where they differ no guess is safe.
absl::StatusOr<RopeConfig> ReadRope(const Json& json, int64_t head_dim, const std::string& where) {
  std::optional<RopeConfig> scaling;
  std::optional<double> theta;
  const auto read_theta = [&](const Json& part) -> absl::Status {
    ASSIGN_OR_RETURN(const double rotated, BoundedNumber(part, "partial_rotary_factor", 0, 1, where, 1.0));
    if (rotated != 1.0) return Unsupported(where, "partial_rotary_factor", "is not 1");
    if (!JsonHas(part, "rope_theta")) return absl::OkStatus();
    ASSIGN_OR_RETURN(const double given, BoundedNumber(part, "rope_theta", 1, 1e12, where));
    if (theta.value_or(given) != given) {
      return Bad(where, "rope_theta", StrCat("is given twice, as ", *theta, " and ", given, "; remove the wrong one"));
    }
    theta = given;
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(read_theta(json));
  for (const char* field : {"rope_parameters", "rope_scaling"}) {
    if (!JsonHas(json, field)) continue;
    const Json& part = json[field];
    RopeConfig read;
    RETURN_IF_ERROR(ReadRopeScaling(part, field, head_dim, where, read));
    if (part.contains("full_attention")) return Unsupported(where, field, "differs by layer");
    if (scaling.value_or(read) != read) {
      return Bad(where, field, "does not say the same as rope_parameters; remove the wrong one");
    }
    scaling = read;
    RETURN_IF_ERROR(read_theta(part));
  }
  RopeConfig rope = scaling.value_or(RopeConfig());
  rope.theta = theta.value_or(10000.0);
  return rope;
}

// transformers' Qwen2Config and Qwen3Config: layers from max_window_layers on attend to the last `sliding_window`
// tokens only; an absent window is 4096, null is none. A window of the whole context changes nothing.
absl::Status CheckSlidingWindow(const Json& json, int layers, const std::string& where) {
  ASSIGN_OR_RETURN(const bool sliding, BoolOr(json, "use_sliding_window", false, where));
  const auto window_field = json.find("sliding_window");
  if (!sliding || (window_field != json.end() && window_field->is_null())) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t full_layers, BoundedInt(json, "max_window_layers", 0, 1 << 20, where, 28));
  if (full_layers >= layers) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t window, BoundedInt(json, "sliding_window", 1, 1 << 26, where, 4096));
  ASSIGN_OR_RETURN(const int64_t context, BoundedInt(json, "max_position_embeddings", 1, 1 << 26, where));
  if (window >= context) return absl::OkStatus();
  return Unsupported(where, "use_sliding_window",
                     StrCat("is true, with a window of ", window, "; sliding-window attention is not supported"));
}

// Features that would change the results and that the decoder does not have.
absl::Status CheckFeatures(const Json& json, Family family, int layers, const std::string& where) {
  const std::string act_field = "hidden_act";
  if (JsonHas(json, act_field)) {
    ASSIGN_OR_RETURN(const std::string act, JsonString(json, act_field, where));
    if (act != "silu" && act != "swish") {
      return Unsupported(where, act_field, StrCat("is '", act.substr(0, 64), "'; supported is silu"));
    }
  }
  if (JsonHas(json, "quantization_config")) {
    return Unsupported(where, "quantization_config", "is set; give the original, unquantized model");
  }
  if (family != Family::kQwen2) {
    ASSIGN_OR_RETURN(const bool bias, BoolOr(json, "attention_bias", false, where));
    if (bias) return Unsupported(where, "attention_bias", "is true; biases on o_proj are not supported");
  }
  for (const char* field : {"mlp_bias", "use_mrope"}) {
    ASSIGN_OR_RETURN(const bool on, BoolOr(json, field, false, where));
    if (on) return Unsupported(where, field, "is true; only false is supported");
  }
  if (JsonHas(json, "layer_types")) {
    const Json& types = json["layer_types"];
    if (!types.is_array() || types.size() != static_cast<size_t>(layers)) {
      return Bad(where, "layer_types", StrCat("must be a list of ", layers, " names, one per layer"));
    }
    for (const Json& type : types) {
      if (!type.is_string()) return Bad(where, "layer_types", "must be a list of names");
      if (type != "full_attention") return Unsupported(where, "layer_types", "holds other kinds than full_attention");
    }
    return absl::OkStatus();  // transformers lets it win over the two fields below.
  }
  return family == Family::kLlama ? absl::OkStatus() : CheckSlidingWindow(json, layers, where);
}

// One id, a list of ids, or nothing.
absl::StatusOr<std::vector<int32_t>> ReadIds(const Json& json, std::string_view field, int64_t vocab,
                                             const std::string& where) {
  std::vector<int32_t> ids;
  if (!JsonHas(json, field)) return ids;
  const Json& value = json[std::string(field)];
  const Json list = value.is_array() ? value : Json::array({value});
  if (list.size() > 1024) return Bad(where, field, "lists more than 1024 ids");
  for (const Json& id : list) {
    if (!id.is_number_integer()) return Bad(where, field, "must be an id or a list of ids");
    const bool inside = id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(vocab);
    if (!inside) return Bad(where, field, StrCat("holds ", id.dump(), ", which is not in the vocabulary of ", vocab));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

// Settings of generation_config.json that change the output in transformers and that the sampler does not have.
std::vector<std::string> IgnoredSettings(const Json& json) {
  constexpr const char* kOffAtZero[] = {"no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
                                        "epsilon_cutoff",       "eta_cutoff",
                                        "penalty_alpha",        "diversity_penalty",
                                        "min_length",           "min_new_tokens"};
  constexpr const char* kOffAtOne[] = {"typical_p", "encoder_repetition_penalty", "top_h", "guidance_scale",
                                       "num_beams"};
  constexpr const char* kOffIfEmpty[] = {
      "suppress_tokens",    "begin_suppress_tokens", "bad_words_ids",
      "force_words_ids",    "forced_bos_token_id",   "forced_eos_token_id",
      "forced_decoder_ids", "sequence_bias",         "exponential_decay_length_penalty",
      "stop_strings",       "constraints",           "dola_layers",
      "watermarking_config"};
  std::vector<std::string> ignored;
  const auto note_if = [&](const char* name, auto is_on) {
    if (JsonHas(json, name) && is_on(json[name])) ignored.emplace_back(name);
  };
  for (const char* name : kOffAtZero) note_if(name, [](const Json& value) { return value != 0; });
  for (const char* name : kOffAtOne) note_if(name, [](const Json& value) { return value != 1; });
  for (const char* name : kOffIfEmpty) note_if(name, [](const Json& value) { return !value.empty(); });
  return ignored;
}

absl::Status ReadGeneration(const Json& json, const std::string& where, ModelConfig& config) {
  ASSIGN_OR_RETURN(const auto eos, ReadIds(json, "eos_token_id", config.shape.vocab, where));
  if (!eos.empty()) config.eos_token_ids = eos;
  ASSIGN_OR_RETURN(const auto bos, ReadIds(json, "bos_token_id", config.shape.vocab, where));
  if (!bos.empty()) config.bos_token_id = bos[0];
  ASSIGN_OR_RETURN(const double temperature, BoundedNumber(json, "temperature", 0, 100, where, -1));
  ASSIGN_OR_RETURN(const double top_p, BoundedNumber(json, "top_p", 0, 1, where, -1));
  ASSIGN_OR_RETURN(const double penalty, BoundedNumber(json, "repetition_penalty", 1e-3, 1e3, where, -1));
  ASSIGN_OR_RETURN(const int64_t top_k, BoundedInt(json, "top_k", -1, INT32_MAX, where, -1));
  ASSIGN_OR_RETURN(const double min_p, BoundedNumber(json, "min_p", 0, 1, where, -1));
  ASSIGN_OR_RETURN(const bool sample, BoolOr(json, "do_sample", true, where));
  config.temperature = sample ? static_cast<float>(temperature) : 0.0f;
  config.top_p = static_cast<float>(top_p);
  config.repetition_penalty = static_cast<float>(penalty);
  config.top_k = static_cast<int>(top_k);
  config.min_p = static_cast<float>(min_p);
  config.ignored_generation_settings = IgnoredSettings(json);
  return absl::OkStatus();
}

}  // namespace

namespace {

// What config.json or metadata in its words says.
absl::StatusOr<ModelConfig> ReadConfig(const Json& json, const std::string& where) {
  ModelConfig config;
  ASSIGN_OR_RETURN(const FamilyRow row, ReadFamily(json, where));
  config.architecture = row.architecture;
  config.model_type = row.model_type;
  ASSIGN_OR_RETURN(config.shape, ReadShape(json, row.family, where));
  ASSIGN_OR_RETURN(const double eps, BoundedNumber(json, "rms_norm_eps", 0, 0.1, where, 1e-6));
  config.norm_eps = static_cast<float>(eps);
  ASSIGN_OR_RETURN(config.rope, ReadRope(json, config.shape.head_dim, where));
  RETURN_IF_ERROR(CheckFeatures(json, row.family, config.shape.layers, where));
  ASSIGN_OR_RETURN(config.tie_word_embeddings, BoolOr(json, "tie_word_embeddings", false, where));
  ASSIGN_OR_RETURN(config.max_position_embeddings, BoundedInt(json, "max_position_embeddings", 1, 1 << 26, where));
  ASSIGN_OR_RETURN(config.eos_token_ids, ReadIds(json, "eos_token_id", config.shape.vocab, where));
  ASSIGN_OR_RETURN(const auto bos, ReadIds(json, "bos_token_id", config.shape.vocab, where));
  if (!bos.empty()) config.bos_token_id = bos[0];
  return config;
}

absl::StatusOr<ModelConfig> LoadGgufConfig(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufModel> model, GgufModel::Open(path));
  ASSIGN_OR_RETURN(const GgufConfig file, ReadGgufConfig(*model));
  absl::StatusOr<ModelConfig> config = ReadConfig(file.config, path);
  if (!config.ok()) return WithGgufKey(config.status(), file);
  if (!file.generation.empty()) RETURN_IF_ERROR(ReadGeneration(file.generation, path, *config));
  return config;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view text, std::string_view generation_text,
                                             const std::string& model_dir) {
  const std::string where = StrCat(model_dir, "/config.json");
  ASSIGN_OR_RETURN(const Json json, ParseJson(text, where));
  if (!json.is_object()) return absl::InvalidArgumentError(StrCat(where, ": is not a JSON object"));
  ASSIGN_OR_RETURN(ModelConfig config, ReadConfig(json, where));
  if (!generation_text.empty()) {
    const std::string generation_where = StrCat(model_dir, "/generation_config.json");
    ASSIGN_OR_RETURN(const Json generation, ParseJson(generation_text, generation_where));
    if (!generation.is_object()) {
      return absl::InvalidArgumentError(StrCat(generation_where, ": is not a JSON object"));
    }
    RETURN_IF_ERROR(ReadGeneration(generation, generation_where, config));
  }
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  if (IsGgufPath(model_dir)) return LoadGgufConfig(model_dir);
  struct stat info {};
  if (stat(model_dir.c_str(), &info) != 0) {
    return absl::NotFoundError(StrCat(model_dir, ": no such model folder"));
  }
  if (!S_ISDIR(info.st_mode))
    return absl::InvalidArgumentError(StrCat(model_dir, ": is neither a folder nor named *.gguf"));
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(StrCat(model_dir, "/config.json"), kConfigBytesMax));
  auto generation = ReadSmallFile(StrCat(model_dir, "/generation_config.json"), kConfigBytesMax);
  if (!generation.ok() && generation.status().code() != absl::StatusCode::kNotFound) return generation.status();
  return ParseModelConfig(text, generation.ok() ? *generation : "", model_dir);
}

}  // namespace shoal
