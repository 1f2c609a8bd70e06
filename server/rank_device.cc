#include "server/rank_device.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/cores.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/peer_link.h"
#include "parallel/link_probe.h"
#include "parallel/mpi_communicator.h"
#include "parallel/nccl_communicator.h"
#include "parallel/plan_text.h"
#include "parallel/shared_communicator.h"
#include "parallel/shm_communicator.h"
#include "parallel/single_communicator.h"
#include "parallel/staged_communicator.h"

namespace shoal {
namespace {

// Graphs, libraries, the driver's rounding, and the context, which takes 50 to 110 MiB on a card of 4 to 8 GB.
constexpr int64_t kReservedBytes = int64_t{256} << 20;

// What mailboxes take of a GPU's memory at most, where they are there: with the sizes below and kPeersMax ranks.
constexpr int64_t kLinkBytes = int64_t{32} << 20;
// One exchange carries a decode step of so many sequences, one slot so much of a tensor.
constexpr int64_t kSumRows = 4;
constexpr int64_t kPutBytes = int64_t{128} << 10;

// What a rank tells the others.
struct GpuReport {
  int32_t gpus = 0;  // That the rank sees.
  int32_t local_rank = 0;
  int64_t free_bytes = 0;  // Of the rank's GPU; 0: not asked.
};

absl::StatusOr<std::vector<GpuReport>> Gather(World& world, const GpuReport& mine) {
  ASSIGN_OR_RETURN(const auto all, world.AllGather(std::as_bytes(std::span(&mine, 1))));
  std::vector<GpuReport> reports(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].size() != sizeof(GpuReport))
      return absl::InternalError(StrCat("rank ", i, ": a GPU report of wrong size"));
    std::memcpy(&reports[i], all[i].data(), sizeof(GpuReport));
  }
  return reports;
}

// What is demanded, by name, or "".
const char* TransportName(v1::CudaOptions::Transport transport) {
  switch (transport) {
    case v1::CudaOptions::NCCL:
      return "nccl";
    case v1::CudaOptions::HOST_LL:
      return "host-ll";
    case v1::CudaOptions::P2P_LL:
      return "p2p-ll";
    case v1::CudaOptions::MPI_HOST:
      return "mpi-host";
    case v1::CudaOptions::AUTO:
      break;
  }
  return "";
}

// What a group exchanges: the sums of a stage, or the tensors between stages.
enum class Traffic { kSums, kTensors };

// Collective over the world, each rank with its own group.
absl::StatusOr<std::unique_ptr<Communicator>> MakeGpuCommunicator(MpiWorld& world, const Config& config,
                                                                  const Plan& plan, Device& device,
                                                                  const std::vector<int>& group, Traffic traffic) {
  const bool sums = traffic == Traffic::kSums;
  const auto shared = [&](SharedCommunicatorOptions::Mailboxes mailboxes) {
    return [&world, &plan, &device, &group, sums, mailboxes](double seconds, bool) {
      SharedCommunicatorOptions options;
      options.mailboxes = mailboxes;
      options.seconds = seconds;
      options.sum_elements = sums ? kSumRows * plan.shape.hidden : 0;
      options.put_bytes = sums ? 0 : kPutBytes;
      return CreateSharedCommunicator(world, device, group, options);
    };
  };
  const auto staged = [&](double, bool) -> absl::StatusOr<std::unique_ptr<Communicator>> {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> host, CreateMpiCommunicator(world, group));
    // A tensor in one piece: its sender need not wait for the reader then.
    const int64_t tensor = plan.max_step_tokens * plan.shape.hidden * SizeOf(DType::kF32);
    return CreateStagedCommunicator(std::move(host), device,
                                    sums ? kAllReduceChunkBytes : std::max(tensor / 8 * 8 + 8, kAllReduceChunkBytes));
  };
  std::vector<Transport> transports;
  if (world.local_size() == world.size() && world.size() <= kPeersMax) {
    transports.push_back({"p2p-ll", shared(SharedCommunicatorOptions::Mailboxes::kPeer)});
    transports.push_back({"host-ll", shared(SharedCommunicatorOptions::Mailboxes::kHost)});
  }
  transports.push_back({"nccl", [&](double seconds, bool testing) {
                          return CreateNcclCommunicator(world, device, group, seconds, testing);
                        }});
  transports.push_back({"mpi-host", staged});
  LinkProbeOptions options;
  options.demanded = TransportName(config.proto.cuda().transport());
  options.test.sums = sums;
  options.test.tensors = !sums;
  options.serve_seconds = config.proto.limits().step_seconds();
  return ChooseCommunicator(world, device, group, transports, options);
}

