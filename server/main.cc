// shoal-server: the rank program. With rank_device.cc the composition root: the only files that know which world,
// communicators and device the rest of the code was given.
#include <signal.h>
#include <sys/prctl.h>

#include <chrono>
#include <cstdio>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/cores.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "engine/engine.h"
#include "engine/runner.h"
#include "engine/worker_loop.h"
#include "engine/world_executor.h"
#include "kernels/device.h"
#include "model/chat_template.h"
#include "model/config.h"
#include "model/prepare.h"
#include "model/tokenizer.h"
#include "model/tokenizer_fit.h"
#include "model/weights.h"
#include "parallel/mpi_world.h"
#include "parallel/plan.h"
#include "parallel/plan_text.h"
#include "parallel/world.h"
#include "server/command_line.h"
#include "server/config.h"
#include "server/exit_code.h"
#include "server/job_watch.h"
#include "server/port.h"
#include "server/rank_device.h"
#include "server/server.h"
#include "server/wiring.h"

namespace shoal {
namespace {

using Clock = std::chrono::steady_clock;

// How long a rank that failed waits for the others to come to the end of the phase by themselves.
constexpr double kPatienceSeconds = 1;

// What turns text into ids and back.
struct TextModel {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat;  // Null if the model has none.
};

absl::StatusOr<TextModel> LoadTextModel(const std::string& model_dir, const ModelConfig& model) {
  TextModel text;
  ASSIGN_OR_RETURN(text.tokenizer, Tokenizer::Load(model_dir));
  RETURN_IF_ERROR(CheckTokenizerFitsModel(*text.tokenizer, model, model_dir));
  absl::StatusOr<std::unique_ptr<ChatTemplate>> chat = ChatTemplate::Load(model_dir);
  if (!chat.ok() && !absl::IsNotFound(chat.status())) return chat.status();
  if (chat.ok()) text.chat = *std::move(chat);
  return text;
}

// What every rank needs to run steps. Destroyed in reverse order.
struct Rank {
  ModelConfig model;
  std::future<absl::StatusOr<TextModel>> text_to_come;  // Rank 0 only, until TakeText.
  TextModel text;                                       // Rank 0 only.
  Plan plan;
  std::unique_ptr<Device> device;
  Communicators links;
  std::unique_ptr<Runner> runner;
  std::vector<int> cores;  // CoresForRank.
};

// Every rank has made the plan on its own; one that was given other files must not go on.
absl::Status AgreeOnPlan(World& world, const Plan& plan) {
  const std::string text = PlanToJson(plan).dump();
  ASSIGN_OR_RETURN(const auto texts, world.AllGather(std::as_bytes(std::span(text))));
  for (size_t rank = 1; rank < texts.size(); ++rank) {
    if (texts[rank] != texts[0]) {
      return absl::FailedPreconditionError(
          StrCat("rank ", rank, " has another plan than rank 0; give every rank the same configuration and model"));
    }
  }
  return absl::OkStatus();
}

// Start-up in phases; after each, all ranks go on together or leave together.
absl::Status MakePlanForAll(MpiWorld& world, const Config& config, const DeviceChoice& devices, Rank& rank) {
  const auto local = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(rank.model, LoadModelConfig(config.model_dir));
    ASSIGN_OR_RETURN(const std::optional<FormatPlan> prepared, PreparedFormats(config.model_dir));
    ASSIGN_OR_RETURN(PlanRequest request, MakePlanRequest(config, rank.model, world.size(), prepared));
    RETURN_IF_ERROR(ApplyTo(devices, request));
    ASSIGN_OR_RETURN(rank.plan, MakePlan(request));
    if (world.rank() == 0) {
      rank.text_to_come = std::async(std::launch::async, LoadTextModel, config.model_dir, rank.model);
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(AgreeOn(world, local()));
  return AgreeOnPlan(world, rank.plan);
}

absl::Status MakeDeviceForAll(MpiWorld& world, const Config& config, const DeviceChoice& devices, Rank& rank) {
  absl::StatusOr<std::unique_ptr<Device>> device = MakeDevice(world, config, devices, rank.plan.ranks[world.rank()]);
  RETURN_IF_ERROR(AgreeOn(world, device.status()));
  rank.device = *std::move(device);
  ASSIGN_OR_RETURN(rank.links, MakeCommunicators(world, config, devices, rank.plan, *rank.device));
  return absl::OkStatus();
}

// Ends the job although other ranks may be anywhere. Only one rank may come here, so that the reason is said once.
[[noreturn]] void Abandon(const absl::Status& status) {
  LogError(status.message());
  AbortWorld(ExitCode(status));
}

// Takes what the thread beside the loading of the weights has made, if it is there or `wait`s for it.
absl::Status TakeText(Rank& rank, bool wait) {
  if (!rank.text_to_come.valid()) return absl::OkStatus();
  if (!wait && rank.text_to_come.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(rank.text, rank.text_to_come.get());
  return absl::OkStatus();
}

absl::Status LoadRank(const MpiWorld& world, const Config& config, const LoadProgress& progress, Rank& rank) {
  const RankPlan& mine = rank.plan.ranks[world.rank()];
  ASSIGN_OR_RETURN(DecoderWeights weights,
                   LoadWeights(config.model_dir, rank.model, rank.plan, mine, *rank.device, progress));
  ASSIGN_OR_RETURN(rank.runner, Runner::Create(rank.model, rank.plan, world.rank(), std::move(weights), *rank.device,
                                               *rank.links.tp, *rank.links.pipeline));
  RETURN_IF_ERROR(TakeText(rank, /*wait=*/true));
  if (rank.text.tokenizer != nullptr) TakeEosFromTokenizer(*rank.text.tokenizer, &rank.model);
  return absl::OkStatus();
}

absl::Status LoadForAll(MpiWorld& world, const Config& config, Rank& rank) {
  PhaseReports reports(world);
  std::optional<Progress> shown;
  if (world.rank() == 0) shown.emplace(StrCat("loading ", config.model_dir));
  const auto progress = [&](int64_t done, int64_t total) {
    if (world.rank() != 0) return absl::OkStatus();
    if (const absl::Status failure = reports.Look(); !failure.ok()) Abandon(failure);
    shown->Update(done, total);
    return TakeText(rank, /*wait=*/false);  // What is wrong with it is said before minutes of reading are over.
  };
  const absl::Status mine = LoadRank(world, config, progress, rank);
  shown.reset();
  RETURN_IF_ERROR(reports.Report(mine));
  if (world.rank() == 0) {
    if (const absl::Status failure = reports.WaitForAll(kPatienceSeconds); !failure.ok()) Abandon(failure);
  }
  return AgreeOn(world, mine);
}

// Every rank's memory as its device counts it, for GetLoads and GetPlan. Collective.
absl::StatusOr<std::vector<v1::RankMemory>> GatherMemory(MpiWorld& world, const Rank& rank) {
  const MemoryLedger& ledger = rank.device->ledger();
  const RankMemory& planned = rank.plan.ranks[world.rank()].memory;
  v1::RankMemory mine;
  mine.set_rank(world.rank());
  mine.set_weights_bytes(ledger.used[static_cast<int>(MemoryKind::kWeights)]);
  mine.set_kv_bytes(ledger.used[static_cast<int>(MemoryKind::kKv)]);
  mine.set_activations_bytes(ledger.used[static_cast<int>(MemoryKind::kActivations)]);
  mine.set_communication_bytes(planned.communication + ledger.used[static_cast<int>(MemoryKind::kCommunication)]);
  mine.set_reserved_bytes(planned.reserved);
  mine.set_total_bytes(ledger.total() + planned.communication + planned.reserved);
  mine.set_budget_bytes(planned.budget);
  mine.set_device(rank.device->description());
  const std::string bytes = mine.SerializeAsString();
  ASSIGN_OR_RETURN(const auto all, world.AllGather(std::as_bytes(std::span(bytes))));
  std::vector<v1::RankMemory> memory(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    if (!memory[i].ParseFromArray(all[i].data(), static_cast<int>(all[i].size()))) {
      return absl::InternalError(StrCat("rank ", i, ": cannot read its memory report"));
    }
  }
  return memory;
}

ServingModel MakeServingModel(const Config& config, const Rank& rank, const std::vector<v1::RankMemory>& memory,
                              EngineClient& engine) {
  const TextModel& text = rank.text;
  ServingModel serving;
  serving.engine = &engine;
  serving.tokenizer = text.tokenizer.get();
  if (text.chat != nullptr) serving.render_chat = MakeChatRenderer(text.chat.get());
  serving.defaults = MakeGenerationDefaults(rank.model);
  serving.info = MakeModelInfo(config, rank.model, rank.plan, text.chat != nullptr);
  serving.plan = PlanToProto(rank.plan);
  for (int i = 0; i < serving.plan.ranks_size(); ++i) *serving.plan.mutable_ranks(i)->mutable_memory() = memory[i];
  return serving;
}

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

absl::Status RunFrontEnd(MpiWorld& world, const Config& config, Rank& rank, Clock::time_point started,
                         JobWatch& watch) {
  ASSIGN_OR_RETURN(const std::vector<v1::RankMemory> memory, GatherMemory(world, rank));
  WorldExecutor executor(world, rank.plan, *rank.runner);
  const std::unique_ptr<Engine> engine = CreateEngine(
      MakeEngineOptions(config, rank.plan.kv_blocks, rank.plan.max_context, rank.model.shape.vocab), executor);
  absl::StatusOr<std::unique_ptr<ShoalServer>> listening =
      ShoalServer::Start(MakeServerOptions(config), MakeServingModel(config, rank, memory, *engine));
  RETURN_IF_ERROR(AgreeOn(world, listening.status()));
  const std::unique_ptr<ShoalServer> server = *std::move(listening);
  watch.Serving(server.get(), engine.get(), config.proto.limits().step_seconds());
  server->SetReady();
  LogInfo("ready: ", config.served_model_name, " on ", server->address().ToString(), ", ", world.size(),
          world.size() == 1 ? " rank, " : " ranks, ", rank.plan.kv_tokens(), " tokens of KV cache, ",
          rank.device->description(), ", after ", static_cast<int>(SecondsSince(started) * 1000), " ms");
  const absl::Status status = [&] {
    const PinnedThread pinned(rank.cores);
    return engine->Run();
  }();
  watch.Ended();
  server->Shutdown(/*grace_seconds=*/status.ok() ? 5 : 1);
  if (!status.ok()) Abandon(status);  // Some rank is gone or broken: waiting for it would hang.
  return status;
}

absl::Status RunRank(MpiWorld& world, const CommandLine& arguments, Clock::time_point started, JobWatch* watch) {
  Config config;
  const auto read = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(config, LoadConfig(arguments.config));
    if (!arguments.listen.empty()) RETURN_IF_ERROR(OverrideListen(arguments.listen, &config));
    return world.rank() == 0 ? CheckPortIsFree(config.listen) : absl::OkStatus();
  };
  RETURN_IF_ERROR(AgreeOn(world, read()));
  SetLogLevel(static_cast<LogLevel>(config.proto.log_level()));
  Rank rank;
  ASSIGN_OR_RETURN(const DeviceChoice devices, ChooseDevices(world, config));
  rank.cores = CoresForRank(world, config, devices);
  RETURN_IF_ERROR(MakePlanForAll(world, config, devices, rank));
  std::optional<PinnedThread> pinned(rank.cores);
  RETURN_IF_ERROR(MakeDeviceForAll(world, config, devices, rank));
  RETURN_IF_ERROR(LoadForAll(world, config, rank));
  if (const std::string text = GpuMemoryText(devices, *rank.device); !text.empty()) LogInfo(text);
  if (world.rank() == 0) {
    pinned.reset();  // Threads of the front end go where there is room.
    return RunFrontEnd(world, config, rank, started, *watch);
  }
  RETURN_IF_ERROR(GatherMemory(world, rank).status());
  RETURN_IF_ERROR(AgreeOn(world, absl::OkStatus()));  // With rank 0's front end.
  const absl::Status status = RunWorkerLoop(world, *rank.runner);
  if (!status.ok()) {
    // Rank 0 has been told, or is the one that failed: it ends the job. If it cannot, this does, after a moment.
    LogError(status.message());
    std::this_thread::sleep_for(std::chrono::seconds(1));
    AbortWorld(ExitCode(status));
  }
  return status;
}

int Main(int argc, char** argv) {
  const Clock::time_point started = Clock::now();
  const absl::StatusOr<CommandLine> arguments = ParseCommandLine(argc, argv);
  if (arguments.ok() && arguments->help) {
    std::fputs(kServerHelp, stdout);
    return 0;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // No rank outlives its mpirun.
  signal(SIGPIPE, SIG_IGN);
  // Before any thread starts, MPI's own included: a signal goes to whichever thread does not block it.
  BlockEndSignals();
  absl::StatusOr<std::unique_ptr<MpiWorld>> world = MpiWorld::Create(&argc, &argv);
  if (!world.ok()) {
    LogError(world.status().message());
    return kExitFault;
  }
  SetLogRank((*world)->rank());
  // Other ranks keep the default action: mpirun's SIGTERM ends them at once.
  std::optional<JobWatch> watch;
  if ((*world)->rank() != 0) {
    UnblockEndSignals();
  } else {
    watch.emplace([](std::string_view why) {
      LogError(why);
      AbortWorld(kExitFault);
    });
  }
  absl::Status status = AgreeOn(**world, arguments.status());
  const bool started_up = status.ok();
  if (started_up) status = RunRank(**world, *arguments, started, watch ? &*watch : nullptr);
  if (!status.ok() && (*world)->rank() == 0) LogError(status.message());
  const absl::Status finalized = (*world)->Finalize();
  if (!finalized.ok()) AbortWorld(kExitFault);
  return ExitCode(status);
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) { return shoal::Main(argc, argv); }
