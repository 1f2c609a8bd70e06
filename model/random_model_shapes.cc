#include "model/random_model_shapes.h"

#include <array>

#include "base/json.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

// A row per shape. The large ones repeat the published config.json of the model of that name.
struct ShapeRow {
  std::string_view name;
  std::string_view family;  // qwen2, llama, qwen3
  int layers, hidden, heads, kv_heads, head_dim, ffn, vocab;
  double theta;
  double norm_eps;
  double rope_factor;  // llama3 scaling; 0: none
  int original_max_position;
  int max_position;
  bool tied;
  int bos;
  std::array<int, 3> eos;  // -1: fewer
};

constexpr std::array<ShapeRow, 10> kShapes = {{
    {"tiny-qwen2", "qwen2", 4, 128, 4, 2, 32, 320, 512, 1e4, 1e-6, 0, 0, 2048, false, 256, {257, -1, -1}},
    {"tiny-llama", "llama", 4, 128, 4, 2, 32, 352, 512, 5e5, 1e-5, 32, 256, 2048, true, 256, {257, -1, -1}},
    {"tiny-qwen3", "qwen3", 4, 128, 6, 3, 32, 288, 512, 1e6, 1e-6, 0, 0, 2048, false, 256, {257, -1, -1}},
    // Enough layers that a pipeline can be cut evenly, enough width that a step is compute and not overhead.
    {"small-qwen2", "qwen2", 16, 512, 8, 2, 64, 1536, 1024, 1e4, 1e-6, 0, 0, 2048, false, 256, {257, -1, -1}},
    {"qwen2.5-0.5b",
     "qwen2",
     24,
     896,
     14,
     2,
     64,
     4864,
     151936,
     1e6,
     1e-6,
     0,
     0,
     32768,
     true,
     151643,
     {151645, 151643, -1}},
    {"llama-3.2-1b",
     "llama",
     16,
     2048,
     32,
     8,
     64,
     8192,
     128256,
     5e5,
     1e-5,
     32,
     8192,
     131072,
     true,
     128000,
     {128001, 128008, 128009}},
    {"deepseek-r1-distill-qwen-1.5b",
     "qwen2",
     28,
     1536,
     12,
     2,
     128,
     8960,
     151936,
     1e4,
     1e-6,
     0,
     0,
     131072,
     false,
     151646,
     {151643, -1, -1}},
    {"deepseek-r1-distill-qwen-7b",
     "qwen2",
     28,
     3584,
     28,
     4,
     128,
     18944,
     152064,
     1e4,
     1e-6,
     0,
     0,
     131072,
     false,
     151646,
     {151643, -1, -1}},
    {"llama-3.1-8b",
     "llama",
     32,
     4096,
     32,
     8,
     128,
     14336,
     128256,
     5e5,
     1e-5,
     8,
     8192,
     131072,
     false,
     128000,
     {128001, 128008, 128009}},
    {"deepseek-r1-distill-qwen-14b",
     "qwen2",
     48,
     5120,
     40,
     8,
     128,
     13824,
     152064,
     1e6,
     1e-5,
     0,
     0,
     131072,
     false,
     151646,
     {151643, -1, -1}},
}};

constexpr std::string_view kChatTemplate =
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";

std::string MakeConfig(const ShapeRow& row, std::string_view dtype) {
  const bool llama = row.family == "llama", qwen2 = row.family == "qwen2";
  Json config = {{"architectures",
                  {qwen2   ? "Qwen2ForCausalLM"
                   : llama ? "LlamaForCausalLM"
                           : "Qwen3ForCausalLM"}},
                 {"model_type", row.family},
                 {"attention_dropout", 0.0},
                 {"bos_token_id", row.bos},
                 {"eos_token_id", row.eos[0]},
                 {"hidden_act", "silu"},
                 {"hidden_size", row.hidden},
                 {"initializer_range", 0.02},
                 {"intermediate_size", row.ffn},
                 {"max_position_embeddings", row.max_position},
                 {"num_attention_heads", row.heads},
                 {"num_hidden_layers", row.layers},
                 {"num_key_value_heads", row.kv_heads},
                 {"rms_norm_eps", row.norm_eps},
                 {"rope_theta", row.theta},
                 {"tie_word_embeddings", row.tied},
                 {"torch_dtype", dtype},
                 {"use_cache", true},
                 {"vocab_size", row.vocab}};
  if (llama || row.head_dim * row.heads != row.hidden) config["head_dim"] = row.head_dim;
  if (!qwen2) config["attention_bias"] = false;
  if (llama) config["mlp_bias"] = false;
  if (!llama) config["use_sliding_window"] = false;
  if (row.rope_factor > 0) {
    config["rope_scaling"] = {{"factor", row.rope_factor},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", row.original_max_position},
                              {"rope_type", "llama3"}};
  }
  return config.dump(2) + "\n";
}

