// What the CUDA back end takes from the driver, and what it does when the driver fails. Over the emulated runtime only,
// which can be given a size, a unit of allocation, and faults.
#include "kernels/cuda/arena.h"

#include "gmock/gmock.h"
#include "kernels/cuda/cuda_device.h"
#include "tests/emulation/emulated_runtime.h"
#include "tests/kernels/kernels_testing.h"

namespace shoal::cuda {
namespace {

using cuda_emulation::EmulatedGpu;
using cuda_emulation::MakeEmulatedRuntime;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;
constexpr EmulatedGpu kGpu = {.total_bytes = 256 * kMiB, .allocation_unit = 2 * kMiB};

std::unique_ptr<Buffer> Take(Arena& arena, int64_t bytes) {
  return arena.Allocate(MemoryKind::kWeights, bytes).value();
}

TEST(CudaArenaTest, SmallBuffersShareAPieceThatGoesBackWithTheLast) {
  std::shared_ptr<Runtime> runtime = MakeEmulatedRuntime(kGpu);
  Arena arena(runtime, 0);
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (int i = 0; i < 1000; ++i) buffers.push_back(Take(arena, 10001));
  EXPECT_EQ(arena.ledger().total(), 1000 * 10001);
  EXPECT_EQ(arena.driver_bytes(), kArenaPiece);
  EXPECT_EQ(runtime->FreeBytes(), 256 * kMiB - kArenaPiece);
  for (size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffers[i]->data()) % 256, 0u);
    if (i > 0) {
      EXPECT_GE(buffers[i]->data() - buffers[i - 1]->data(), 10001);
    }
  }
  while (buffers.size() > 1) buffers.pop_back();
  EXPECT_EQ(arena.driver_bytes(), kArenaPiece);
  buffers.clear();
  EXPECT_EQ(arena.ledger().total(), 0);
  EXPECT_EQ(arena.driver_bytes(), 0);
  EXPECT_EQ(runtime->FreeBytes(), 256 * kMiB);
  EXPECT_NE(Take(arena, 1)->data(), nullptr);  // A new piece after the last one went.
}

TEST(CudaArenaTest, ALargeBufferHasItsOwnPieceWithoutSharing) {
  std::shared_ptr<Runtime> runtime = MakeEmulatedRuntime(kGpu);
  Arena arena(runtime, 0);
  const auto small = Take(arena, 100);
  auto large = Take(arena, 17 * kMiB);
  EXPECT_EQ(arena.driver_bytes(), kArenaPiece + 18 * kMiB);  // Rounded up as the driver does.
  EXPECT_EQ(runtime->FreeBytes(), 256 * kMiB - arena.driver_bytes());
  const auto next = Take(arena, 100);
  EXPECT_EQ(next->data() - small->data(), 256);  // The shared piece is still open.
  large.reset();
  EXPECT_EQ(arena.driver_bytes(), kArenaPiece);
}

// What the planner counts on: the driver gives little more than the ledger shows.
TEST(CudaArenaTest, WeightsOfADecoderLeaveLittleOfThePiecesUnused) {
  std::shared_ptr<Runtime> runtime = MakeEmulatedRuntime({.total_bytes = 8192 * kMiB, .allocation_unit = 2 * kMiB});
  Arena arena(runtime, 0);
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (int layer = 0; layer < 4; ++layer) {
    // int4 of Llama 8B: q, k, v; o; gate and up; down; two norms.
    for (const auto& [rows, cols] :
         {std::pair<int64_t, int64_t>{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}}) {
      buffers.push_back(Take(arena, WeightBytes(WeightFormat::kInt4, rows, cols, false)));
    }
    for (int i = 0; i < 2; ++i) buffers.push_back(Take(arena, 4096 * 4));
  }
  EXPECT_LE(arena.driver_bytes(), arena.ledger().total() + 4 * 4 * 2 * kMiB + kArenaPiece);
}

