#include "model/chat_template.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/json.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"
#include "model/jinja_interpreter.h"
#include "model/jinja_parser.h"
#include "model/tokenizer_gguf.h"
#include "model/tokenizer_json.h"

namespace shoal {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kStepsMax = 1'000'000;
constexpr size_t kTemplatesMax = 16;

struct NamedTemplate {
  std::string name;
  std::string source;
  jinja::Body body;
};

absl::Status Error(std::string_view where, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(where, ": ", what));
}

absl::StatusOr<NamedTemplate> Parse(std::string name, std::string_view source, std::string_view where) {
  if (source.size() > ChatTemplate::kTemplateBytesMax) {
    return Error(where, StrCat("the template is longer than ", ChatTemplate::kTemplateBytesMax, " bytes"));
  }
  absl::StatusOr<jinja::Body> body = jinja::ParseTemplate(source);
  if (!body.ok()) return Error(where, std::string(body.status().message()));
  return NamedTemplate{std::move(name), std::string(source), *std::move(body)};
}

// `chat_template` of tokenizer_config.json: a string, or [{"name": ..., "template": ...}, ...].
absl::Status ParseConfigTemplates(const Json& config, std::string_view where, std::vector<NamedTemplate>* templates) {
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  if (it->is_string()) {
    ASSIGN_OR_RETURN(NamedTemplate parsed, Parse("default", it->get<std::string>(), where));
    templates->push_back(std::move(parsed));
    return absl::OkStatus();
  }
  if (!it->is_array() || it->size() > kTemplatesMax) {
    return Error(where,
                 StrCat("field 'chat_template' must be a string or an array of at most ", kTemplatesMax, " templates"));
  }
  for (const Json& entry : *it) {
    ASSIGN_OR_RETURN(std::string name, JsonString(entry, "name", StrCat(where, ": chat_template")));
    ASSIGN_OR_RETURN(const std::string source, JsonString(entry, "template", StrCat(where, ": chat_template")));
    ASSIGN_OR_RETURN(NamedTemplate parsed,
                     Parse(name, source, StrCat(where, ": chat_template '", name.substr(0, 64), "'")));
    templates->push_back(std::move(parsed));
  }
  return absl::OkStatus();
}

// "bos_token": text or {"content": text}.
absl::StatusOr<std::string> TokenText(const Json& config, const char* key, std::string_view where) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return std::string();
  if (it->is_string()) return it->get<std::string>();
  if (it->is_object()) return JsonString(*it, "content", StrCat(where, ": ", key));
  return Error(where, StrCat("field '", key, "' must be a string or an object with 'content'"));
}

absl::StatusOr<ordered_json> MessagesJson(const std::vector<ChatMessage>& messages) {
  ordered_json out = ordered_json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    for (const std::string* text : {&message.role, &message.content}) {
      if (const size_t bad = FindInvalidUtf8(*text); bad != std::string_view::npos) {
        return Error(StrCat("messages[", i, "]"), StrCat("is not valid UTF-8 at byte ", bad));
      }
    }
    ordered_json object = {{"role", message.role}, {"content", message.content}};
    if (!message.extra.is_null() && !message.extra.is_object()) {
      return Error(StrCat("messages[", i, "]"), "the further fields must be an object");
    }
    for (const auto& [key, value] : message.extra.items()) object[key] = value;
    out.push_back(std::move(object));
  }
  return out;
}

// "additional_special_tokens": an array of token texts, which some templates index.
absl::Status AddSpecialTokens(const Json& config, std::string_view where,
                              std::vector<std::pair<std::string, ordered_json>>* tokens) {
  const auto it = config.find("additional_special_tokens");
  if (it == config.end() || !it->is_array() || it->empty()) return absl::OkStatus();
  ordered_json texts = ordered_json::array();
  for (const Json& token : *it) {
    if (token.is_string()) {
      texts.push_back(token.get<std::string>());
    } else {
      ASSIGN_OR_RETURN(std::string text, JsonString(token, "content", StrCat(where, ": additional_special_tokens")));
      texts.push_back(std::move(text));
    }
  }
  tokens->emplace_back("additional_special_tokens", std::move(texts));
  return absl::OkStatus();
}

