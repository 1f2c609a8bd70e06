// shoal-cuda-driver: speed and memory of the CUDA back end without a server, models' weights being random numbers.
//
// Runs the real forward pass (model/decoder.h) on the real device under a memory budget. Prints a line per measurement
// as it comes, and everything again as one table; --json FILE keeps the numbers. Linked with the emulation it is a test
// of itself. Every model has a time limit, after which what is left of it is not measured.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/runtime.h"
#include "parallel/activation_layout.h"
#include "tests/gpu/bench_model.h"
#include "tests/gpu/measure.h"

namespace shoal {
namespace {

constexpr char kUsage[] = R"(shoal-cuda-driver [--NAME VALUE]...
  --index N           which GPU                                  (0)
  --path NAME         dp4a, sm75 or sm80 instead of the best     ()
  --shapes A,B        model shapes                               (deepseek-r1-distill-qwen-1.5b,...-7b)
  --formats A,B       int8, int4                                 (int8,int4)
  --batches A,B       decode batches                             (1,8,32)
  --prefill A,B       prompt lengths                             (512,2048)
  --context N         keys that a decoded token sees             (512)
  --max-context N     what the plan allows: sizes attention's grid; 0: what is measured (0)
  --budget-mib N      memory budget of models that fit in it     (4096)
  --steps N           steps per measurement                      (50)
  --copy-mib N        size of the copy that gives the bandwidth  (512)
  --mma-rounds N      length of the int8 rate's kernel           (2000)
  --seconds N         time limit of one model                    (90)
  --json FILE         where the numbers go                       ()
)";

constexpr int kNoGpu = 77;  // Exit code: not a failure.

struct Options {
  std::map<std::string, std::string> values = {{"index", "0"},
                                               {"path", ""},
                                               {"shapes", "deepseek-r1-distill-qwen-1.5b,deepseek-r1-distill-qwen-7b"},
                                               {"json", ""},
                                               {"formats", "int8,int4"},
                                               {"batches", "1,8,32"},
                                               {"context", "512"},
                                               {"prefill", "512,2048"},
                                               {"budget-mib", "4096"},
                                               {"steps", "50"},
                                               {"copy-mib", "512"},
                                               {"mma-rounds", "2000"},
                                               {"seconds", "90"},
                                               {"max-context", "0"}};

  const std::string& Text(const std::string& name) const { return values.at(name); }
  int64_t Number(const std::string& name) const { return std::atoll(values.at(name).c_str()); }
  std::vector<std::string> List(const std::string& name) const {
    std::vector<std::string> items(1);
    for (const char c : values.at(name)) {
      if (c == ',') {
        items.emplace_back();
      } else {
        items.back() += c;
      }
    }
    if (items.back().empty()) items.pop_back();
    return items;
  }
};

// Lines for people and numbers for programs.
class Report {
 public:
  // One measurement: what, its numbers, and the line's text.
  void Add(const std::string& what, Json numbers, const std::string& text) {
    numbers["what"] = what;
    json_["measurements"].push_back(std::move(numbers));
    lines_.push_back(StrCat(what, std::string(what.size() < 44 ? 44 - what.size() : 1, ' '), text));
    std::printf("%s\n", lines_.back().c_str());
    std::fflush(stdout);
  }
  Json& facts() { return json_["facts"]; }

  void PrintTable() const {
    std::printf("\n");
    for (const std::string& line : lines_) std::printf("%s\n", line.c_str());
  }
  absl::Status Write(const std::string& path) const {
    if (path.empty()) return absl::OkStatus();
    std::ofstream file(path);
    file << json_.dump(1) << "\n";
    file.close();
    return file ? absl::OkStatus() : absl::UnavailableError(StrCat(path, ": cannot be written"));
  }

