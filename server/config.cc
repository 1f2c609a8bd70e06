#include "server/config.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "server/text_config.h"

namespace shoal {
namespace {

constexpr size_t kConfigBytesMax = 1 << 20;

// Collects what is wrong with the values, each at its place in the text.
class Checker {
 public:
  explicit Checker(TextConfig* text) : text_(text) {}

  void Fail(const std::string& path, std::string_view what) {
    if (text_->errors.size() >= kTextErrorsMax) return;
    const auto place = text_->places.find(path);
    const TextPlace at = place == text_->places.end() ? TextPlace{} : place->second;
    text_->errors.push_back({at, StrCat(path, " ", what)});
  }

  template <typename T>
  void Range(const std::string& path, T value, T low, T high) {
    // Written so that NaN fails.
    if (value >= low && value <= high) return;
    Fail(path, StrCat("is ", value, "; it must be from ", low, " to ", high));
  }

  int64_t Bytes(const std::string& path, const std::string& text, int64_t low, int64_t high) {
    const absl::StatusOr<int64_t> bytes = ParseBytes(text);
    if (!bytes.ok()) {
      Fail(path, std::string(bytes.status().message()));
      return low;
    }
    if (*bytes < low || *bytes > high)
      Fail(path, StrCat("is ", text, "; it must be from ", low, " to ", high, " bytes"));
    return *bytes;
  }