// For the log.
std::string Ranks(const std::vector<int>& group, Traffic traffic) {
  return StrCat("ranks ", absl::StrJoin(group, ","), traffic == Traffic::kSums ? ": sums" : ": tensors");
}

// The communicator of one group through shared memory. Collective over the world, each rank with its own group.
absl::StatusOr<std::unique_ptr<Communicator>> MakeSharedMemory(MpiWorld& world, const Config& config, const Plan& plan,
                                                               Device& device, const std::vector<int>& group,
                                                               Traffic traffic) {
  // The watch of the job ends it after step_seconds; only where that fails too, a wait is cut short.
  constexpr double kAfterTheWatch = 5;
  ShmOptions options;
  const int64_t elements = plan.max_step_tokens * plan.shape.hidden;
  if (traffic == Traffic::kSums) {
    options.sum_bytes = elements * SizeOf(DType::kF64);
  } else {
    options.tensor_bytes = elements * SizeOf(DType::kF32);
    options.hops = PipelineHops(plan);
  }
  options.seconds = config.proto.limits().step_seconds() + kAfterTheWatch;
  options.meanwhile = [&world] { world.Progress(); };
  auto made = CreateShmCommunicator(world, device, group, options);
  if (made.ok() && group.size() > 1 && world.rank() == group[0]) {
    LogInfo(Ranks(group, traffic), " through shared memory, ",
            BytesText(ShmBytes(static_cast<int>(group.size()), options)));
  }
  return made;
}

// Collective over the world, each rank with its own group. Errors: kFailedPrecondition or kResourceExhausted if shared
// memory is demanded and some group cannot have it.
absl::StatusOr<std::unique_ptr<Communicator>> MakeCpuCommunicator(MpiWorld& world, const Config& config,
                                                                  const Plan& plan, Device& device,
                                                                  const std::vector<int>& group, Traffic traffic) {
  const v1::CpuOptions::Transport transport = config.proto.cpu().transport();
  if (transport == v1::CpuOptions::MPI) return CreateMpiCommunicator(world, group);
  auto shared = MakeSharedMemory(world, config, plan, device, group, traffic);
  const absl::Status all_shared = AgreeOn(world, shared.status());
  if (all_shared.ok()) return shared;
  if (transport == v1::CpuOptions::SHARED_MEMORY) {
    return absl::Status(
        all_shared.code() == absl::StatusCode::kResourceExhausted ? all_shared.code()
                                                                  : absl::StatusCode::kFailedPrecondition,
        StrCat(config.path, ": cpu.transport is SHARED_MEMORY but ", all_shared.message(), "; set it to AUTO or MPI"));
  }
  // MPI is collective: also for groups that do without it.
  ASSIGN_OR_RETURN(std::unique_ptr<Communicator> mpi, CreateMpiCommunicator(world, group));
  if (shared.ok()) return shared;
  if (world.rank() == group[0]) {
    const std::string what = StrCat(Ranks(group, traffic), " by MPI: ", shared.status().message());
    // Several hosts are nothing to be warned of.
    shared.status().code() == absl::StatusCode::kUnavailable ? LogInfo(what) : LogWarning(what);
  }
  return mpi;
}

