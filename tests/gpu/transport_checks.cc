#include "tests/gpu/transport_checks.h"

#include <chrono>
#include <cstdio>
#include <numeric>
#include <vector>

#include "base/status_macros.h"
#include "gtest/gtest.h"
#include "kernels/cuda/runtime.h"

namespace shoal {
namespace {

constexpr int64_t kTensorBytesMax = 300'000;
// Tokens and columns of sums: one token of small models, batches, prefill, and odd ones.
constexpr int64_t kSums[][2] = {{1, 1536}, {1, 3584}, {8, 1536}, {64, 512}, {3, 1001}, {1, 5}};

// One rank, with its memory; all of it is taken before anything waits for another rank on the device.
struct Rank {
  ThreadRank& thread;
  Device& device;
  Communicator& transport;
  std::byte* memory;  // kTensorBytesMax, twice
  bool emulated;

  int ranks() const { return thread.size(); }
  Tensor Doubles(int64_t rows, int64_t cols) const { return MakeTensor(memory, DType::kF64, {rows, cols}); }
  // No rank goes on before all are here.
  absl::Status Meet() {
    RETURN_IF_ERROR(device.Synchronize());
    return thread.world().AllGather({}).status();
  }
};

// Rank r's summand: a multiple of 2^-10, so that sums are exact.
double Summand(int rank, int64_t i, int round) {
  return static_cast<double>((i * 31 + rank * 17 + round * 7) % 1001 - 500) * 0x1p-10;
}

absl::Status CheckSums(Rank& r) {
  for (const auto& [rows, cols] : kSums) {
    std::vector<double> values(rows * cols);
    for (int round = 0; round < (r.emulated ? 2 : 20); ++round) {
      for (size_t i = 0; i < values.size(); ++i) values[i] = Summand(r.thread.rank(), static_cast<int64_t>(i), round);
      const Tensor t = r.Doubles(rows, cols);
      r.device.CopyIn(values.data(), t);
      RETURN_IF_ERROR(r.transport.AllReduceSum(t));
      r.device.CopyOut(t, values.data());
      RETURN_IF_ERROR(r.device.Synchronize());
      for (size_t i = 0; i < values.size(); ++i) {
        double expected = 0;
        for (int rank = 0; rank < r.ranks(); ++rank) expected += Summand(rank, static_cast<int64_t>(i), round);
        if (values[i] != expected) {
          ADD_FAILURE() << rows << "x" << cols << ", round " << round << ", element " << i << ": " << values[i]
                        << " instead of " << expected;
          return absl::InternalError("a wrong sum");
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckGraph(Rank& r) {
  const Tensor t = r.Doubles(1, 1536);
  if (!r.transport.SumOnlyQueues(t.bytes())) return absl::OkStatus();
  std::vector<double> values(t.cols(), 0x1p-20);
  r.device.CopyIn(values.data(), t);
  RETURN_IF_ERROR(r.Meet());
  constexpr int kReplays = 8;
  for (int i = 0; i < kReplays; ++i) {
    RETURN_IF_ERROR(r.device.Replay(7, [&] { return r.transport.AllReduceSum(t); }));
  }
  r.device.CopyOut(t, values.data());
  RETURN_IF_ERROR(r.device.Synchronize());
  double expected = 0x1p-20;
  for (int i = 0; i < kReplays; ++i) expected *= r.ranks();  // Every sum is of equal numbers.
  EXPECT_EQ(values.front(), expected);
  EXPECT_EQ(values.back(), expected);
  return absl::OkStatus();
}

absl::Status CheckRing(Rank& r) {
  const int next = (r.thread.rank() + 1) % r.ranks(), before = (r.thread.rank() + r.ranks() - 1) % r.ranks();
  for (const int64_t words : {int64_t{1536}, int64_t{11}, kTensorBytesMax / 4}) {
    std::vector<int32_t> values(words);
    std::iota(values.begin(), values.end(), 1000 * r.thread.rank());
    const Tensor out = MakeTensor(r.memory, DType::kI32, {1, words});
    const Tensor in = MakeTensor(r.memory + kTensorBytesMax, DType::kI32, {1, words});
    r.device.CopyIn(values.data(), out);
    RETURN_IF_ERROR(r.transport.Send(out, next));
    RETURN_IF_ERROR(r.transport.Receive(in, before));
    std::vector<int32_t> arrived(words);
    r.device.CopyOut(in, arrived.data());
    RETURN_IF_ERROR(r.device.Synchronize());
    std::iota(values.begin(), values.end(), 1000 * before);
    EXPECT_EQ(arrived, values) << words << " words from rank " << before;
  }
  return absl::OkStatus();
}

absl::Status TimeSums(Rank& r, const std::string& name) {
  const Tensor t = r.Doubles(1, 1536);
  const int sums = r.emulated ? 3 : 500;
  RETURN_IF_ERROR(r.Meet());
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < sums; ++i) RETURN_IF_ERROR(r.transport.AllReduceSum(t));
  RETURN_IF_ERROR(r.device.Synchronize());
  const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
  if (r.thread.rank() == 0) {
    std::printf("[  TIMES   ] %s, %d ranks: %.1f us per sum of 1536 numbers\n", name.c_str(), r.ranks(),
                time.count() / sums);
  }
  return absl::OkStatus();
}

}  // namespace

int CountGpus() {
  const auto first = cuda::CreateRuntime(0);
  if (!first.ok()) return 0;
  if ((*first)->info().name == "emulated") return 1;
  int count = 1;
  while (count < 64 && cuda::CreateRuntime(count).ok()) ++count;
  return count;
}

absl::Status CheckTransport(const std::string& name, int ranks, const TransportFactory& make) {
  const int gpus = CountGpus();
  absl::Status made;  // Rank 0's: factories fail on all ranks alike.
  const absl::Status ran = RunRanks(ranks, [&](ThreadRank& thread) -> absl::Status {
    CudaDeviceOptions options;
    options.index = thread.rank() % gpus;
    ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, CreateCudaDevice(options));
    ASSIGN_OR_RETURN(const std::unique_ptr<Buffer> memory,
                     device->Allocate(MemoryKind::kCommunication, 2 * kTensorBytesMax));
    const auto transport = make(thread, *device);
    if (thread.rank() == 0) made = transport.status();
    if (!transport.ok()) return absl::OkStatus();
    Rank rank{thread, *device, **transport, memory->data(),
              device->description().find("emulated") != std::string::npos};
    RETURN_IF_ERROR(rank.Meet());
    RETURN_IF_ERROR(CheckSums(rank));
    RETURN_IF_ERROR(CheckGraph(rank));
    RETURN_IF_ERROR(rank.Meet());
    RETURN_IF_ERROR(CheckRing(rank));
    RETURN_IF_ERROR(TimeSums(rank, name));
    return rank.Meet();  // Memory is freed, which waits for the GPU, when nobody uses it any more.
  });
  EXPECT_TRUE(ran.ok()) << name << ", " << ranks << " ranks: " << ran;
  return made;
}

}  // namespace shoal