 private:
  Json json_ = {{"measurements", Json::array()}, {"facts", Json::object()}};
  std::vector<std::string> lines_;
};

// printf for one number.
std::string Show(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

// What all measurements of one model share.
struct Bench {
  const Options& options;
  Report& report;
  const Ceilings& ceilings;
  std::string name;
  BenchModel& model;
  Device& device;
  double deadline;

  // Says so once the model's time is up.
  bool TimeIsUp(const std::string& what) {
    if (NowSeconds() < deadline) return false;
    report.Add(StrCat(name, " ", what), Json::object(), "not measured: the model's time is up");
    return true;
  }
};

absl::Status BenchDecode(Bench& b, int batch) {
  if (b.TimeIsUp(StrCat("decode ", batch))) return absl::OkStatus();
  const int64_t context = b.options.Number("context");
  RETURN_IF_ERROR(b.model.SetStep(batch, 1, context));
  // The record must give the bits of what it has recorded.
  RETURN_IF_ERROR(b.model.QueueForward());
  ASSIGN_OR_RETURN(const std::vector<float> eager, b.model.Logits());
  RETURN_IF_ERROR(b.model.QueueReplay(batch));
  ASSIGN_OR_RETURN(const std::vector<float> replayed, b.model.Logits());
  if (std::memcmp(eager.data(), replayed.data(), eager.size() * sizeof(float)) != 0) {
    return absl::InternalError(StrCat(b.name, ", batch ", batch, ": the graph gives other logits"));
  }
  const double bytes = static_cast<double>(b.model.step_weight_bytes() + b.model.step_kv_bytes(batch, context));
  for (const bool graphs : {true, false}) {
    const auto forward = [&] { return graphs ? b.model.QueueReplay(batch) : b.model.QueueForward(); };
    ASSIGN_OR_RETURN(const StepTimes t, MeasureStep(b.model, b.device, static_cast<int>(b.options.Number("steps")),
                                                    kCandidatesMax, forward));
    const double of_copy = bytes / t.queued / b.ceilings.copy;
    b.report.Add(StrCat(b.name, " decode ", batch, graphs ? " graph" : " eager"),
                 {{"batch", batch},
                  {"graphs", graphs},
                  {"context", context},
                  {"tokens_per_s", batch / t.step},
                  {"step_ms", t.step * 1e3},
                  {"pass_ms", t.queued * 1e3},
                  {"overhead_ms", (t.step - t.queued) * 1e3},
                  {"step_bytes", bytes},
                  {"of_copy_bandwidth", of_copy}},
                 StrCat(Show("%8.1f tok/s", batch / t.step), Show("  step %.3f ms", t.step * 1e3),
                        Show("  pass %.3f", t.queued * 1e3), Show("  rest %.3f", (t.step - t.queued) * 1e3),
                        Show("  bytes at %.0f %% of copy", of_copy * 100),
                        Show(" (step %.0f %%)", bytes / t.step / b.ceilings.copy * 100)));
  }
  ASSIGN_OR_RETURN(const double top_k,
                   MeasureTopK(b.model, b.device, static_cast<int>(b.options.Number("steps")), kCandidatesMax));
  b.report.Add(StrCat(b.name, " top-", kCandidatesMax, " of ", batch), {{"batch", batch}, {"us", top_k * 1e6}},
               Show("%8.1f us", top_k * 1e6));
  return absl::OkStatus();
}

absl::Status BenchPrefill(Bench& b, int tokens) {
  if (b.TimeIsUp(StrCat("prefill ", tokens))) return absl::OkStatus();
  RETURN_IF_ERROR(b.model.SetStep(1, tokens, tokens));
  ASSIGN_OR_RETURN(const double time, MeasurePrefill(b.model, b.device, 3));
  const double rate = b.model.step_operations(tokens) / time;
  b.report.Add(StrCat(b.name, " prefill ", tokens),
               {{"tokens", tokens},
                {"tokens_per_s", tokens / time},
                {"ms", time * 1e3},
                {"of_int8_rate", rate / b.ceilings.int8()}},
               StrCat(Show("%8.1f tok/s", tokens / time), Show("  %.2f ms", time * 1e3),
                      Show("  matrices at %.1f TOPS", rate / 1e12),
                      Show(", %.0f %% of mma's rate", rate / b.ceilings.int8() * 100)));
  return absl::OkStatus();
}

void ReportMemory(Bench& b, int64_t driver_bytes) {
  const MemoryLedger& ledger = b.device.ledger();
  b.report.Add(StrCat(b.name, " upload"), {{"bytes", b.model.upload_bytes()}, {"seconds", b.model.upload_seconds()}},
               StrCat(Show("%8.2f GB/s", static_cast<double>(b.model.upload_bytes()) / b.model.upload_seconds() / 1e9),
                      Show("  %.2f GB of weights", static_cast<double>(b.model.upload_bytes()) / 1e9)));
  b.report.Add(StrCat(b.name, " memory"),
               {{"ledger_bytes", ledger.total()},
                {"driver_bytes", driver_bytes},
                {"budget_bytes", ledger.budget},
                {"kv_tokens", b.model.plan().kv_tokens()}},
               StrCat(Show("%8.1f MiB in the ledger", static_cast<double>(ledger.total()) / (1 << 20)),
                      Show(", %.1f taken from the driver", static_cast<double>(driver_bytes) / (1 << 20)),
                      ledger.budget == 0 ? ", no budget"
                                         : Show(", budget %.0f MiB", static_cast<double>(ledger.budget) / (1 << 20)),
                      ", KV for ", b.model.plan().kv_tokens(), " tokens"));
}

// How much KV a server's plan would find room for in the budget, with steps of 512 tokens and the longest context.
void ReportCapacity(Bench& b, BenchModelOptions m, int64_t context_bytes) {
  if (m.memory_budget == 0) return;
  m.max_context = int64_t{1} << 30;
  m.max_step_tokens = 512;
  m.max_sequences = 32;
  const absl::StatusOr<BenchPlan> whole = MakeBenchPlan(m);
  m.reserved_bytes += context_bytes;
  const absl::StatusOr<BenchPlan> without = MakeBenchPlan(m);
  const auto tokens = [](const absl::StatusOr<BenchPlan>& p) { return p.ok() ? p->plan.kv_tokens() : 0; };
  b.report.Add(
      StrCat(b.name, " KV tokens that fit"),
      {{"budget_bytes", m.memory_budget}, {"kv_tokens", tokens(whole)}, {"kv_tokens_less_context", tokens(without)}},
      StrCat(tokens(whole), " in the budget, ", tokens(without), " if the GPU's context counts, too"));
}

BenchModelOptions ModelOptions(const Options& options, const std::string& shape, const std::string& format) {
  BenchModelOptions m;
  m.shape = shape;
  m.format = format == "int4" ? WeightFormat::kInt4 : WeightFormat::kInt8;
  int64_t batch = 1, tokens = 1;
  for (const std::string& item : options.List("batches")) batch = std::max<int64_t>(batch, std::atoll(item.c_str()));
  for (const std::string& item : options.List("prefill")) tokens = std::max<int64_t>(tokens, std::atoll(item.c_str()));
  m.max_sequences = static_cast<int>(batch);
  m.max_step_tokens = static_cast<int>(std::max(batch, tokens));
  m.max_context = std::max({options.Number("context"), tokens, options.Number("max-context")});
  m.kv_tokens = std::max(batch * (options.Number("context") + 32), tokens);
  return m;
}

absl::Status BenchOne(const Options& options, const std::string& shape, const std::string& format,
                      const Ceilings& ceilings, Report& report) {
  ASSIGN_OR_RETURN(std::unique_ptr<cuda::Runtime> owned,
                   cuda::CreateRuntime(static_cast<int>(options.Number("index"))));
  cuda::Runtime& runtime = *owned;  // The device keeps it.
  const int64_t free_before = runtime.FreeBytes();
  CudaDeviceOptions device_options;
  device_options.path = options.Text("path");
  device_options.memory_budget = options.Number("budget-mib") << 20;
  BenchModelOptions model_options = ModelOptions(options, shape, format);
  model_options.memory_budget = device_options.memory_budget;
  model_options.reserved_bytes = device_options.workspace_bytes;
  // A model that is too large for the budget gets none.
  if (MakeBenchPlan(model_options).status().code() == absl::StatusCode::kResourceExhausted) {
    device_options.memory_budget = model_options.memory_budget = 0;
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, cuda::MakeCudaDevice(std::move(owned), device_options));
  ASSIGN_OR_RETURN(const std::unique_ptr<BenchModel> model, BenchModel::Create(model_options, *device));
  const std::string name =
      StrCat(shape.substr(shape.rfind("qwen") == std::string::npos ? 0 : shape.rfind("qwen")), " ", format);
  Bench bench{options, report, ceilings, name, *model, *device, NowSeconds() + options.Number("seconds")};
  for (const std::string& batch : options.List("batches"))
    RETURN_IF_ERROR(BenchDecode(bench, std::atoi(batch.c_str())));
  for (const std::string& n : options.List("prefill")) RETURN_IF_ERROR(BenchPrefill(bench, std::atoi(n.c_str())));
  ReportMemory(bench, free_before - runtime.FreeBytes());
  ReportCapacity(bench, model_options, runtime.info().total_bytes - free_before);
  return absl::OkStatus();
}

absl::StatusOr<Ceilings> BenchHardware(const Options& options, Report& report) {
  ASSIGN_OR_RETURN(const std::unique_ptr<cuda::Runtime> runtime,
                   cuda::CreateRuntime(static_cast<int>(options.Number("index"))));
  const cuda::GpuInfo& gpu = runtime->info();
  const int64_t used = gpu.total_bytes - runtime->FreeBytes();
  report.facts() = {{"gpu", gpu.name},
                    {"compute_capability", gpu.compute_capability},
                    {"multiprocessors", gpu.multiprocessors},
                    {"total_bytes", gpu.total_bytes}};
  report.Add("gpu", {{"used_at_start_bytes", used}},
             StrCat(gpu.name, ", ", gpu.multiprocessors, " multiprocessors",
                    Show(", %.1f GiB", static_cast<double>(gpu.total_bytes) / (1 << 30)),
                    Show(", %.0f MiB used by this context and others", static_cast<double>(used) / (1 << 20))));
  ASSIGN_OR_RETURN(const Ceilings c, MeasureCeilings(*runtime, options.Number("copy-mib") << 20,
                                                     static_cast<int>(options.Number("mma-rounds"))));
  report.Add("copy, device to device", {{"bytes_per_s", c.copy}}, Show("%8.1f GB/s read and written", c.copy / 1e9));
  report.Add("int8 mma", {{"ops_per_s_sm75", c.int8_75}, {"ops_per_s_sm80", c.int8_80}},
             StrCat(Show("%8.1f TOPS m16n8k32", c.int8_80 / 1e12), Show(", %.1f m8n8k16", c.int8_75 / 1e12)));
  return c;
}

int Run(const Options& options) {
  Report report;
  int failed = 0;
  const auto fails = [&](const std::string& what, const absl::Status& status) {
    if (status.ok()) return;
    ++failed;
    report.Add(what, {{"error", std::string(status.message())}}, StrCat("FAILED: ", status.message()));
  };
  const absl::StatusOr<Ceilings> ceilings = BenchHardware(options, report);
  if (ceilings.status().code() == absl::StatusCode::kFailedPrecondition) {
    std::printf("%s\n", std::string(ceilings.status().message()).c_str());
    return kNoGpu;
  }
  fails("hardware", ceilings.status());
  if (ceilings.ok()) {
    for (const std::string& shape : options.List("shapes")) {
      for (const std::string& format : options.List("formats")) {
        fails(StrCat(shape, " ", format), BenchOne(options, shape, format, *ceilings, report));
      }
    }
  }
  report.PrintTable();
  fails("json", report.Write(options.Text("json")));
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  shoal::Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = std::strncmp(argv[i], "--", 2) == 0 ? argv[i] + 2 : "";
    const auto it = options.values.find(name);
    if (it == options.values.end() || i + 1 == argc) {
      std::fputs(shoal::kUsage, name == "help" ? stdout : stderr);
      return name == "help" ? 0 : 2;
    }
    it->second = argv[i + 1];
  }
  return shoal::Run(options);
}