bool IsDeeper(const ordered_json& json, int depth_max) {
  if (!json.is_structured()) return false;
  return depth_max == 0 || std::any_of(json.begin(), json.end(), [depth_max](const ordered_json& child) {
           return IsDeeper(child, depth_max - 1);
         });
}

// Bytes of a value's text; also that its strings are UTF-8 and that walks over it may recurse. Errors:
// kInvalidArgument.
absl::StatusOr<size_t> JsonBytes(const ordered_json& json) {
  if (IsDeeper(json, jinja::kValueDepthMax - 1)) {
    return absl::InvalidArgumentError(
        StrCat("the input of the template is nested deeper than ", jinja::kValueDepthMax - 1));
  }
  try {
    return json.dump().size();
  } catch (const ordered_json::exception&) {
    return absl::InvalidArgumentError("the input of the template is not valid UTF-8");
  }
}

}  // namespace

struct ChatTemplate::Impl {
  std::string where;
  std::vector<NamedTemplate> templates;
  std::vector<std::pair<std::string, ordered_json>> tokens;  // Variables: bos_token, eos_token, ...

  const NamedTemplate& Find(std::string_view name) const {
    for (const NamedTemplate& candidate : templates) {
      if (candidate.name == name) return candidate;
    }
    return templates[0];
  }