std::string MakeGeneration(const ShapeRow& row) {
  Json eos = Json::array();
  for (int id : row.eos) {
    if (id >= 0) eos.push_back(id);
  }
  const Json generation = {
      {"bos_token_id", row.bos}, {"do_sample", true}, {"eos_token_id", eos}, {"temperature", 0.6}, {"top_p", 0.95}};
  return generation.dump(2) + "\n";
}

void AppendCodePoint(int code, std::string& out) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else {  // Below 0x800 here.
    out += static_cast<char>(0xc0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3f));
  }
}

// The character that stands for a byte in byte-level tokenizers: itself if it is printable, else from U+0100 on.
// Source: `bytes_to_unicode` of the GPT-2 release.
std::array<std::string, 256> ByteCharacters() {
  std::array<std::string, 256> characters;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    AppendCodePoint(printable ? byte : next++, characters[byte]);
  }
  return characters;
}

Json SpecialToken(int id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

// Bytes are the ids 0-255 and no pair ever merges, so every text can be encoded. All other ids but the special ones are
// words that a random model may say and nobody can type.
std::string MakeTokenizer(const ShapeRow& row) {
  Json vocab = Json::object();
  const auto characters = ByteCharacters();
  for (int byte = 0; byte < 256; ++byte) vocab[characters[byte]] = byte;
  Json added = Json::array();
  added.push_back(SpecialToken(row.bos, "<|begin|>"));
  for (size_t i = 0; i < row.eos.size(); ++i) {
    if (row.eos[i] >= 0 && row.eos[i] != row.bos)
      added.push_back(SpecialToken(row.eos[i], StrCat("<|end", i == 0 ? "" : StrCat(i), "|>")));
  }
  for (int id = 256; id < row.vocab; ++id) {
    bool special = false;
    for (const Json& token : added) special |= token["id"] == id;
    if (!special) vocab[StrCat(characters[' '], "w", id)] = id;
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", true}};
  const Json tokenizer = {{"version", "1.0"},
                          {"truncation", nullptr},
                          {"padding", nullptr},
                          {"added_tokens", added},
                          {"normalizer", nullptr},
                          {"pre_tokenizer", byte_level},
                          {"post_processor", byte_level},
                          {"decoder", byte_level},
                          {"model",
                           {{"type", "BPE"},
                            {"dropout", nullptr},
                            {"unk_token", nullptr},
                            {"continuing_subword_prefix", nullptr},
                            {"end_of_word_suffix", nullptr},
                            {"fuse_unk", false},
                            {"byte_fallback", false},
                            {"ignore_merges", false},
                            {"vocab", vocab},
                            {"merges", Json::array()}}}};
  return tokenizer.dump() + "\n";
}

std::string MakeTokenizerConfig(const ShapeRow& row) {
  const bool shared = row.bos == row.eos[0];
  const Json config = {{"add_bos_token", true},
                       {"add_eos_token", false},
                       {"bos_token", "<|begin|>"},
                       {"eos_token", shared ? "<|begin|>" : "<|end|>"},
                       {"chat_template", kChatTemplate},
                       {"clean_up_tokenization_spaces", false},
                       {"model_max_length", row.max_position},
                       {"tokenizer_class", "PreTrainedTokenizerFast"}};
  return config.dump(2) + "\n";
}

}  // namespace

std::vector<std::string_view> RandomModelShapeNames() {
  std::vector<std::string_view> names;
  for (const ShapeRow& row : kShapes) names.push_back(row.name);
  return names;
}

std::optional<RandomModelFiles> MakeRandomModelFiles(std::string_view shape, std::string_view dtype) {
  for (const ShapeRow& row : kShapes) {
    if (row.name != shape) continue;
    return RandomModelFiles{MakeConfig(row, dtype), MakeGeneration(row), MakeTokenizer(row), MakeTokenizerConfig(row)};
  }
  return std::nullopt;
}

}  // namespace shoal
