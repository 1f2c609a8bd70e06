// What ranks on the CPUs of one host pay to exchange tensors, by MPI and by shared memory:
//   tests/support/mpirun_test.sh 2 build/bin/communicator_bench [rounds]
// Both are measured in turn in one run. Prints rank 0's medians and best tenths in microseconds.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_world.h"
#include "parallel/shm_communicator.h"

namespace shoal {
namespace {

constexpr int64_t kHidden = 1536;
constexpr int64_t kRowsMax = 512;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  AbortWorld(1);
}

// Of the sorted times.
struct Times {
  std::vector<double> us;
  double At(double part) {
    std::sort(us.begin(), us.end());
    return us[static_cast<size_t>(part * static_cast<double>(us.size() - 1))];
  }
};

// Buffers of a step of kRowsMax tokens.
struct Step {
  std::vector<double> delta = std::vector<double>(kRowsMax * kHidden, 1.0);
  std::vector<float> residual = std::vector<float>(kRowsMax * kHidden), gain = std::vector<float>(kHidden, 1.0f);
  std::vector<int8_t> q = std::vector<int8_t>(kRowsMax * kHidden);
  std::vector<float> scale = std::vector<float>(kRowsMax * kHidden / 256);
  std::vector<int32_t> sum = std::vector<int32_t>(kRowsMax * kHidden / kWeightGroup);

  Tensor Delta(int64_t rows) { return MakeTensor(delta.data(), DType::kF64, {rows, kHidden}); }
  Tensor Residual(int64_t rows) { return MakeTensor(residual.data(), DType::kF32, {rows, kHidden}); }
  Activation Out(int64_t rows) {
    Activation out;
    out.q = MakeTensor(q.data(), DType::kI8, {rows, kHidden});
    out.scale = MakeTensor(scale.data(), DType::kF32, {rows, kHidden / 256});
    out.sum = MakeTensor(sum.data(), DType::kI32, {rows, kHidden / kWeightGroup});
    out.group = 256;
    return out;
  }
};

class Bench {
 public:
  Bench(MpiWorld& world, Device& device, Communicator& mpi, Communicator& shm)
      : world_(world), device_(device), links_{&mpi, &shm} {}

  // `prepare` is not timed. Once per link and round, in turn.
  void Measure(const std::string& what, int rounds, const std::function<void()>& prepare,
               const std::function<void(Communicator&)>& work, double divisor = 1) {
    Times times[2];
    constexpr int kTurn = 10;  // Rounds in a row, so that caches and branch predictors are as in serving.
    for (int turn = 0; turn < std::max(1, rounds / kTurn); ++turn) {
      for (int link = 0; link < 2; ++link) {
        Check(AgreeOn(world_, absl::OkStatus()));
        for (int i = 0; i < kTurn + 2; ++i) {
          prepare();
          const auto start = std::chrono::steady_clock::now();
          work(*links_[link]);
          const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
          if (i >= 2) times[link].us.push_back(took.count() / divisor);
        }
      }
    }
    if (world_.rank() != 0) return;
    std::printf("%-34s %10.2f %10.2f %10.2f %10.2f %8.2f\n", what.c_str(), times[0].At(0.5), times[0].At(0.1),
                times[1].At(0.5), times[1].At(0.1), times[0].At(0.5) / times[1].At(0.5));
    std::fflush(stdout);
  }

  void Sum(int64_t bytes, int rounds) {
    const Tensor x = MakeTensor(step_.delta.data(), DType::kF64, {1, bytes / 8});
    Measure(
        "sum of " + std::to_string(bytes) + " bytes", rounds, [&] { std::fill_n(x.As<double>(), bytes / 8, 1.0); },
        [&](Communicator& link) { Check(link.AllReduceSum(x)); });
  }

  // As RowParallelLinearAddRmsNorm does it.
  void SumAndNorm(int64_t rows, int rounds) {
    const Tensor gain = MakeTensor(step_.gain.data(), DType::kF32, {kHidden});
    const Tensor delta = step_.Delta(rows), residual = step_.Residual(rows);
    const Activation out = step_.Out(rows);
    Measure(
        "sum and norm of " + std::to_string(rows) + " rows", rounds,
        [&] { std::fill_n(delta.As<double>(), rows * kHidden, 1.0); },
        [&](Communicator& link) {
          const auto done = link.AllReduceAddRmsNorm(delta, gain, 1e-6f, residual, out);
          Check(done.status());
          if (*done) return;
          Check(link.AllReduceSum(delta));
          device_.ops().AddRmsNorm(delta, gain, 1e-6f, residual, out);
        });
  }

  // There and back between ranks 0 and 1; half of it is shown.
  void Hop(int64_t bytes, int rounds) {
    const Tensor x = MakeTensor(step_.residual.data(), DType::kF32, {1, bytes / 4});
    Measure(
        "hop of " + std::to_string(bytes) + " bytes", rounds, [] {},
        [&](Communicator& link) {
          if (world_.rank() == 0) Check(link.Send(x, 1));
          if (world_.rank() == 1) Check(link.Receive(x, 0));
          if (world_.rank() == 1) Check(link.Send(x, 0));
          if (world_.rank() == 0) Check(link.Receive(x, 1));
        },
        2);
  }

 private:
  MpiWorld& world_;
  Device& device_;
  Communicator* links_[2];
  Step step_;
};

void Run(MpiWorld& world, int rounds) {
  const auto device = CreateCpuDevice({.threads = 1, .memory_budget = 0, .isa = ""}).value();
  std::vector<int> all(world.size());
  std::iota(all.begin(), all.end(), 0);
  auto mpi = CreateMpiCommunicator(world, all);
  Check(mpi.status());
  ShmOptions options;
  options.sum_bytes = kRowsMax * kHidden * 8;
  options.tensor_bytes = kRowsMax * kHidden * 4;
  options.hops = {{0, 1}, {1, 0}};
  auto shm = CreateShmCommunicator(world, *device, all, options);
  Check(shm.status());
  if (world.rank() == 0) {
    std::printf("%d ranks; microseconds\n%-34s %10s %10s %10s %10s %8s\n", world.size(), "", "MPI", "(p10)", "shared",
                "(p10)", "ratio");
  }
  Bench bench(world, *device, **mpi, **shm);
  for (const int64_t bytes : {8, 3072, 12288, 24576, 65536, 786432, 6291456}) {
    bench.Sum(bytes, bytes > 100'000 ? rounds / 10 : rounds);
  }
  for (const int64_t rows : {1, 2, 4, 8, 16, 64, 512}) bench.SumAndNorm(rows, rows > 20 ? rounds / 10 : rounds);
  bench.Hop(6144, rounds);
  bench.Hop(3145728, rounds / 10);
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 2000;
  auto world = shoal::MpiWorld::Create(nullptr, nullptr);
  if (!world.ok() || rounds < 10 || (*world)->size() < 2) {
    std::fprintf(stderr, "usage: mpirun -n 2 communicator_bench [rounds]\n");
    return 1;
  }
  shoal::Run(**world, rounds);
  return (*world)->Finalize().ok() ? 0 : 1;
}
