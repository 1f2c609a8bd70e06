#include "tests/support/local_cluster.h"

#include <condition_variable>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "base/status_macros.h"
#include "engine/runner.h"
#include "engine/worker_loop.h"
#include "kernels/device.h"
#include "model/weights.h"
#include "parallel/shm_communicator.h"
#include "parallel/single_communicator.h"
#include "parallel/staged_communicator.h"
#include "parallel/thread_world.h"

namespace shoal {
namespace {

absl::StatusOr<std::unique_ptr<Device>> MakeDevice(const LocalClusterOptions& options, int64_t budget) {
  if (options.reference) return CreateReferenceDevice();
  if (options.cuda) {
    CudaDeviceOptions cuda = options.cuda_options;
    if (budget > 0) cuda.memory_budget = budget;
    return CreateCudaDevice(cuda);
  }
  return CreateCpuDevice({.threads = options.threads, .memory_budget = budget, .isa = options.isa});
}

// A World whose results are late.
class LateWorld final : public World {
 public:
  LateWorld(World& world, std::chrono::milliseconds late_by) : world_(world), late_by_(late_by) {}
  int rank() const override { return world_.rank(); }
  int size() const override { return world_.size(); }
  int local_rank() const override { return world_.local_rank(); }
  int local_size() const override { return world_.local_size(); }
  absl::Status Send(int to, Channel channel, std::span<const std::byte> bytes) override {
    if (channel == Channel::kResult) std::this_thread::sleep_for(late_by_);
    return world_.Send(to, channel, bytes);
  }
  absl::StatusOr<std::vector<std::byte>> Receive(int from, Channel channel) override {
    return world_.Receive(from, channel);
  }
  absl::StatusOr<std::optional<Message>> TryReceive(Channel channel) override { return world_.TryReceive(channel); }
  absl::StatusOr<std::vector<std::vector<std::byte>>> AllGather(std::span<const std::byte> bytes) override {
    return world_.AllGather(bytes);
  }

 private:
  World& world_;
  const std::chrono::milliseconds late_by_;
};

absl::Status RunRank(const LocalClusterOptions& options, ThreadRank& self,
                     const std::function<absl::Status(const ClusterView&)>& body) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(options.model_dir));
  PlanRequest request = options.request;
  request.shape = config.shape;
  request.ranks = self.size();
  if (options.cuda) request.workspace_bytes = options.cuda_options.workspace_bytes;
  if (request.max_context == 0) request.max_context = config.max_position_embeddings;
  ASSIGN_OR_RETURN(const Plan plan, MakePlan(request));
  const RankPlan& mine = plan.ranks[self.rank()];
  ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, MakeDevice(options, mine.memory.budget));
  std::vector<int> everyone(self.size());
  std::iota(everyone.begin(), everyone.end(), 0);
  std::unique_ptr<Communicator> tp, pipeline;
  if (options.reference || options.cuda) {
    ASSIGN_OR_RETURN(tp, self.CreateCommunicator(plan.stages[mine.stage]));
    ASSIGN_OR_RETURN(pipeline, self.CreateCommunicator(everyone));
  } else {
    // As the rank program does it.
    const int64_t elements = plan.max_step_tokens * plan.shape.hidden;
    ShmOptions sums, tensors;
    sums.sum_bytes = elements * SizeOf(DType::kF64);
    tensors.tensor_bytes = elements * SizeOf(DType::kF32);
    tensors.hops = PipelineHops(plan);
    sums.seconds = tensors.seconds = 60;
    ASSIGN_OR_RETURN(tp, CreateShmCommunicator(self.world(), *device, plan.stages[mine.stage], sums));
    ASSIGN_OR_RETURN(pipeline, CreateShmCommunicator(self.world(), *device, everyone, tensors));
  }
  if (options.cuda) {
    ASSIGN_OR_RETURN(tp, CreateStagedCommunicator(std::move(tp), *device));
    ASSIGN_OR_RETURN(pipeline, CreateStagedCommunicator(std::move(pipeline), *device));
  }
  if (mine.tp_size == 1) tp = CreateSingleCommunicator();
  ASSIGN_OR_RETURN(DecoderWeights weights, LoadWeights(options.model_dir, config, plan, mine, *device));
  ASSIGN_OR_RETURN(const std::unique_ptr<Runner> runner,
                   Runner::Create(config, plan, self.rank(), std::move(weights), *device, *tp, *pipeline));
  LateWorld late(self.world(), options.late_by);
  if (self.rank() > 0) return RunWorkerLoop(self.rank() == options.late_rank ? late : self.world(), *runner);
  WorldExecutor executor(self.world(), plan, *runner);
  return body({config, plan, executor});
}

}  // namespace

