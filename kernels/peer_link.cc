#include "kernels/peer_link.h"

#include "base/str_cat.h"
#include "kernels/cuda/link_layout.h"
#include "kernels/device.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<PeerLink>> Device::CreatePeerLink(const PeerLinkOptions&) {
  return absl::UnimplementedError(StrCat("kernels of this device (", description(), ") do not reach other ranks"));
}

int64_t MailboxBytes(const PeerLinkOptions& options) {
  constexpr int64_t kPage = 4096;
  const int64_t bytes = cuda::LayOutMailbox(options.ranks, options.sum_elements, options.put_bytes).words * 8;
  return (bytes + kPage - 1) / kPage * kPage;
}

absl::Status CheckPeerLinkOptions(const PeerLinkOptions& options) {
  constexpr int64_t kElementsMax = int64_t{1} << 24;
  if (options.ranks < 1 || options.ranks > kPeersMax || options.rank < 0 || options.rank >= options.ranks) {
    return absl::InvalidArgumentError(StrCat("peer link: rank ", options.rank, " of ", options.ranks, "; at most ",
                                             kPeersMax, " ranks can be linked"));
  }
  if (options.sum_elements < 0 || options.sum_elements > kElementsMax || options.put_bytes < 0 ||
      options.put_bytes > kElementsMax || !(options.seconds > 0)) {
    return absl::InvalidArgumentError(StrCat("peer link: sums of ", options.sum_elements, " elements, slots of ",
                                             options.put_bytes, " bytes and ", options.seconds,
                                             " seconds; sizes go up to ", kElementsMax));
  }
  const auto shared = static_cast<int64_t>(options.shared_memory.size());
  if (shared != 0 && shared != options.ranks * MailboxBytes(options)) {
    return absl::InvalidArgumentError(StrCat("peer link: ", shared, " bytes of shared memory for ", options.ranks,
                                             " mailboxes of ", MailboxBytes(options)));
  }
  return absl::OkStatus();
}

}  // namespace shoal
