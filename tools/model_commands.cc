// shoal plan, shoal tokenize, shoal quantize, shoal make-model: they work on files and need no server.
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/prepare.h"
#include "model/random_model.h"
#include "model/random_model_shapes.h"
#include "model/tokenizer.h"
#include "parallel/plan_text.h"
#include "server/config.h"
#include "server/wiring.h"
#include "tools/commands.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

// Numbers of a model that need not be there yet: a folder named like a known shape is planned from that shape.
absl::StatusOr<ModelConfig> ConfigForPlan(const Config& config) {
  std::error_code ignored;
  const std::string name = fs::path(config.model_dir).filename().string();
  const std::optional<RandomModelFiles> known = MakeRandomModelFiles(name, "bfloat16");
  if (fs::exists(config.model_dir, ignored) || !known) return LoadModelConfig(config.model_dir);
  std::fputs(StrCat("note: ", config.model_dir, " does not exist; planned from the known shape ", name, "\n").c_str(),
             stderr);
  return ParseModelConfig(known->config, known->generation, name);
}

absl::Status RunPlan(const Arguments& arguments) {
  ASSIGN_ARGUMENT(const int64_t asked, arguments.Integer("ranks", 0, 1, 4096));
  ASSIGN_OR_RETURN(const Config config, LoadConfig(arguments.Text("config")));
  int ranks = static_cast<int>(asked);
  if (ranks == 0) ranks = config.planned_ranks();
  if (ranks == 0 && config.memory_budget.size() > 1) ranks = static_cast<int>(config.memory_budget.size());
  if (ranks == 0) {
    ranks = 1;
    std::fputs("note: the plan is automatic; this is the one for 1 rank, --ranks N shows others\n", stderr);
  }
  ASSIGN_OR_RETURN(const ModelConfig model, ConfigForPlan(config));
  std::optional<FormatPlan> prepared;
  if (config.proto.formats().weights() == v1::Formats::PREPARED) {
    ASSIGN_OR_RETURN(prepared, PreparedFormats(config.model_dir));
  }
  ASSIGN_OR_RETURN(const PlanRequest request, MakePlanRequest(config, model, ranks, prepared));
  ASSIGN_OR_RETURN(const Plan plan, MakePlan(request));
  const std::string text = arguments.Has("json") ? PlanToJson(plan).dump(2) + "\n" : PlanToText(plan);
  std::fputs(text.c_str(), stdout);
  return absl::OkStatus();
}

absl::Status RunTokenize(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(arguments.Text("model")));
  EncodeOptions options;
  options.add_special_tokens = arguments.Has("add-special-tokens");
  options.parse_special = !arguments.Has("plain");
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    const absl::StatusOr<std::vector<int32_t>> ids = tokenizer->Encode(line, options);
    if (!ids.ok()) {
      std::fflush(stdout);
      return absl::Status(ids.status().code(), StrCat("line ", number, ": ", std::string(ids.status().message())));
    }
    std::fputs((absl::StrJoin(*ids, " ") + "\n").c_str(), stdout);
  }
  return absl::OkStatus();
}

// A bar while a person looks on.
LoadProgress ShowProgress(std::string what) {
  if (!LogIsTerminal()) return nullptr;
  return [progress = std::make_shared<Progress>(std::move(what))](int64_t done, int64_t total) {
    progress->Update(done, total);
    return absl::OkStatus();
  };
}

absl::Status RunQuantize(const Arguments& arguments) {
  FormatPlan formats;
  ASSIGN_ARGUMENT(const WeightFormat all, WeightFormatFromName(arguments.Text("weights")));
  const std::pair<const char*, WeightFormat*> classes[] = {{"qkv", &formats.qkv},
                                                           {"attention-out", &formats.attention_out},
                                                           {"gate-up", &formats.gate_up},
                                                           {"down", &formats.down},
                                                           {"lm-head", &formats.lm_head}};
  for (const auto& [name, format] : classes) {
    *format = all;
    if (arguments.Has(name)) {
      ASSIGN_ARGUMENT(*format, WeightFormatFromName(arguments.Text(name)));
    }
  }
  formats.embedding = EmbeddingFormatBeside(all);
  if (arguments.Has("embedding")) {
    ASSIGN_ARGUMENT(formats.embedding, WeightFormatFromName(arguments.Text("embedding")));
  }
  PrepareOptions options;
  options.progress = ShowProgress(StrCat("quantizing ", arguments.Text("model")));
  ASSIGN_OR_RETURN(const QuantizationReport report,
                   PrepareModel(arguments.Text("model"), arguments.Text("out"), formats, options));
  if (arguments.Has("report")) {
    for (const QuantizedTensor& tensor : report.tensors) {
      absl::PrintF("%-60s %-5s %7d x %-7d  %.3e\n", tensor.name, std::string(WeightFormatName(tensor.format)),
                   tensor.rows, tensor.cols, tensor.error.relative());
    }
  }
  absl::PrintF("%s: %d tensors quantized, mean squared error %.3e of the mean square\n", arguments.Text("out"),
               report.tensors.size(), report.total().relative());
  return absl::OkStatus();
}

