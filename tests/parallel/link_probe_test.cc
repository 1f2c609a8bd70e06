#include "parallel/link_probe.h"

#include <unistd.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "base/str_cat.h"
#include "gmock/gmock.h"
#include "parallel/selecting_communicator.h"
#include "parallel/thread_world.h"
#include "tests/parallel/device_communicators.h"

namespace shoal {
namespace {

using testing::HasSubstr;

enum class Defect { kNone, kSlow, kWrongSum, kWrongTensor, kMute };

// Passes calls on, with a defect on one rank of the group.
class DefectiveCommunicator final : public Communicator {
 public:
  DefectiveCommunicator(std::unique_ptr<Communicator> inner, Defect defect, int* calls)
      : inner_(std::move(inner)), defect_(defect), calls_(calls) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  int64_t exchange_ns() const override { return inner_->exchange_ns(); }
  absl::Status AllReduceSum(Tensor inout) override {
    ++*calls_;
    const bool mine = rank() == size() - 1;
    // Calls of small sums cost nothing, those of large ones a lot.
    if (defect_ == Defect::kSlow && inout.bytes() > 16 << 10) usleep(20'000);
    if (mine && defect_ == Defect::kMute && ++silent_ > 3) return absl::UnavailableError("the driver has hung up");
    RETURN_IF_ERROR(inner_->AllReduceSum(inout));
    if (mine && defect_ == Defect::kWrongSum) inout.data[inout.bytes() - 8] ^= std::byte{1};  // The lowest bit.
    return absl::OkStatus();
  }
  absl::Status Send(Tensor in, int to) override { return inner_->Send(in, to); }
  absl::Status Receive(Tensor out, int from) override {
    RETURN_IF_ERROR(inner_->Receive(out, from));
    if (defect_ == Defect::kWrongTensor && rank() == 0) out.data[out.bytes() / 2] ^= std::byte{128};
    return absl::OkStatus();
  }

 private:
  std::unique_ptr<Communicator> inner_;
  Defect defect_;
  int* calls_;
  int silent_ = 0;
};

struct Outcome {
  absl::Status status;
  double sum = 0;
  int calls_of_first = 0, calls_of_last = 0;  // By two sums, a small and a large one, after the choice.
};

// A mute rank is waited for at each test of it; others may be slow on a busy machine.
LinkProbeOptions FewRounds(const std::string& demanded = "", double test_seconds = 10) {
  LinkProbeOptions options;
  options.demanded = demanded;
  options.test_seconds = test_seconds;
  options.serve_seconds = 20;
  options.test.rounds = 20;
  options.test.bytes_max = 64 << 10;
  return options;
}

// Chooses between a transport with a defect, which comes first, and a staged one, in each group.
std::vector<Outcome> RunProbe(int ranks, Defect defect, const LinkProbeOptions& options,
                              const std::function<std::vector<int>(int rank)>& group_of) {
  std::vector<Outcome> outcomes(ranks);
  const absl::Status status = RunRanks(ranks, [&](ThreadRank& thread) -> absl::Status {
    const std::unique_ptr<Device> device = EmulatedDevice();
    const std::vector<int> group = group_of(thread.rank());
    const auto host = [&](std::span<const int> g) { return thread.CreateCommunicator(g); };
    int first = 0, last = 0;
    const std::vector<Transport> transports = {
        {"host-ll",
         [&](double seconds, bool) -> absl::StatusOr<std::unique_ptr<Communicator>> {
           SharedCommunicatorOptions shared;
           shared.seconds = seconds;
           ASSIGN_OR_RETURN(auto made, CreateSharedCommunicator(thread.world(), *device, group, shared));
           return std::make_unique<DefectiveCommunicator>(std::move(made), defect, &first);
         }},
        {"mpi-host", [&](double, bool) -> absl::StatusOr<std::unique_ptr<Communicator>> {
           ASSIGN_OR_RETURN(auto made, CreateDeviceCommunicator("Staged", thread.world(), *device, host, group));
           return std::make_unique<DefectiveCommunicator>(std::move(made), Defect::kNone, &last);
         }}};
    Outcome& outcome = outcomes[thread.rank()];
    auto chosen = ChooseCommunicator(thread.world(), *device, group, transports, options);
    outcome.status = chosen.status();
    if (!chosen.ok()) return AgreeOn(thread.world(), absl::OkStatus());
    EXPECT_EQ((*chosen)->size(), static_cast<int>(group.size()));
    first = last = 0;
    for (const int64_t count : {100, 100'000}) {
      std::vector<double> x(count, 1.0);
      RETURN_IF_ERROR((*chosen)->AllReduceSum(MakeTensor(x.data(), DType::kF64, {1, count})));
      RETURN_IF_ERROR(device->Synchronize());
      outcome.sum = x.back();
    }
    outcome.calls_of_first = first, outcome.calls_of_last = last;
    return AgreeOn(thread.world(), absl::OkStatus());
  });
  EXPECT_TRUE(status.ok()) << status;
  return outcomes;
}

std::vector<int> Everybody(int ranks) {
  std::vector<int> all(ranks);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

TEST(LinkProbeTest, EachSizeGoesToTheFasterTransport) {
  const auto outcomes = RunProbe(2, Defect::kSlow, FewRounds("host-ll"), [](int) { return Everybody(2); });
  for (const Outcome& o : outcomes) {
    EXPECT_TRUE(o.status.ok()) << o.status;
    EXPECT_EQ(o.sum, 2);
    EXPECT_EQ(o.calls_of_first, 2) << "it was demanded";
  }
  for (const Outcome& o : RunProbe(2, Defect::kSlow, FewRounds(), [](int) { return Everybody(2); })) {
    EXPECT_TRUE(o.status.ok()) << o.status;
    EXPECT_EQ(o.sum, 2);
    EXPECT_EQ(o.calls_of_last + o.calls_of_first, 2);
    EXPECT_GE(o.calls_of_last, 1) << "large sums are slow by the first";
  }
}

TEST(LinkProbeTest, ATransportThatFailsOnOneRankIsLeftOutOnAll) {
  for (const Defect defect : {Defect::kWrongSum, Defect::kWrongTensor, Defect::kMute}) {
    const LinkProbeOptions options = FewRounds("", defect == Defect::kMute ? 0.5 : 10);
    for (const Outcome& o : RunProbe(3, defect, options, [](int) { return Everybody(3); })) {
      EXPECT_TRUE(o.status.ok()) << o.status;
      EXPECT_EQ(o.sum, 3);
      EXPECT_EQ(o.calls_of_first, 0);
      EXPECT_EQ(o.calls_of_last, 2);
    }
  }
}

TEST(LinkProbeTest, FailureOfADemandedTransportIsAnErrorOnAllRanks) {
  for (const Outcome& o : RunProbe(2, Defect::kWrongSum, FewRounds("host-ll"), [](int) { return Everybody(2); })) {
    EXPECT_EQ(o.status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(o.status.message(), HasSubstr("transport 'host-ll': rank 1: a sum of"));
  }
  for (const Outcome& o : RunProbe(2, Defect::kNone, FewRounds("nccl"), [](int) { return Everybody(2); })) {
    EXPECT_EQ(o.status, absl::InvalidArgumentError("transport 'nccl' is none of: host-ll, mpi-host"));
  }
}

TEST(LinkProbeTest, GroupsChooseSideBySide) {
  // Of one and three ranks, in which the last ones are mute.
  const auto group_of = [](int rank) { return rank == 0 ? std::vector<int>{0} : std::vector<int>{3, 1, 2}; };
  const auto outcomes = RunProbe(4, Defect::kMute, FewRounds("", 0.5), group_of);
  for (int r = 0; r < 4; ++r) {
    EXPECT_TRUE(outcomes[r].status.ok()) << outcomes[r].status;
    EXPECT_EQ(outcomes[r].sum, r == 0 ? 1 : 3);
    EXPECT_EQ(outcomes[r].calls_of_first, 0);
  }
}

TEST(LinkProbeTest, GroupsThatOnlyPassOnTensorsTestOnlyThose) {
  LinkProbeOptions options = FewRounds();
  options.test.sums = false;
  for (const Outcome& o : RunProbe(2, Defect::kMute, options, [](int) { return Everybody(2); })) {
    EXPECT_TRUE(o.status.ok()) << o.status;
  }
}

TEST(SelectingCommunicatorTest, RoutesBySize) {
  const absl::Status status = RunRanks(2, [](ThreadRank& thread) -> absl::Status {
    const std::vector<int> all = {0, 1};
    int calls[3] = {};
    std::vector<std::unique_ptr<Communicator>> members;
    for (int& n : calls) {
      ASSIGN_OR_RETURN(auto made, thread.CreateCommunicator(all));
      members.push_back(std::make_unique<DefectiveCommunicator>(std::move(made), Defect::kNone, &n));
    }
    const auto c = CreateSelectingCommunicator(std::move(members), {{80, 2}, {160, 0}, {800, 1}}, 1);
    EXPECT_EQ(c->rank(), thread.rank());
    for (const int64_t count : {1, 10, 11, 20, 21, 100, 101, 500}) {
      std::vector<double> x(count, 1.0);
      RETURN_IF_ERROR(c->AllReduceSum(MakeTensor(x.data(), DType::kF64, {1, count})));
    }
    EXPECT_THAT(calls, testing::ElementsAre(2, 4, 2));
    EXPECT_GT(c->exchange_ns(), 0);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace shoal