TEST(CudaArenaTest, TheLastPieceIsWhatTheBudgetHasLeft) {
  std::shared_ptr<Runtime> runtime = MakeEmulatedRuntime(kGpu);
  Arena arena(runtime, 40 * kMiB);
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (int i = 0; i < 40; ++i) buffers.push_back(Take(arena, kMiB));
  EXPECT_EQ(arena.driver_bytes(), 40 * kMiB);
  const absl::Status refused = arena.Allocate(MemoryKind::kKv, 1).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("1 bytes of kv wanted, 0 left"));
  buffers.pop_back();
  EXPECT_TRUE(arena.Allocate(MemoryKind::kKv, 1).ok());
}

TEST(CudaArenaTest, WhenTheDriverHasLittleLeftAPieceIsAsSmallAsItsBuffer) {
  std::shared_ptr<Runtime> runtime = MakeEmulatedRuntime({.total_bytes = 40 * kMiB, .allocation_unit = 2 * kMiB});
  Arena arena(runtime, 0);
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (int i = 0; i < 32 + 4; ++i) buffers.push_back(Take(arena, kMiB));  // 32 share a piece, 4 take 2 MiB each.
  const absl::Status refused = arena.Allocate(MemoryKind::kWeights, kMiB).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("1048576 bytes of weights wanted; the emulated GPU has"));
  EXPECT_EQ(arena.ledger().total(), 36 * kMiB);
}

TEST(CudaArenaTest, BuffersMayOutliveTheArena) {
  std::shared_ptr<Runtime> runtime = MakeEmulatedRuntime(kGpu);
  auto arena = std::make_unique<Arena>(runtime, 0);
  auto buffer = Take(*arena, 100);
  arena.reset();
  buffer->data()[99] = std::byte{1};
  buffer.reset();
  EXPECT_EQ(runtime->FreeBytes(), 256 * kMiB);
}

// A driver that fails when told to.
class FaultyRuntime final : public Runtime {
 public:
  struct Faults {
    absl::Status begin, end, synchronize;
    int host_allocations = 100;  // So many succeed.
  };
  FaultyRuntime(const EmulatedGpu& gpu, Faults* faults) : real_(MakeEmulatedRuntime(gpu)), faults_(faults) {}

  const GpuInfo& info() const override { return real_->info(); }
  Stream stream() const override { return real_->stream(); }
  absl::StatusOr<std::byte*> Allocate(int64_t bytes) override { return real_->Allocate(bytes); }
  void Free(std::byte* memory) override { real_->Free(memory); }
  absl::StatusOr<std::byte*> AllocateHost(int64_t bytes) override {
    if (faults_->host_allocations-- <= 0) return absl::ResourceExhaustedError("no page-locked memory");
    return real_->AllocateHost(bytes);
  }
  void FreeHost(std::byte* memory) override { real_->FreeHost(memory); }
  int64_t FreeBytes() override { return real_->FreeBytes(); }
  void Copy(void* to, const void* from, int64_t bytes) override { real_->Copy(to, from, bytes); }
  void Mark(int slot) override { real_->Mark(slot); }
  void WaitFor(int slot) override { real_->WaitFor(slot); }
  absl::Status Synchronize() override {
    const absl::Status status = real_->Synchronize();
    return faults_->synchronize.ok() ? status : faults_->synchronize;
  }
  absl::StatusOr<std::byte*> RegisterHost(std::byte* memory, int64_t bytes) override {
    return real_->RegisterHost(memory, bytes);
  }
  void UnregisterHost(std::byte* memory) override { real_->UnregisterHost(memory); }
  absl::StatusOr<Handle> Export(std::byte* memory) override { return real_->Export(memory); }
  absl::StatusOr<std::byte*> Import(const Handle& handle) override { return real_->Import(handle); }
  void CloseImport(std::byte* memory) override { real_->CloseImport(memory); }
  absl::Status BeginGraph() override { return faults_->begin.ok() ? real_->BeginGraph() : faults_->begin; }
  absl::StatusOr<std::unique_ptr<Graph>> EndGraph() override {
    auto graph = real_->EndGraph();
    if (!faults_->end.ok()) return faults_->end;
    return graph;
  }

