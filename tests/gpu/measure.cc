#include "tests/gpu/measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <vector>

#include "base/status_macros.h"
#include "tests/gpu/probes.h"

namespace shoal {
namespace {

// Memory of a runtime, freed at the end of the scope.
class Scratch {
 public:
  explicit Scratch(cuda::Runtime& runtime) : runtime_(runtime) {}
  ~Scratch() {
    (void)runtime_.Synchronize();
    for (std::byte* memory : memory_) runtime_.Free(memory);
  }
  absl::StatusOr<std::byte*> New(int64_t bytes) {
    ASSIGN_OR_RETURN(std::byte* const memory, runtime_.Allocate(bytes));
    memory_.push_back(memory);
    return memory;
  }

 private:
  cuda::Runtime& runtime_;
  std::vector<std::byte*> memory_;
};

double Median(std::vector<double> times) {
  std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// Median seconds of `queue`, of several runs of `each` of them, after one for warming up.
absl::StatusOr<double> TimeQueued(cuda::Runtime& runtime, int runs, int each, const std::function<void()>& queue) {
  std::vector<double> times;
  for (int run = 0; run <= runs; ++run) {
    const double start = NowSeconds();
    for (int i = 0; i < each; ++i) queue();
    RETURN_IF_ERROR(runtime.Synchronize());
    if (run > 0) times.push_back((NowSeconds() - start) / each);
  }
  return Median(times);
}

absl::StatusOr<double> CopyRate(cuda::Runtime& runtime, int64_t bytes) {
  Scratch scratch(runtime);
  ASSIGN_OR_RETURN(std::byte* const from, scratch.New(bytes));
  ASSIGN_OR_RETURN(std::byte* const to, scratch.New(bytes));
  std::vector<uint32_t> noise(std::min<int64_t>(bytes, int64_t{16} << 20) / 4);  // Zeros might be copied faster.
  std::mt19937 random(1);
  for (uint32_t& word : noise) word = random();
  const int64_t piece = static_cast<int64_t>(noise.size()) * 4;
  for (int64_t begin = 0; begin < bytes; begin += piece) {
    runtime.Copy(from + begin, noise.data(), std::min(piece, bytes - begin));
  }
  RETURN_IF_ERROR(runtime.Synchronize());
  ASSIGN_OR_RETURN(const double time, TimeQueued(runtime, 5, 4, [&] { runtime.Copy(to, from, bytes); }));
  std::vector<uint32_t> arrived(noise.size());
  runtime.Copy(arrived.data(), to, piece);
  RETURN_IF_ERROR(runtime.Synchronize());
  if (std::memcmp(arrived.data(), noise.data(), piece) != 0) return absl::InternalError("a copy has changed its bytes");
  return 2.0 * static_cast<double>(bytes) / time;
}

absl::StatusOr<double> MmaRate(cuda::Runtime& runtime, int rounds, bool form80) {
  Scratch scratch(runtime);
  const int blocks = runtime.info().multiprocessors * 8;
  ASSIGN_OR_RETURN(std::byte* const out, scratch.New(int64_t{blocks} * cuda::kMmaRateThreads * 4));
  int64_t operations = 0;
  ASSIGN_OR_RETURN(const double time, TimeQueued(runtime, 5, 4, [&] {
                     operations =
                         cuda::LaunchMmaRate(reinterpret_cast<int32_t*>(out), blocks, rounds, form80, runtime.stream());
                   }));
  return static_cast<double>(operations) / time;
}

}  // namespace

double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

absl::StatusOr<Ceilings> MeasureCeilings(cuda::Runtime& runtime, int64_t copy_bytes, int mma_rounds) {
  Ceilings ceilings;
  ASSIGN_OR_RETURN(ceilings.copy, CopyRate(runtime, copy_bytes));
  ASSIGN_OR_RETURN(ceilings.int8_75, MmaRate(runtime, mma_rounds, false));
  if (runtime.info().compute_capability >= 80) {
    ASSIGN_OR_RETURN(ceilings.int8_80, MmaRate(runtime, mma_rounds, true));
  }
  return ceilings;
}

absl::StatusOr<StepTimes> MeasureStep(BenchModel& model, Device& device, int steps, int candidates,
                                      const std::function<absl::Status()>& forward) {
  StepTimes times;
  for (int i = 0; i < 2; ++i) {  // Loads kernels, records the graph.
    RETURN_IF_ERROR(forward());
    model.QueueCandidates(candidates);
    RETURN_IF_ERROR(device.Synchronize());
  }
  std::vector<double> queued;
  for (int run = 0; run < 3; ++run) {
    const double start = NowSeconds();
    for (int i = 0; i < steps; ++i) RETURN_IF_ERROR(forward());
    RETURN_IF_ERROR(device.Synchronize());
    queued.push_back((NowSeconds() - start) / steps);
  }
  times.queued = Median(queued);
  std::vector<double> whole;
  for (int i = 0; i < steps; ++i) {
    const double start = NowSeconds();
    model.QueueInputs();
    RETURN_IF_ERROR(forward());
    model.QueueCandidates(candidates);
    RETURN_IF_ERROR(device.Synchronize());
    whole.push_back(NowSeconds() - start);
  }
  times.step = Median(whole);
  return times;
}

absl::StatusOr<double> MeasureTopK(BenchModel& model, Device& device, int steps, int candidates) {
  model.QueueTopK(candidates);
  RETURN_IF_ERROR(device.Synchronize());
  const double start = NowSeconds();
  for (int i = 0; i < steps; ++i) model.QueueTopK(candidates);
  RETURN_IF_ERROR(device.Synchronize());
  return (NowSeconds() - start) / steps;
}

absl::StatusOr<double> MeasurePrefill(BenchModel& model, Device& device, int repeats) {
  std::vector<double> times;
  for (int i = 0; i <= repeats; ++i) {
    const double start = NowSeconds();
    RETURN_IF_ERROR(model.QueueForward());
    RETURN_IF_ERROR(device.Synchronize());
    if (i > 0) times.push_back(NowSeconds() - start);
  }
  return Median(times);
}

}  // namespace shoal