 private:
  TextConfig* text_;
};

// An address of this machine alone. Of names only "localhost": any other, "127.example.com" too, can be made to lead
// elsewhere.
bool IsLoopback(const std::string& host) {
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET;
  in6_addr v6;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return host == "localhost";
}

constexpr std::string_view kRemoteRefused =
    "is not a loopback address; there is no TLS yet, so set allow_insecure_remote: true if everybody who can reach it "
    "may use it";

void CheckPlan(const v1::ServerConfig& proto, size_t budgets, Checker* check) {
  int total = 0;
  for (int i = 0; i < proto.plan().stages_size(); ++i) {
    const v1::Stage& stage = proto.plan().stages(i);
    const std::string path = StrCat("plan.stages[", i, "]");
    check->Range<int64_t>(StrCat(path, ".ranks"), stage.ranks(), 1, 64);
    if (stage.has_layers()) check->Range<int64_t>(StrCat(path, ".layers"), stage.layers(), 1, 1000);
    if (stage.shares_size() > 0 && stage.shares_size() != stage.ranks()) {
      check->Fail(path, StrCat("has ", stage.shares_size(), " shares for ", stage.ranks(),
                               " ranks; give one per rank or none"));
    }
    for (int j = 0; j < stage.shares_size(); ++j) {
      check->Range(StrCat(path, ".shares[", j, "]"), stage.shares(j), 1e-3, 1e6);
    }
    total += std::min(std::max(stage.ranks(), 0), 64);
  }
  if (proto.plan().stages_size() > 64)
    check->Fail("plan", StrCat("has ", proto.plan().stages_size(), " stages; at most 64"));
  if (proto.plan().automatic() && proto.plan().stages_size() > 0) {
    check->Fail("plan.automatic", "is true but stages are given; keep one of the two");
  }
  if (total > 0 && budgets > 1 && budgets != static_cast<size_t>(total)) {
    check->Fail("memory_budget[0]", StrCat("starts a list of ", budgets, " budgets for the plan's ", total,
                                           " ranks; give one for all or one per rank"));
  }
}

void CheckFormats(const v1::Formats& formats, Checker* check) {
  using F = v1::Formats;
  if (formats.has_embedding() && formats.embedding() != F::F32 && formats.embedding() != F::BF16) {
    check->Fail("formats.embedding", StrCat("is ", F::Weight_Name(formats.embedding()), "; it must be F32 or BF16"));
  }
  const std::pair<const char*, F::Weight> classes[] = {{"qkv", formats.qkv()},
                                                       {"attention_out", formats.attention_out()},
                                                       {"gate_up", formats.gate_up()},
                                                       {"down", formats.down()},
                                                       {"lm_head", formats.lm_head()}};
  const bool given[] = {formats.has_qkv(), formats.has_attention_out(), formats.has_gate_up(), formats.has_down(),
                        formats.has_lm_head()};
  for (int i = 0; i < 5; ++i) {
    if (!given[i]) continue;
    const std::string path = StrCat("formats.", classes[i].first);
    if (classes[i].second == F::PREPARED)
      check->Fail(path, "is PREPARED; that can only be said of all classes, in formats.weights");
    if (formats.weights() == F::PREPARED && classes[i].second != F::PREPARED) {
      check->Fail(path, "cannot be chosen when formats.weights is PREPARED; the prepared folder decides");
    }
  }
}

void CheckNumbers(const v1::ServerConfig& proto, Checker* check) {
  const auto& kv = proto.kv_cache();
  check->Range<int64_t>("kv_cache.block_tokens", kv.block_tokens(), 1, 1024);
  if (kv.has_blocks()) check->Range<int64_t>("kv_cache.blocks", kv.blocks(), 1, int64_t{1} << 30);
  check->Range<int64_t>("kv_cache.tokens", kv.tokens(), 1, int64_t{1} << 32);
  if (kv.has_blocks() && kv.has_tokens())
    check->Fail("kv_cache.tokens", "has no meaning beside kv_cache.blocks; keep one");
  if (proto.has_max_context()) check->Range<int64_t>("max_context", proto.max_context(), 2, int64_t{1} << 20);
  const auto& batch = proto.batch();
  check->Range<int64_t>("batch.max_sequences", batch.max_sequences(), 1, 1024);
  check->Range<int64_t>("batch.max_step_tokens", batch.max_step_tokens(), 1, 8192);
  check->Range<int64_t>("batch.prefill_chunk_tokens", batch.prefill_chunk_tokens(), 1, 8192);
  check->Range<int64_t>("batch.max_waiting", batch.max_waiting(), 1, 100000);
  if (batch.prefill_chunk_tokens() > batch.max_step_tokens() && batch.max_step_tokens() > 0) {
    check->Fail(batch.has_prefill_chunk_tokens() ? "batch.prefill_chunk_tokens" : "batch.max_step_tokens",
                StrCat("does not fit: prefill_chunk_tokens ", batch.prefill_chunk_tokens(),
                       " is more than max_step_tokens ", batch.max_step_tokens()));
  }
  check->Range<int64_t>("threads", proto.threads(), 0, 1024);
  const std::string& path = proto.cuda().path();
  if (!path.empty() && path != "dp4a" && path != "sm75" && path != "sm80") {
    check->Fail("cuda.path", StrCat("is '", path, "'; it must be dp4a, sm75 or sm80"));
  }
  check->Range("drain_seconds", proto.drain_seconds(), 0.0, 86400.0);
  const auto& limits = proto.limits();
  check->Range<int64_t>("limits.streams_per_connection", limits.streams_per_connection(), 1, 100000);
  check->Range<int64_t>("limits.stop_strings", limits.stop_strings(), 0, 64);
  check->Range("limits.stalled_reader_seconds", limits.stalled_reader_seconds(), 0.1, 3600.0);
  check->Range("limits.step_seconds", limits.step_seconds(), 0.1, 86400.0);
}

void FillBytes(const v1::ServerConfig& proto, Checker* check, Config* config) {
  constexpr int64_t kTiB = int64_t{1} << 40;
  for (int i = 0; i < proto.memory_budget_size(); ++i) {
    config->memory_budget.push_back(
        check->Bytes(StrCat("memory_budget[", i, "]"), proto.memory_budget(i), 1 << 20, kTiB));
  }
  config->reserved_bytes = check->Bytes("reserved_memory", proto.reserved_memory(), 0, kTiB);
  config->workspace_bytes =
      check->Bytes("cuda.workspace_memory", proto.cuda().workspace_memory(), int64_t{1} << 20, int64_t{1} << 30);
  config->message_bytes = check->Bytes("limits.message_bytes", proto.limits().message_bytes(), 1 << 10, 256 << 20);
  config->prompt_bytes = check->Bytes("limits.prompt_bytes", proto.limits().prompt_bytes(), 1, 256 << 20);
  config->network_bytes = check->Bytes("limits.network_memory", proto.limits().network_memory(), 1 << 20, kTiB);
  if (config->prompt_bytes > config->message_bytes) {
    check->Fail(proto.limits().has_prompt_bytes() ? "limits.prompt_bytes" : "limits.message_bytes",
                StrCat("does not fit: prompt_bytes ", config->prompt_bytes, " is more than message_bytes ",
                       config->message_bytes));
  }
}

void FillPaths(const v1::ServerConfig& proto, Checker* check, Config* config) {
  if (proto.model().empty()) {
    check->Fail("model", "is missing; give the folder or the GGUF file of the model");
    return;
  }
  std::filesystem::path model(proto.model());
  if (model.is_relative()) model = std::filesystem::path(config->path).parent_path() / model;
  config->model_dir = model.lexically_normal().string();
  while (config->model_dir.size() > 1 && config->model_dir.back() == '/') config->model_dir.pop_back();
  const std::filesystem::path path(config->model_dir);
  const std::filesystem::path name = path.extension() == ".gguf" ? path.stem() : path.filename();
  config->served_model_name = proto.has_served_model_name() ? proto.served_model_name() : name.string();
  if (config->served_model_name.empty() || config->served_model_name.size() > 128) {
    check->Fail("served_model_name", "must have 1 to 128 bytes");
  }
}

}  // namespace

std::string ListenAddress::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return v6 ? StrCat("[", host, "]:", port) : StrCat(host, ":", port);
}

absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return absl::InvalidArgumentError(StrCat("is '", text, "', ", why, "; write HOST:PORT, such as 127.0.0.1:50051"));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad("which has no port");
  ListenAddress address;
  std::string_view host = text.substr(0, colon);
  if (!host.empty() && host.front() == '[') {
    if (host.back() != ']') return bad("whose '[' is not closed");
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return bad("an IPv6 address without brackets");
  }
  if (host.empty()) return bad("which has no host");
  for (char c : host) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-' && c != ':' && c != '_') {
      return bad("whose host has a character that no host name has");
    }
  }
  const std::string_view port = text.substr(colon + 1);
  if (port.empty() || port.size() > 5 || !absl::SimpleAtoi(ToAbsl(port), &address.port) || address.port < 0 ||
      address.port > 65535) {
    return bad("whose port is not a number from 0 to 65535");
  }
  address.host = std::string(host);
  address.loopback = IsLoopback(address.host);
  return address;
}

absl::StatusOr<int64_t> ParseBytes(std::string_view text) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {{"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
                                                                   {"TiB", 0x1p40}, {"KB", 1e3},     {"MB", 1e6},
                                                                   {"GB", 1e9},     {"TB", 1e12},    {"B", 1}};
  std::string_view number = text;
  double unit = 1;
  for (const auto& [name, factor] : kUnits) {
    if (number.size() < name.size() || number.substr(number.size() - name.size()) != name) continue;
    number.remove_suffix(name.size());
    unit = factor;
    break;
  }
  while (!number.empty() && number.back() == ' ') number.remove_suffix(1);
  double value = 0;
  const bool plain = !number.empty() && number.find_first_not_of("0123456789.") == std::string_view::npos;
  if (!plain || number.size() > 20 || !absl::SimpleAtod(ToAbsl(number), &value)) {
    return absl::InvalidArgumentError(StrCat("is '", text, "'; write a size such as 3700MiB, 4GiB or 4000000000"));
  }
  if (value * unit > 0x1p62) return absl::InvalidArgumentError(StrCat("is '", text, "', which is too large"));
  return static_cast<int64_t>(value * unit);
}

int Config::planned_ranks() const {
  int total = 0;
  for (const v1::Stage& stage : proto.plan().stages()) total += stage.ranks();
  return total;
}

absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& path) {
  Config config;
  config.path = path;
  TextConfig parsed = ParseTextConfig(text, &config.proto);
  Checker check(&parsed);
  const v1::ServerConfig& proto = config.proto;
  // A file that could not be read to its end would only bring errors that follow from the first ones.
  const bool missing_model_is_news = proto.has_model() || parsed.errors.empty();
  if (missing_model_is_news) FillPaths(proto, &check, &config);
  FillBytes(proto, &check, &config);
  CheckNumbers(proto, &check);
  CheckFormats(proto.formats(), &check);
  CheckPlan(proto, config.memory_budget.size(), &check);
  if (absl::StatusOr<ListenAddress> listen = ParseListenAddress(proto.listen()); !listen.ok()) {
    check.Fail("listen", std::string(listen.status().message()));
  } else {
    config.listen = *std::move(listen);
    if (!config.listen.loopback && !proto.allow_insecure_remote()) {
      check.Fail("listen", StrCat("'", proto.listen(), "' ", kRemoteRefused));
    }
  }
  if (parsed.errors.empty()) return config;
  const std::string lines = absl::StrJoin(parsed.errors, "\n", [&](std::string* out, const TextError& error) {
    absl::StrAppend(out, path, ":", error.place.line, ":", error.place.column, ": ", error.message);
  });
  return absl::InvalidArgumentError(lines);
}

absl::StatusOr<Config> LoadConfig(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kConfigBytesMax));
  return ParseConfig(text, path);
}

absl::Status OverrideListen(std::string_view text, Config* config) {
  absl::StatusOr<ListenAddress> listen = ParseListenAddress(text);
  if (!listen.ok()) return absl::InvalidArgumentError(StrCat("--listen ", listen.status().message()));
  if (!listen->loopback && !config->proto.allow_insecure_remote()) {
    return absl::InvalidArgumentError(StrCat("--listen '", text, "' ", kRemoteRefused));
  }
  config->listen = *std::move(listen);
  return absl::OkStatus();
}

EngineOptions MakeEngineOptions(const Config& config, int64_t kv_blocks, int64_t max_context, int64_t vocab_size) {
  const v1::Batch& batch = config.proto.batch();
  EngineOptions options;
  options.vocab_size = vocab_size;
  options.kv_blocks = kv_blocks;
  options.kv_block_tokens = config.proto.kv_cache().block_tokens();
  options.max_context = max_context;
  options.max_sequences = batch.max_sequences();
  options.max_step_tokens = batch.max_step_tokens();
  options.prefill_chunk_tokens = batch.prefill_chunk_tokens();
  options.max_waiting = batch.max_waiting();
  return options;
}

}  // namespace shoal
