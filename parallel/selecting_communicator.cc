#include "parallel/selecting_communicator.h"

#include <utility>

#include "base/check.h"

namespace shoal {
namespace {

class SelectingCommunicator final : public Communicator {
 public:
  SelectingCommunicator(std::vector<std::unique_ptr<Communicator>> members, std::vector<SumRoute> routes,
                        size_t tensors)
      : members_(std::move(members)), routes_(std::move(routes)), tensors_(tensors) {
    SHOAL_CHECK(!routes_.empty() && tensors_ < members_.size());
    for (const SumRoute& route : routes_) SHOAL_CHECK(route.member < members_.size());
  }

  int rank() const override { return members_[0]->rank(); }
  int size() const override { return members_[0]->size(); }

  absl::Status AllReduceSum(Tensor inout) override { return ForSum(inout.bytes()).AllReduceSum(inout); }
  absl::StatusOr<bool> AllReduceAddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual,
                                           const Activation& out) override {
    return ForSum(delta.bytes()).AllReduceAddRmsNorm(delta, gain, eps, residual, out);
  }
  bool SumOnlyQueues(int64_t bytes) const override { return ForSum(bytes).SumOnlyQueues(bytes); }

  absl::Status Send(Tensor in, int to) override { return members_[tensors_]->Send(in, to); }
  absl::Status Receive(Tensor out, int from) override { return members_[tensors_]->Receive(out, from); }

  int64_t exchange_ns() const override {
    int64_t sum = 0;
    for (const auto& member : members_) sum += member->exchange_ns();
    return sum;
  }

 private:
  Communicator& ForSum(int64_t bytes) const {
    size_t i = 0;
    while (i + 1 < routes_.size() && bytes > routes_[i].bytes_max) ++i;
    return *members_[routes_[i].member];
  }

  std::vector<std::unique_ptr<Communicator>> members_;
  std::vector<SumRoute> routes_;
  size_t tensors_;
};

}  // namespace

std::unique_ptr<Communicator> CreateSelectingCommunicator(std::vector<std::unique_ptr<Communicator>> members,
                                                          std::vector<SumRoute> routes, size_t tensors) {
  return std::make_unique<SelectingCommunicator>(std::move(members), std::move(routes), tensors);
}

}  // namespace shoal
