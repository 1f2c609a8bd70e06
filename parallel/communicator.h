// The data plane: tensors between ranks, ordered with Ops on the same device queue.
#pragma once

#include <chrono>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"

namespace shoal {

// A group of ranks: the tensor-parallel ranks of one stage, or all ranks in a row for the pipeline. Used by one thread.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // inout becomes the sum over ranks, with the same bits on every rank. f64 partial results of Ops::LinearPartial are
  // exact, so any order of additions gives the same sum. inout: [T, E] f64, contiguous.
  virtual absl::Status AllReduceSum(Tensor inout) = 0;

  // AllReduceSum(delta), then Ops::AddRmsNorm, as one op with the same bits; delta's values are lost. False, on all
  // ranks alike, if nothing was done because this communicator has no such op, or not for this shape.
  virtual absl::StatusOr<bool> AllReduceAddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual,
                                                   const Activation& out) {
    (void)delta, (void)gain, (void)eps, (void)residual, (void)out;
    return false;
  }

  // Sends a contiguous tensor to a rank of the group. Returns once `in` may be overwritten by later ops; does not wait
  // for the receiver while fewer than kSendsInFlight tensors to it are unread.
  virtual absl::Status Send(Tensor in, int to) = 0;
  // Waits for the next tensor from a rank, which must have exactly out's bytes.
  virtual absl::Status Receive(Tensor out, int from) = 0;

  // Sums of `bytes` only queue work on the device, as ops do: they may be part of a Device::Replay, and what goes wrong
  // may come to light at Device::Synchronize.
  virtual bool SumOnlyQueues(int64_t bytes) const {
    (void)bytes;
    return false;
  }

  // Time that these calls have taken since the start, on this rank's clock: exchanging and waiting, not computing.
  virtual int64_t exchange_ns() const = 0;
};

// Adds the time from its construction to its end to `total_ns`.
class ExchangeTimer {
 public:
  explicit ExchangeTimer(int64_t& total_ns) : total_ns_(total_ns), start_(std::chrono::steady_clock::now()) {}
  ~ExchangeTimer() { total_ns_ += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start_).count(); }
  ExchangeTimer(const ExchangeTimer&) = delete;
  ExchangeTimer& operator=(const ExchangeTimer&) = delete;

 private:
  int64_t& total_ns_;
  std::chrono::steady_clock::time_point start_;
};

constexpr int kSendsInFlight = 8;

// Larger sums are exchanged in pieces of this size, so that what a rank adds up stays in its cache and the memory a
// communicator needs does not grow with the step.
constexpr int64_t kAllReduceChunkBytes = int64_t{256} << 10;

}  // namespace shoal