// Whether every rank has a GPU. Errors: kFailedPrecondition if the configuration demands it and one has none.
absl::StatusOr<bool> UseCuda(const Config& config, const std::vector<GpuReport>& reports) {
  if (config.proto.device() == v1::ServerConfig::CPU) return false;
  for (size_t rank = 0; rank < reports.size(); ++rank) {
    if (reports[rank].gpus > 0) continue;
    if (config.proto.device() != v1::ServerConfig::CUDA) return false;
    return absl::FailedPreconditionError(StrCat(
        config.path, ": device is CUDA but rank ", rank, " finds no GPU",
        CudaGpuCount() > 0 ? "" : " (no driver, none visible, or a build without CUDA)", "; set device: CPU or AUTO"));
  }
  return true;
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevices(World& world, const Config& config) {
  DeviceChoice choice;
  choice.memory_budget = config.memory_budget;
  choice.reserved_bytes = config.reserved_bytes;
  GpuReport mine;
  mine.local_rank = world.local_rank();
  if (config.proto.device() != v1::ServerConfig::CPU) mine.gpus = CudaGpuCount();
  ASSIGN_OR_RETURN(std::vector<GpuReport> reports, Gather(world, mine));
  ASSIGN_OR_RETURN(choice.cuda, UseCuda(config, reports));
  if (!choice.cuda) return choice;

  choice.gpu = mine.local_rank % mine.gpus;
  choice.workspace_bytes = config.workspace_bytes;
  const absl::StatusOr<CudaGpu> gpu = ProbeCudaGpu(choice.gpu);
  RETURN_IF_ERROR(AgreeOn(world, gpu.status()));
  choice.free_bytes = gpu->free_bytes;
  if (!config.proto.has_reserved_memory()) choice.reserved_bytes = kReservedBytes;
  if (!config.memory_budget.empty()) return choice;
  // After every context is in place, so that a shared GPU's ranks see the same.
  const absl::StatusOr<CudaGpu> now = ProbeCudaGpu(choice.gpu);
  RETURN_IF_ERROR(AgreeOn(world, now.status()));
  const int sharers = (world.local_size() - 1 - choice.gpu) / mine.gpus + 1;
  mine.free_bytes = now->free_bytes / sharers;
  ASSIGN_OR_RETURN(reports, Gather(world, mine));
  for (const GpuReport& report : reports) choice.memory_budget.push_back(report.free_bytes);
  return choice;
}

absl::Status ApplyTo(const DeviceChoice& choice, PlanRequest& request) {
  const int64_t head_dim = request.shape.head_dim;
  if (choice.cuda && (head_dim % 4 != 0 || head_dim > 256)) {
    return absl::InvalidArgumentError(
        StrCat("the model's head size is ", head_dim, "; GPUs take multiples of 4 up to 256: set device: CPU"));
  }
  request.memory_budget = choice.memory_budget;
  request.reserved_bytes = choice.reserved_bytes;
  request.workspace_bytes = choice.workspace_bytes + (choice.cuda && request.ranks > 1 ? kLinkBytes : 0);
  return absl::OkStatus();
}

namespace {

// Cores this process may use, shared with the other ranks of the host that may use the same.
int ThreadsOfRank(const MpiWorld& world, const Config& config) {
  return config.proto.threads() > 0 ? config.proto.threads() : std::max(1, CoresAllowed() / world.core_sharers());
}

}  // namespace

std::vector<int> CoresForRank(const MpiWorld& world, const Config& config, const DeviceChoice& choice) {
  if (choice.cuda || world.core_sharers() == 1) return {};
  std::vector<int> cores = PartOfCoresAllowed(world.core_share(), world.core_sharers());
  if (static_cast<int>(cores.size()) < ThreadsOfRank(world, config)) return {};
  return cores;
}

absl::StatusOr<std::unique_ptr<Device>> MakeDevice(const MpiWorld& world, const Config& config,
                                                   const DeviceChoice& choice, const RankPlan& mine) {
  const int64_t budget = mine.memory.budget == 0 ? 0 : mine.memory.budget - mine.memory.reserved;
  if (choice.cuda) {
    return CreateCudaDevice({.index = choice.gpu,
                             .memory_budget = budget,
                             .path = config.proto.cuda().path(),
                             .graphs = config.proto.cuda().graphs(),
                             .workspace_bytes = choice.workspace_bytes});
  }
  return CreateCpuDevice({.threads = ThreadsOfRank(world, config), .memory_budget = budget, .isa = ""});
}

absl::StatusOr<Communicators> MakeCommunicators(MpiWorld& world, const Config& config, const DeviceChoice& choice,
                                                const Plan& plan, Device& device) {
  const std::vector<int>& stage = plan.stages[plan.ranks[world.rank()].stage];
  std::vector<int> everyone(world.size());
  std::iota(everyone.begin(), everyone.end(), 0);
  const auto make = choice.cuda ? MakeGpuCommunicator : MakeCpuCommunicator;
  Communicators made;
  if (plan.stages.size() < plan.ranks.size()) {
    ASSIGN_OR_RETURN(made.tp, make(world, config, plan, device, stage, Traffic::kSums));
  }
  if (plan.stages.size() > 1) {
    ASSIGN_OR_RETURN(made.pipeline, make(world, config, plan, device, everyone, Traffic::kTensors));
  } else {
    ASSIGN_OR_RETURN(made.pipeline, CreateMpiCommunicator(world, everyone));  // Nothing is sent.
  }
  if (stage.size() == 1) made.tp = CreateSingleCommunicator();
  return made;
}

std::string GpuMemoryText(const DeviceChoice& choice, const Device& device) {
  if (!choice.cuda) return "";
  const absl::StatusOr<CudaGpu> now = ProbeCudaGpu(choice.gpu);
  if (!now.ok()) return StrCat("GPU memory: ", now.status().message());
  return StrCat("GPU memory: ", BytesText(choice.free_bytes - now->free_bytes), " taken from the driver, ",
                BytesText(device.ledger().total()), " in the ledger, ", BytesText(now->free_bytes), " free of ",
                BytesText(now->total_bytes));
}

}  // namespace shoal
