#include "parallel/shared_communicator.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/peer_link.h"
#include "parallel/shared_segment.h"

namespace shoal {
namespace {

static_assert(kPutSlots >= kSendsInFlight);

class SharedCommunicator final : public Communicator {
 public:
  SharedCommunicator(int rank, int size, std::unique_ptr<SharedSegment> segment, std::unique_ptr<PeerLink> link)
      : rank_(rank), size_(size), segment_(std::move(segment)), link_(std::move(link)) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  bool SumOnlyQueues(int64_t) const override { return true; }
  int64_t exchange_ns() const override { return link_->exchange_ns(); }

  absl::Status AllReduceSum(Tensor inout) override {
    link_->AllReduceSum(inout);
    return link_->status();
  }

  absl::StatusOr<bool> AllReduceAddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual,
                                           const Activation& out) override {
    const bool done = link_->AllReduceAddRmsNorm(delta, gain, eps, residual, out);
    RETURN_IF_ERROR(link_->status());
    return done;
  }

  absl::Status Send(Tensor in, int to) override {
    link_->Put(in, to);
    return link_->status();
  }

  absl::Status Receive(Tensor out, int from) override {
    link_->Get(out, from);
    return link_->status();
  }

 private:
  int rank_, size_;
  std::unique_ptr<SharedSegment> segment_;  // Empty for mailboxes in device memory.
  std::unique_ptr<PeerLink> link_;          // Goes first.
};

// The handles of the group's ranks, by rank in the group.
absl::StatusOr<std::vector<PeerHandle>> GatherHandles(World& world, std::span<const int> group,
                                                      const PeerHandle& mine) {
  ASSIGN_OR_RETURN(const auto all, world.AllGather(mine));
  std::vector<PeerHandle> handles(group.size());
  for (size_t i = 0; i < group.size(); ++i) {
    const std::vector<std::byte>& theirs = all[group[i]];
    if (theirs.size() != sizeof(PeerHandle)) {
      return absl::InternalError(StrCat("rank ", group[i], ": a handle of ", theirs.size(), " bytes"));
    }
    std::memcpy(handles[i].data(), theirs.data(), theirs.size());
  }
  return handles;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateSharedCommunicator(World& world, Device& device,
                                                                       std::span<const int> group,
                                                                       const SharedCommunicatorOptions& options) {
  RETURN_IF_ERROR(CheckGroups(world, group));
  PeerLinkOptions link_options;
  link_options.ranks = static_cast<int>(group.size());
  link_options.rank = static_cast<int>(std::find(group.begin(), group.end(), world.rank()) - group.begin());
  link_options.sum_elements = options.sum_elements;
  link_options.put_bytes = options.put_bytes;
  link_options.seconds = options.seconds;
  link_options.first_epoch = options.first_epoch;
  // Groups may fail one by one, but no rank leaves out a collective step.
  const absl::Status valid = AgreeInGroup(world, group, absl::OkStatus(), CheckPeerLinkOptions(link_options));
  const bool in_host = options.mailboxes == SharedCommunicatorOptions::Mailboxes::kHost;
  const int64_t bytes = valid.ok() && in_host ? link_options.ranks * MailboxBytes(link_options) : 0;
  absl::StatusOr<std::unique_ptr<SharedSegment>> segment = SharedSegment::Create(world, group, bytes);
  const absl::Status shared = valid.ok() ? segment.status() : valid;

  absl::StatusOr<std::unique_ptr<PeerLink>> link(nullptr);
  if (shared.ok()) {
    if (in_host) link_options.shared_memory = (*segment)->memory();
    link = device.CreatePeerLink(link_options);
  }
  const absl::Status made = AgreeInGroup(world, group, shared, link.status());
  absl::StatusOr<std::vector<PeerHandle>> handles =
      GatherHandles(world, group, made.ok() ? (*link)->handle() : PeerHandle{});
  absl::Status connected = handles.status();
  if (made.ok() && handles.ok()) connected = (*link)->Connect(*handles);
  RETURN_IF_ERROR(AgreeInGroup(world, group, made, connected));
  return std::make_unique<SharedCommunicator>(link_options.rank, link_options.ranks, *std::move(segment),
                                              *std::move(link));
}

}  // namespace shoal
