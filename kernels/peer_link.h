// Kernels of several ranks that exchange data without their hosts: sums and tensors through mailboxes which the devices
// of all of them reach.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"

namespace shoal {

constexpr int kPeersMax = 8;
// Tensors on their way from one rank to another that the receiver has not read, while none is longer than put_bytes.
constexpr int kPutSlots = 8;

// A mailbox in device memory, as another process may ask for it. All zero: the mailboxes are in shared host memory.
using PeerHandle = std::array<std::byte, 64>;

struct PeerLinkOptions {
  int rank = 0;
  int ranks = 1;             // 1..kPeersMax
  int64_t sum_elements = 0;  // Doubles that one exchange carries; longer sums take several. 0: no sums.
  int64_t put_bytes = 0;     // Bytes of a tensor that one slot holds; longer ones take several. 0: no tensors.
  double seconds = 10;       // A kernel that waits longer for another rank gives up.
  // Host memory that all ranks share, in whole pages: ranks * MailboxBytes(), zeroed, rank 0's mailbox first. It must
  // outlive the link. Empty: each rank's mailbox is in its device's memory.
  std::span<std::byte> shared_memory;
  uint32_t first_epoch = 0;  // For tests of the wrap-around: the same on all ranks.
};

// Bytes of one rank's mailbox, a multiple of the page size; the same on every rank.
int64_t MailboxBytes(const PeerLinkOptions& options);

// Errors: kInvalidArgument for options out of range, or shared memory of another size.
absl::Status CheckPeerLinkOptions(const PeerLinkOptions& options);

// One rank's end of a link. Everything is queued on the device and may be part of a Replay; all ranks queue the same
// sums, of the same shapes, in the same order. Used by the device's thread; destroyed before the device, when no other
// rank has anything queued that still waits for this one.
class PeerLink {
 public:
  virtual ~PeerLink() = default;

  // What the other ranks need to reach this rank's mailbox.
  virtual const PeerHandle& handle() const = 0;
  // Opens the mailboxes of all ranks, whose handles are given by rank; before all else. Errors: kUnavailable if the
  // device does not reach one.
  virtual absl::Status Connect(std::span<const PeerHandle> handles) = 0;

  // inout becomes the sum over ranks, added in rank order. inout: f64, contiguous.
  virtual void AllReduceSum(Tensor inout) = 0;
  // AllReduceSum(delta), then Ops::AddRmsNorm, with the same bits; delta's values are lost. False, with nothing queued,
  // if delta is longer than one exchange.
  virtual bool AllReduceAddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual, const Activation& out) = 0;

  // Copies a contiguous tensor, aligned to 4 bytes, to rank `to`, which gets it with as many bytes.
  virtual void Put(Tensor in, int to) = 0;
  virtual void Get(Tensor out, int from) = 0;

  // What kernels have reported so far. A rank that did not answer in time: kUnavailable, for ever after, and nothing on
  // this link waits any more. A tensor of another size than awaited: kInternal, once. Device::Synchronize returns it,
  // too, while the link exists.
  virtual absl::Status status() = 0;
  // Time in kernels of this link that have ended.
  virtual int64_t exchange_ns() const = 0;
};

}  // namespace shoal
