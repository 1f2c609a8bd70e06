#include "tools/offline_command.h"

#include <cstdio>
#include <optional>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/prepare.h"
#include "tools/commands.h"

namespace shoal {
namespace {

std::string KvName(DType kv) { return kv == DType::kI8 ? "int8" : kv == DType::kF32 ? "f32" : "f16"; }

absl::StatusOr<DType> KvFromName(const std::string& name) {
  for (const DType kv : {DType::kF16, DType::kF32, DType::kI8}) {
    if (name == KvName(kv)) return kv;
  }
  return absl::InvalidArgumentError(StrCat("--kv is '", name, "'; it must be f16, f32 or int8"));
}

// "pp512", "tg32 b4 @ 4096".
std::string RowName(const SpeedRow& row) {
  if (row.prompt > 0) return StrCat("pp", row.prompt);
  return StrCat("tg", row.steps, " b", row.batch, row.depth > 0 ? StrCat(" @ ", row.depth) : "");
}

double Mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

int64_t UsedFor(const OfflineReport& report, MemoryKind kind) { return report.memory.used[static_cast<size_t>(kind)]; }

Json SpreadJson(const Spread& spread) { return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}}; }

// Of the machine's rates; the second is none where the products are not of int8.
struct Fractions {
  double bandwidth = 0;
  std::optional<double> int8;
};

Fractions FractionsOf(const OfflineReport& report, const SpeedRow& row) {
  Fractions fractions{row.bytes_per_second() / report.rates.read_bytes_per_second, std::nullopt};
  if (MultipliesInt8(report.plan.formats)) fractions.int8 = row.ops_per_second() / report.rates.int8_ops_per_second;
  return fractions;
}

Json RowJson(const OfflineReport& report, const SpeedRow& row) {
  Json json;
  if (row.prompt > 0) {
    json["prompt_tokens"] = row.prompt;
  } else {
    json["batch"] = row.batch;
    json["depth"] = row.depth;
    json["tokens_per_second_per_sequence"] = row.tokens_per_second().median / static_cast<double>(row.batch);
  }
  json["steps"] = row.steps;
  json["tokens"] = row.tokens;
  json["seconds"] = SpreadJson(row.seconds);
  json["tokens_per_second"] = SpreadJson(row.tokens_per_second());
  json["bytes_per_step"] = static_cast<double>(row.cost.bytes) / static_cast<double>(row.steps);
  json["ops_per_step"] = static_cast<double>(row.cost.ops) / static_cast<double>(row.steps);
  json["bytes_per_second"] = row.bytes_per_second();
  json["ops_per_second"] = row.ops_per_second();
  const Fractions fractions = FractionsOf(report, row);
  json["bandwidth_fraction"] = fractions.bandwidth;
  json["int8_fraction"] = fractions.int8 ? Json(*fractions.int8) : Json();
  return json;
}

absl::StatusOr<OfflineBenchOptions> ReadOptions(const Arguments& arguments) {
  OfflineBenchOptions options;
  options.model.model_dir = arguments.Text("model");
  if (options.model.model_dir.empty()) return absl::InvalidArgumentError("--offline needs --model DIR");
  if (arguments.Has("weights")) {
    const std::string name = arguments.Text("weights");
    ASSIGN_OR_RETURN(options.model.weights, WeightFormatFromName(name == "fp32" ? "f32" : name));
  }
  if (arguments.Has("kv")) {
    ASSIGN_OR_RETURN(options.model.kv, KvFromName(arguments.Text("kv")));
  }
  options.model.isa = arguments.Text("isa");
  ASSIGN_OR_RETURN(const int64_t threads, arguments.Integer("threads", 0, 1, 1024));
  options.model.threads = static_cast<int>(threads);
  ASSIGN_OR_RETURN(const int64_t chunk, arguments.Integer("chunk", 0, 1, 8192));
  options.model.max_step_tokens = static_cast<int>(chunk);
  ASSIGN_OR_RETURN(options.prompts, arguments.Integers("prompt", options.prompts, 0, int64_t{1} << 20));
  std::erase(options.prompts, 0);
  ASSIGN_OR_RETURN(options.generate, arguments.Integer("generate", options.generate, 0, 100000));
  ASSIGN_OR_RETURN(options.batches, arguments.Integers("batch", options.batches, 1, 256));
  ASSIGN_OR_RETURN(options.depths, arguments.Integers("depth", options.depths, 0, int64_t{1} << 20));
  ASSIGN_OR_RETURN(options.repeat, arguments.Integer("repeat", options.repeat, 1, 1000));
  ASSIGN_OR_RETURN(options.seed, arguments.Seed("seed", options.seed));
  return options;
}

}  // namespace

