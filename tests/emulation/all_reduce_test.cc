// The sum over ranks as a kernel, with mailboxes in plain memory and every rank an OS thread.
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/kernels.h"
#include "tests/support/cuda_emulation.h"

namespace shoal::cuda {
namespace {

constexpr int kCapacity = 512;

class Link {
 public:
  Link(int ranks, uint32_t epoch, double seconds)
      : layout_(LayOutMailbox(ranks, kCapacity, 0)), states_(ranks), reports_(ranks), seconds_(seconds) {
    for (int r = 0; r < ranks; ++r) {
      mailboxes_.emplace_back(layout_.words, 0);
      for (uint32_t& e : states_[r].epoch) e = epoch;
    }
  }

  // The classic mistake: both parities in one buffer.
  void UseOneBuffer() { layout_.parity_stride = 0; }

  LinkArgs Args(int rank) {
    LinkArgs args{};
    for (size_t r = 0; r < mailboxes_.size(); ++r) args.mailbox[r] = mailboxes_[r].data();
    args.state = &states_[rank];
    args.report = &reports_[rank];
    args.layout = layout_;
    args.rank = rank;
    args.ranks = static_cast<int>(mailboxes_.size());
    args.limit_ns = static_cast<uint64_t>(seconds_ * 1e9);
    return args;
  }
  uint64_t Fault(int rank) const { return reports_[rank].fault; }
  uint32_t Epoch(int rank, int block) const { return states_[rank].epoch[block]; }
  int ranks() const { return static_cast<int>(mailboxes_.size()); }

 private:
  MailboxLayout layout_;
  std::vector<std::vector<uint64_t>> mailboxes_;
  std::vector<LinkState> states_;
  std::vector<LinkReport> reports_;
  double seconds_;
};

void OnThreads(int ranks, const std::function<void(int rank)>& body) {
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) threads.emplace_back(body, r);
  for (std::thread& thread : threads) thread.join();
}

// Rounds of sums whose sizes change from call to call, until one goes wrong on some rank. Returns the wrong ones.
int WrongRounds(Link& link, int rounds) {
  std::atomic<int> wrong = 0;
  OnThreads(link.ranks(), [&](int rank) {
    cuda_emulation::SetLaneOrder(rank);  // Another order on each rank.
    const LinkArgs args = link.Args(rank);
    std::vector<double> x(kCapacity);
    for (int round = 0; round < rounds && wrong == 0; ++round) {
      const int n = round % 7 == 6 ? kCapacity : 1 + round * 97 % kCapacity;
      for (int i = 0; i < n; ++i) x[i] = (rank + 1) * (i % 7) + round * 0x1p-30;
      LaunchAllReduce({.link = args, .inout = x.data(), .count = n}, nullptr);
      const int ranks = link.ranks();
      bool good = true;
      for (int i = 0; i < n; ++i) good &= x[i] == ranks * (ranks + 1) / 2 * (i % 7) + ranks * (round * 0x1p-30);
      if (!good) ++wrong;
    }
  });
  return wrong;
}

TEST(AllReduceTest, SizesMayChangeFromCallToCall) {
  for (const int ranks : {2, 3, 4}) {
    Link link(ranks, 0, 10);
    EXPECT_EQ(WrongRounds(link, 150), 0);
    for (int r = 0; r < ranks; ++r) {
      EXPECT_EQ(link.Fault(r), 0u);
      for (int block = 0; block < kLinkBlocks; ++block) EXPECT_EQ(link.Epoch(r, block), 150u);
    }
  }
}

TEST(AllReduceTest, EpochsWrapToTwo) {
  Link link(3, 0xffffffff - 5, 10);
  EXPECT_EQ(WrongRounds(link, 20), 0);
  // -4, .. -1 (five), then 2, 3, ...
  for (int r = 0; r < 3; ++r) EXPECT_EQ(link.Epoch(r, 0), 2u + 20 - 5 - 1);
}

// A test of the tests above: they notice that two buffers are needed.
TEST(AllReduceTest, OneBufferIsNotEnough) {
  Link link(4, 0, 0.2);
  link.UseOneBuffer();
  EXPECT_GT(WrongRounds(link, 5000), 0);
}

TEST(AllReduceTest, AWaitEndsAtItsLimitAndNamesTheRank) {
  Link link(3, 0, 0.1);
  OnThreads(2, [&](int rank) {  // Rank 2 does not come.
    std::vector<double> x(100, 1.0);
    for (int call = 0; call < 3; ++call) {
      const uint64_t start = NowNs();
      LaunchAllReduce({.link = link.Args(rank), .inout = x.data(), .count = 100}, nullptr);
      // Once it has given up, it does not wait for the limit again.
      EXPECT_LT(NowNs() - start, call == 0 ? 5'000'000'000u : 90'000'000u);
    }
  });
  EXPECT_EQ(link.Fault(0), uint64_t{1} << 32 | 2);
  EXPECT_EQ(link.Fault(1), uint64_t{1} << 32 | 2);
}

}  // namespace
}  // namespace shoal::cuda