absl::Status RunMakeModel(const Arguments& arguments) {
  RandomModelOptions options;
  const std::string dtype = arguments.Has("dtype") ? arguments.Text("dtype") : "bf16";
  if (dtype != "bf16" && dtype != "f32") {
    return UsageError(absl::InvalidArgumentError(StrCat("--dtype is '", dtype, "'; it must be bf16 or f32")));
  }
  options.dtype = dtype == "bf16" ? DType::kBF16 : DType::kF32;
  ASSIGN_ARGUMENT(options.seed, arguments.Seed("seed", options.seed));
  options.progress = ShowProgress(StrCat("writing ", arguments.Text("out")));
  RETURN_IF_ERROR(WriteRandomModel(arguments.Text("shape"), arguments.Text("out"), options));
  absl::PrintF("%s: %s with random weights (%s, seed %d)\n", arguments.Text("out"), arguments.Text("shape"), dtype,
               options.seed);
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> ModelCommands() {
  static const std::string shapes = StrCat(
      "Shapes: ",
      absl::StrJoin(RandomModelShapeNames(), ", ", [](std::string* out, std::string_view name) { out->append(name); }),
      ".");
  const Flag model = {"model", "PATH", "folder of the model, or its GGUF file", FlagKind::kText, true};
  const Flag out = {"out", "DIR", "folder to write; must not exist", FlagKind::kText, true};
  return {
      {"plan",
       "print who would hold what, or why it cannot be; starts nothing",
       "Reads the model's configuration only. A model folder that does not exist but is named like a shape of "
       "make-model "
       "is\n"
       "planned from that shape.",
       {{"config", "FILE", "deployment, as for shoal-server", FlagKind::kText, true},
        {"ranks", "N", "number of ranks; default: that of the stages or of the budgets, else 1"},
        {"json", "", "print JSON", FlagKind::kSwitch}},
       RunPlan},
      {"tokenize",
       "print the token ids of each line of standard input",
       "Ids are separated by blanks. Control tokens written in the text are read as tokens unless --plain is given.",
       {model,
        {"add-special-tokens", "", "add what the model expects around a text (BOS)", FlagKind::kSwitch},
        {"plain", "", "read control tokens in the text as plain text", FlagKind::kSwitch}},
       RunTokenize},
      {"quantize",
       "write a folder whose weights are quantized already, so that it loads without that work",
       "FORMAT is int8, int4, bf16 or f32. Serve the result with formats { weights: PREPARED }.",
       {model,
        out,
        {"weights", "FORMAT", "format of every class of matrices not named below", FlagKind::kText, true},
        {"qkv", "FORMAT", "query, key and value"},
        {"attention-out", "FORMAT", "attention output"},
        {"gate-up", "FORMAT", "gate and up projections"},
        {"down", "FORMAT", "down projection"},
        {"lm-head", "FORMAT", "vocabulary head"},
        {"embedding", "FORMAT", "bf16 or f32; default f32 with --weights f32, else bf16"},
        {"report", "", "print the error of every tensor", FlagKind::kSwitch}},
       RunQuantize},
      {"make-model",
       "write a checkpoint of a known shape with random weights, for speed work",
       shapes.c_str(),
       {{"shape", "NAME", "see below", FlagKind::kText, true},
        out,
        {"dtype", "TYPE", "bf16 or f32; default bf16"},
        {"seed", "S", "the same seed gives the same bytes; default 1"}},
       RunMakeModel}};
}

}  // namespace shoal
