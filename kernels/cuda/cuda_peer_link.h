// A GPU's end of a peer link, over mailboxes in host memory or in the memory of the GPUs.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/arena.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/runtime.h"
#include "kernels/peer_link.h"

namespace shoal::cuda {

// What the kernels of one link have reported to the host. Kept by the link; the device looks, too.
class LinkReports {
 public:
  // `words` is page-locked host memory, freed with this.
  LinkReports(std::shared_ptr<Runtime> runtime, std::byte* words, double seconds);
  ~LinkReports();
  LinkReports(const LinkReports&) = delete;
  LinkReports& operator=(const LinkReports&) = delete;

  // As PeerLink::status: a wrong size is forgotten.
  absl::Status Take();
  int64_t exchange_ns() const;
  LinkReport* words() const { return words_; }

 private:
  std::shared_ptr<Runtime> runtime_;
  LinkReport* words_;
  double seconds_;
};

class CudaPeerLink final : public PeerLink {
 public:
  static absl::StatusOr<std::unique_ptr<CudaPeerLink>> Create(std::shared_ptr<Runtime> runtime, Arena& arena,
                                                              const PeerLinkOptions& options);
  ~CudaPeerLink() override;

  const PeerHandle& handle() const override { return handle_; }
  absl::Status Connect(std::span<const PeerHandle> handles) override;
  void AllReduceSum(Tensor inout) override;
  bool AllReduceAddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual, const Activation& out) override;
  void Put(Tensor in, int to) override;
  void Get(Tensor out, int from) override;
  absl::Status status() override { return reports_->Take(); }
  int64_t exchange_ns() const override { return reports_->exchange_ns(); }

  const std::shared_ptr<LinkReports>& reports() const { return reports_; }

 private:
  CudaPeerLink(std::shared_ptr<Runtime> runtime, const PeerLinkOptions& options)
      : runtime_(std::move(runtime)), options_(options) {}
  absl::Status Start(Arena& arena);

  std::shared_ptr<Runtime> runtime_;
  const PeerLinkOptions options_;
  LinkArgs args_{};
  PeerHandle handle_{};
  std::shared_ptr<LinkReports> reports_;
  std::unique_ptr<Buffer> state_;
  std::unique_ptr<Buffer> mailbox_;   // Unless it is in shared host memory,
  bool registered_ = false;           // which the device knows then.
  std::vector<std::byte*> imported_;  // Mailboxes of others, to be closed.
  bool connected_ = false;
};

}  // namespace shoal::cuda