const std::vector<Flag>& OfflineFlags() {
  static const std::vector<Flag> flags = {
      {"model", "DIR", "the model, as shoal-server takes it"},
      {"weights", "FORMAT", "int4, int8, bf16 or fp32; default int8, or as the model was prepared"},
      {"kv", "FORMAT", "f16, f32 or int8; default f16"},
      {"threads", "N", "default: the cores this process may use"},
      {"isa", "NAME", "portable, avx2, avxvnni, avx512 or amx; default: the best here"},
      {"chunk", "N", "tokens of one prefill step; default 512"},
      {"prompt", "N,...", "tokens of prompts to prefill; 0: none; default 512"},
      {"generate", "N", "decode steps of one repetition; 0: none; default 32"},
      {"batch", "N,...", "sequences of a decode step; default 1,2,4,8"},
      {"depth", "N,...", "tokens of context before the decode steps; default 0"},
      {"repeat", "N", "repetitions; default 5"}};
  return flags;
}

std::string OfflineTable(const OfflineReport& report) {
  const FormatPlan& formats = report.plan.formats;
  std::string text = absl::StrFormat(
      "%s, weights %s, KV %s, %s, chunks of %d tokens\n"
      "weights %.1f MiB in %.2f s; ready %.2f s and first token %.2f s after the start; peak %.1f MiB resident\n\n",
      report.architecture, std::string(WeightFormatName(formats.qkv)), KvName(formats.kv), report.device,
      report.plan.max_step_tokens, Mib(UsedFor(report, MemoryKind::kWeights)), report.load_seconds,
      report.ready_seconds, report.first_token_seconds, Mib(report.peak_resident_bytes));
  text += absl::StrFormat("%-18s %10s %21s %10s %9s %8s %6s %8s %6s\n", "test", "tokens/s", "min .. max", "/sequence",
                          "ms/step", "GB/s", "%", "GOPS", "%");
  for (const SpeedRow& row : report.rows) {
    const Spread speed = row.tokens_per_second();
    const Fractions fractions = FractionsOf(report, row);
    text += absl::StrFormat("%-18s %10.2f %9.2f .. %8.2f %10.2f %9.2f %8.2f %6.1f %8.1f %6s\n", RowName(row),
                            speed.median, speed.min, speed.max, speed.median / static_cast<double>(row.batch),
                            row.seconds.median * 1e3 / static_cast<double>(row.steps), row.bytes_per_second() / 1e9,
                            100 * fractions.bandwidth, row.ops_per_second() / 1e9,
                            fractions.int8 ? absl::StrFormat("%.1f", 100 * *fractions.int8) : "-");
  }
  text +=
      absl::StrFormat("\n%% of what %d threads can do here: %.2f GB/s of reading, %.1f GOPS of int8 products (%s)\n",
                      report.rates.threads, report.rates.read_bytes_per_second / 1e9,
                      report.rates.int8_ops_per_second / 1e9, report.rates.kernels);
  return text;
}

Json MachineJson(const MachineRates& rates) {
  return {{"threads", rates.threads},
          {"kernels", rates.kernels},
          {"read_bytes_per_second", rates.read_bytes_per_second},
          {"int8_ops_per_second", rates.int8_ops_per_second}};
}

Json OfflineJson(const OfflineReport& report) {
  const FormatPlan& formats = report.plan.formats;
  Json json = {{"architecture", report.architecture},
               {"weights", WeightFormatName(formats.qkv)},
               {"kv", KvName(formats.kv)},
               {"device", report.device},
               {"chunk_tokens", report.plan.max_step_tokens},
               {"load_seconds", report.load_seconds},
               {"ready_seconds", report.ready_seconds},
               {"first_token_seconds", report.first_token_seconds},
               {"peak_resident_bytes", report.peak_resident_bytes},
               {"weight_bytes", UsedFor(report, MemoryKind::kWeights)},
               {"kv_bytes", UsedFor(report, MemoryKind::kKv)},
               {"activation_bytes", UsedFor(report, MemoryKind::kActivations)},
               {"machine", MachineJson(report.rates)},
               {"prefill", Json::array()},
               {"decode", Json::array()}};
  for (const SpeedRow& row : report.rows) json[row.prompt > 0 ? "prefill" : "decode"].push_back(RowJson(report, row));
  return json;
}

absl::Status RunOfflineCommand(const Arguments& arguments) {
  ASSIGN_ARGUMENT(OfflineBenchOptions options, ReadOptions(arguments));
  ASSIGN_OR_RETURN(const OfflineReport report, RunOfflineBench(std::move(options)));
  const std::string text = arguments.Has("json") ? OfflineJson(report).dump(2) + "\n" : OfflineTable(report);
  std::fputs(text.c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace shoal