PlanRequest RequestWithStages(const std::vector<int>& ranks_per_stage, WeightFormat weights, DType kv) {
  PlanRequest request;
  for (const int ranks : ranks_per_stage) request.stages.push_back({.ranks = ranks, .layers = 0, .shares = {}});
  request.formats.qkv = request.formats.attention_out = request.formats.gate_up = request.formats.down =
      request.formats.lm_head = weights;
  request.formats.embedding = weights == WeightFormat::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16;
  request.formats.kv = kv;
  return request;
}

absl::Status RunLocalCluster(const LocalClusterOptions& options,
                             const std::function<absl::Status(const ClusterView&)>& body) {
  int ranks = 0;
  for (const StageSpec& stage : options.request.stages) ranks += stage.ranks;
  return RunRanks(ranks, [&](ThreadRank& self) {
    return RunRank(options, self, [&](const ClusterView& view) -> absl::Status {
      RETURN_IF_ERROR(body(view));
      return view.executor.Shutdown();
    });
  });
}

absl::Status RunLocalEngine(const LocalClusterOptions& options, const EngineOptions& limits,
                            const std::function<void(EngineClient&, const ModelConfig&)>& client) {
  int ranks = 0;
  for (const StageSpec& stage : options.request.stages) ranks += stage.ranks;
  return RunRanks(ranks, [&](ThreadRank& self) {
    return RunRank(options, self, [&](const ClusterView& view) {
      EngineOptions engine_options = limits;
      engine_options.vocab_size = view.config.shape.vocab;
      engine_options.kv_blocks = view.plan.kv_blocks;
      engine_options.kv_block_tokens = view.plan.kv_block_tokens;
      engine_options.max_context = view.plan.max_context;
      engine_options.max_sequences = view.plan.max_sequences;
      engine_options.max_step_tokens = view.plan.max_step_tokens;
      const std::unique_ptr<Engine> engine = CreateEngine(engine_options, view.executor);
      std::thread outside([&] {
        client(*engine, view.config);
        engine->Drain(10);
      });
      const absl::Status status = engine->Run();
      outside.join();
      return status;
    });
  });
}

absl::StatusOr<std::vector<std::vector<int32_t>>> GenerateAll(EngineClient& engine,
                                                              const std::vector<Request>& requests, int concurrency) {
  std::mutex mutex;
  std::condition_variable changed;
  int running = 0;
  absl::Status first_error;
  std::vector<std::vector<int32_t>> outputs(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return running < concurrency; });
      ++running;
    }
    const auto on_token = [&, i](const TokenEvent& event) {
      const std::lock_guard lock(mutex);
      if (event.token >= 0) outputs[i].push_back(event.token);
      if (event.finish == Finish::kNone) return;
      if (!event.status.ok() && first_error.ok()) first_error = event.status;
      --running;
      changed.notify_all();
    };
    if (const auto id = engine.Submit(requests[i], on_token); !id.ok()) {
      const std::lock_guard lock(mutex);
      --running;
      if (first_error.ok()) first_error = id.status();
    }
  }
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return running == 0; });
  if (!first_error.ok()) return first_error;
  return outputs;
}

}  // namespace shoal