 private:
  std::unique_ptr<Runtime> real_;
  Faults* faults_;
};

class CudaFaultTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Device>> Make() {
    return MakeCudaDevice(std::make_unique<FaultyRuntime>(EmulatedGpu{.late = true}, &faults_), {});
  }
  FaultyRuntime::Faults faults_;
};

TEST_F(CudaFaultTest, AFaultOfTheQueueIsReportedAndNothingIsHandedOut) {
  Rig rig(Make().value());
  const Tensor tensor = rig.Floats({1, 2}, {2});
  std::vector<float> host = {-1, -1};
  rig.device().CopyOut(tensor, host.data());
  EXPECT_THAT(host, Each(-1));  // Not before Synchronize.
  faults_.synchronize = absl::InternalError("illegal address");
  EXPECT_EQ(rig.device().Synchronize().message(), "illegal address");
  EXPECT_THAT(host, Each(-1));
  faults_.synchronize = absl::OkStatus();
  EXPECT_TRUE(rig.device().Synchronize().ok());
  EXPECT_THAT(host, Each(-1));  // That copy's memory may be gone by now.
}

TEST_F(CudaFaultTest, GraphsThatTheDriverRefusesAreNotKept) {
  Rig rig(Make().value());
  const Tensor total = rig.Floats({0}, {1, 1}), step = rig.In<double>({1}, DType::kF64, {1, 1});
  int calls = 0;
  const auto work = [&] {
    ++calls;
    rig.ops().AddResidual(step, total);
    return absl::OkStatus();
  };
  faults_.begin = absl::InternalError("no capture");
  EXPECT_EQ(rig.device().Replay(1, work).message(), "no capture");
  EXPECT_EQ(calls, 0);
  faults_.begin = absl::OkStatus();
  faults_.end = absl::InternalError("no graph");
  EXPECT_EQ(rig.device().Replay(1, work).message(), "no graph");
  faults_.end = absl::OkStatus();
  EXPECT_THAT(rig.Out<float>(total), ElementsAre(0));
  EXPECT_TRUE(rig.device().Replay(1, work).ok());
  EXPECT_THAT(rig.Out<float>(total), ElementsAre(1));
  EXPECT_EQ(calls, 2);
}

TEST_F(CudaFaultTest, WithoutPageLockedMemoryThereIsNoDeviceOrNoWeight) {
  faults_.host_allocations = 0;
  EXPECT_EQ(Make().status().code(), absl::StatusCode::kResourceExhausted);
  faults_.host_allocations = 1;
  Rig rig(Make().value());
  Random random(1);
  const WeightData w = RandomWeight(random, WeightFormat::kInt8, 16, 64, 32, false);
  EXPECT_EQ(rig.device().LoadWeight(w.host()).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rig.device().ledger().used[static_cast<size_t>(MemoryKind::kWeights)], 0);
}

TEST(CudaPathTest, TheGpuDecidesUnlessToldOtherwise) {
  const auto description = [](const EmulatedGpu& gpu, const char* path) -> std::string {
    CudaDeviceOptions options;
    options.path = path;
    const auto device = MakeCudaDevice(MakeEmulatedRuntime(gpu), options);
    return device.ok() ? (*device)->description() : std::string(device.status().message());
  };
  EXPECT_THAT(description({.compute_capability = 86}, ""), HasSubstr("sm80"));
  EXPECT_THAT(description({.compute_capability = 75}, ""), HasSubstr("sm75"));
  EXPECT_THAT(description({.compute_capability = 75, .tensor_cores = false}, ""), HasSubstr("dp4a"));
  EXPECT_THAT(description({.compute_capability = 86}, "dp4a"), HasSubstr("dp4a"));
  EXPECT_THAT(description({.compute_capability = 75}, "sm80"), HasSubstr("needs compute capability 8.0"));
}

}  // namespace
}  // namespace shoal::cuda