  absl::Status ReadGguf(const GgufMetadata& metadata);
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

const std::string& ChatTemplate::source() const { return impl_->Find("default").source; }

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Create(std::string_view source, std::string_view where,
                                                                   std::string_view bos_token,
                                                                   std::string_view eos_token) {
  auto impl = std::make_unique<Impl>();
  impl->where = std::string(where);
  ASSIGN_OR_RETURN(NamedTemplate parsed, Parse("default", source, where));
  impl->templates.push_back(std::move(parsed));
  impl->tokens = {{"bos_token", std::string(bos_token)}, {"eos_token", std::string(eos_token)}};
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
}

// From the metadata of a GGUF file: `tokenizer.chat_template`, and further ones by name.
absl::Status ChatTemplate::Impl::ReadGguf(const GgufMetadata& metadata) {
  constexpr std::string_view kTemplate = "tokenizer.chat_template", kNames = "tokenizer.chat_templates";
  where = StrCat(metadata.where(), ": ", kTemplate);
  const auto add = [&](std::string_view name, const std::string& key) -> absl::Status {
    ASSIGN_OR_RETURN(const std::string_view source, metadata.Text(key));
    ASSIGN_OR_RETURN(NamedTemplate parsed, Parse(std::string(name), source, StrCat(metadata.where(), ": ", key)));
    templates.push_back(std::move(parsed));
    return absl::OkStatus();
  };
  if (metadata.Has(kTemplate)) RETURN_IF_ERROR(add("default", std::string(kTemplate)));
  if (metadata.Has(kNames)) {
    ASSIGN_OR_RETURN(const std::vector<std::string_view> names, metadata.Texts(kNames));
    if (names.size() > kTemplatesMax) return Error(where, StrCat("has more than ", kTemplatesMax, " further names"));
    for (const std::string_view name : names) RETURN_IF_ERROR(add(name, StrCat(kTemplate, ".", name)));
  }
  if (templates.empty()) {
    return absl::NotFoundError(StrCat(metadata.where(), ": the model has no chat template (no '", kTemplate,
                                      "' in its metadata); send a plain prompt"));
  }
  ASSIGN_OR_RETURN(const TokenizerSpec spec, ReadGgufTokenizer(metadata));
  const std::pair<const char*, std::optional<int32_t>> ids[] = {
      {"bos_token", spec.bos_id}, {"eos_token", spec.eos_id}, {"pad_token", spec.pad_id}};
  for (const auto& [name, id] : ids) {
    if (id.has_value()) tokens.emplace_back(name, spec.tokens[static_cast<size_t>(*id)]);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& model_dir) {
  auto impl = std::make_unique<Impl>();
  if (const std::string gguf = GgufTokenizerPath(model_dir); !gguf.empty()) {
    ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(gguf));
    RETURN_IF_ERROR(impl->ReadGguf(file->header().metadata));
    return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
  }
  const std::string config_path = StrCat(model_dir, "/tokenizer_config.json");
  absl::StatusOr<Json> config = ReadJsonFile(config_path, kTokenizerConfigBytesMax);
  if (!config.ok() && !absl::IsNotFound(config.status())) return config.status();
  if (config.ok() && !config->is_object()) return Error(config_path, "must be a JSON object");
  const std::string path = StrCat(model_dir, "/chat_template.jinja");
  const absl::StatusOr<std::string> source = ReadSmallFile(path, kTemplateBytesMax);
  impl->where = source.ok() ? path : config_path;
  if (source.ok()) {
    ASSIGN_OR_RETURN(NamedTemplate parsed, Parse("default", *source, path));
    impl->templates.push_back(std::move(parsed));
  } else if (!absl::IsNotFound(source.status())) {
    return source.status();
  } else if (config.ok()) {
    RETURN_IF_ERROR(ParseConfigTemplates(*config, config_path, &impl->templates));
  }
  if (impl->templates.empty()) {
    return absl::NotFoundError(StrCat(model_dir,
                                      ": the model has no chat template (no chat_template.jinja, and no "
                                      "'chat_template' in tokenizer_config.json); send a plain prompt"));
  }
  for (const char* key : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    if (!config.ok()) break;
    ASSIGN_OR_RETURN(std::string text, TokenText(*config, key, config_path));
    // Absent ones stay undefined, as in transformers, so that "is defined" tells.
    if (JsonHas(*config, key)) impl->tokens.emplace_back(key, std::move(text));
  }
  if (config.ok()) RETURN_IF_ERROR(AddSpecialTokens(*config, config_path, &impl->tokens));
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
}

absl::StatusOr<std::string> ChatTemplate::Render(const std::vector<ChatMessage>& messages,
                                                 const ChatTemplateOptions& options) const {
  ASSIGN_OR_RETURN(ordered_json message_json, MessagesJson(messages));
  const bool has_tools = options.tools.is_array() && !options.tools.empty();
  const NamedTemplate& chosen = impl_->Find(has_tools ? "tool_use" : "default");
  if (!options.variables.is_null() && !options.variables.is_object()) {
    return absl::InvalidArgumentError("the variables of a chat template must be an object");
  }
  size_t input_bytes = chosen.source.size();
  std::vector<std::pair<std::string, jinja::Value>> variables;
  const auto add = [&](const std::string& name, const ordered_json& json) -> absl::Status {
    ASSIGN_OR_RETURN(const size_t bytes, JsonBytes(json));
    input_bytes += bytes;
    ASSIGN_OR_RETURN(jinja::Value value, jinja::Value::FromJson(json));
    variables.emplace_back(name, std::move(value));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(add("messages", message_json));
  RETURN_IF_ERROR(add("tools", options.tools));
  RETURN_IF_ERROR(add("documents", nullptr));
  RETURN_IF_ERROR(add("add_generation_prompt", options.add_generation_prompt));
  for (const auto& [name, text] : impl_->tokens) RETURN_IF_ERROR(add(name, text));
  // Last: the first of two variables with one name counts.
  for (const auto& [name, value] : options.variables.items()) RETURN_IF_ERROR(add(name, value));
  jinja::Limits limits;
  // Work grows with the conversation: each of its bytes is copied a few times.
  limits.steps = kStepsMax + static_cast<int64_t>(input_bytes);
  limits.output_bytes = 4 * input_bytes + (64 << 10);
  jinja::Interpreter interpreter(limits, options.now == absl::UnixEpoch() ? absl::Now() : options.now);
  absl::StatusOr<std::string> text = interpreter.Render(chosen.body, std::move(variables));
  if (!text.ok()) {
    return absl::Status(text.status().code(), StrCat("chat template (", impl_->where, "): ", text.status().message()));
  }
  return text;
}

}  // namespace shoal
