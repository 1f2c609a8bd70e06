// A link between processes, which share nothing but the mailboxes.
#include "kernels/peer_link.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "kernels/device.h"

namespace shoal {
namespace {

PeerLinkOptions Options(int ranks) {
  PeerLinkOptions options;
  options.ranks = ranks;
  options.sum_elements = 256;
  options.put_bytes = 1024;
  options.seconds = 4;
  options.first_epoch = 0xffffffff - 30;
  return options;
}

absl::StatusOr<std::unique_ptr<Device>> SmallDevice(int64_t budget = 0) {
  CudaDeviceOptions options;
  options.memory_budget = budget;
  options.workspace_bytes = 4096;
  return CreateCudaDevice(options);
}

// Rounds of sums of changing sizes, and a ring of tensors. Returns how many rounds came out right.
int Exchange(PeerLink& link, int rank, int ranks, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const int n = 1 + round * 89 % 700;
    std::vector<double> x(n);
    for (int i = 0; i < n; ++i) x[i] = rank * i + round;
    link.AllReduceSum(MakeTensor(x.data(), DType::kF64, {1, n}));
    for (int i = 0; i < n; ++i) {
      if (x[i] != ranks * (ranks - 1) / 2 * i + ranks * round) return round;
    }
    std::vector<int32_t> out(n, rank * 1000 + round), in(n);
    link.Put(MakeTensor(out.data(), DType::kI32, {n}), (rank + 1) % ranks);
    link.Get(MakeTensor(in.data(), DType::kI32, {n}), (rank + ranks - 1) % ranks);
    if (in != std::vector<int32_t>(n, (rank + ranks - 1) % ranks * 1000 + round)) return round;
    if (!link.status().ok()) return round;
  }
  return rounds;
}

// One rank in this process or a child. Returns the rounds that came out right.
int RunRank(PeerLinkOptions options, int rank, int rounds, absl::Status* status_after_more = nullptr) {
  options.rank = rank;
  auto device = SmallDevice();
  if (!device.ok()) return -1;
  auto link = (*device)->CreatePeerLink(options);
  if (!link.ok() || !(*link)->Connect(std::vector<PeerHandle>(options.ranks)).ok()) return -1;
  const int done = Exchange(**link, rank, options.ranks, rounds);
  if (status_after_more != nullptr) {
    Exchange(**link, rank, options.ranks, 1);
    *status_after_more = (*link)->status();
  }
  return done;
}

class SharedMapping {
 public:
  explicit SharedMapping(int64_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    SHOAL_CHECK(data_ != MAP_FAILED);
  }
  ~SharedMapping() { munmap(data_, bytes_); }
  std::span<std::byte> span() const { return {static_cast<std::byte*>(data_), static_cast<size_t>(bytes_)}; }

 private:
  void* data_;
  int64_t bytes_;
};

TEST(PeerLinkTest, ProcessesExchangeAndNoticeOneThatDies) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer does not follow the emulation's fibers over a fork; mpirun's processes it does";
#endif
  constexpr int kRounds = 60;
  for (const int ranks : {2, 3}) {
    PeerLinkOptions options = Options(ranks);
    const SharedMapping memory(ranks * MailboxBytes(options));
    options.shared_memory = memory.span();
    std::vector<pid_t> children;
    for (int r = 1; r < ranks; ++r) {
      const pid_t child = fork();
      ASSERT_GE(child, 0);
      if (child == 0) _exit(RunRank(options, r, kRounds) == kRounds ? 0 : 1);
      children.push_back(child);
    }
    options.seconds = 1;  // This rank's own patience.
    absl::Status after;
    EXPECT_EQ(RunRank(options, 0, kRounds, &after), kRounds);
    EXPECT_EQ(after.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(after.message(), testing::HasSubstr("rank 1 of the group does not answer"));
    for (const pid_t child : children) {
      int status = 0;
      EXPECT_EQ(waitpid(child, &status, 0), child);
      EXPECT_EQ(status, 0);
    }
  }
}

TEST(PeerLinkTest, OptionsOutOfRangeAreRefused) {
  auto device = SmallDevice();
  ASSERT_TRUE(device.ok());
  const auto code = [&](auto change) {
    PeerLinkOptions options = Options(2);
    change(options);
    return (*device)->CreatePeerLink(options).status().code();
  };
  EXPECT_EQ(code([](PeerLinkOptions&) {}), absl::StatusCode::kOk);
  EXPECT_EQ(code([](PeerLinkOptions& o) { o.ranks = kPeersMax + 1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](PeerLinkOptions& o) { o.rank = 2; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](PeerLinkOptions& o) { o.seconds = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](PeerLinkOptions& o) { o.put_bytes = -4; }), absl::StatusCode::kInvalidArgument);
  std::byte few[64];
  EXPECT_EQ(code([&](PeerLinkOptions& o) { o.shared_memory = few; }), absl::StatusCode::kInvalidArgument);
  const auto reference = CreateReferenceDevice();
  EXPECT_EQ(reference->CreatePeerLink(Options(2)).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(PeerLinkTest, ADeviceCountsItsMailboxAsCommunication) {
  auto device = SmallDevice(1 << 20);
  ASSERT_TRUE(device.ok());
  const auto used = [&] { return (*device)->ledger().used[static_cast<int>(MemoryKind::kCommunication)]; };
  PeerLinkOptions options = Options(2);
  {
    const auto link = (*device)->CreatePeerLink(options);
    ASSERT_TRUE(link.ok()) << link.status();
    EXPECT_GE(used(), MailboxBytes(options));
  }
  EXPECT_EQ(used(), 0);
  options.sum_elements = 1 << 20;
  EXPECT_EQ((*device)->CreatePeerLink(options).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace shoal
