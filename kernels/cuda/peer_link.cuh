// Words between ranks, "LL" (low latency): an aligned 8-byte store arrives whole, so a word that carries the awaited
// tag carries its data, too, without fences or flags. Every word has one writer, and every poll a time limit.
//
// Writers push into the reader's mailbox; nobody polls memory of a peer, which never ends on some PCIe switches.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {

// One thread's waiting. After the first failure, its own or another's, it waits no more and values are meaningless; no
// thread leaves its block early, so that barriers stay whole.
class Waiter {
 public:
  __device__ __forceinline__ Waiter(const LinkArgs& link, LinkWait wait) : link_(link), wait_(wait) {}

  // The data of the word at `from` once it carries `tag`; `rank` writes it.
  __device__ __forceinline__ uint32_t Await(const uint64_t* from, uint32_t tag, int rank) {
    if (failed_) return 0;
    uint64_t start = 0;
    for (unsigned polls = 1;; ++polls) {
      const uint64_t word = LoadSystem(from);
      if (static_cast<uint32_t>(word >> 32) == tag) return static_cast<uint32_t>(word);
      if (polls % kPollsPerLook == 0 && GiveUp(start, rank)) return 0;
    }
  }
  __device__ __forceinline__ bool failed() const { return failed_; }

 private:
  static constexpr unsigned kPollsPerLook = 64;  // A look at the clock is not free.

  __device__ __forceinline__ bool GiveUp(uint64_t& start, int rank) {
    const uint64_t now = NowNs();
    if (start == 0) start = now;
    if (LoadSystem(&link_.state->fault) != 0) {
      failed_ = true;
    } else if (now - start > link_.limit_ns) {
      failed_ = true;
      const uint64_t fault = static_cast<uint64_t>(wait_) << 32 | static_cast<uint32_t>(rank);
      StoreSystem(&link_.state->fault, fault);
      StoreSystem(&link_.report->fault, fault);
    }
    return failed_;
  }

  const LinkArgs& link_;
  LinkWait wait_;
  bool failed_ = false;
};

// Measures the kernel by the first thread of its first block.
class KernelTimer {
 public:
  __device__ __forceinline__ explicit KernelTimer(const LinkArgs& link)
      : link_(link), mine_(blockIdx.x == 0 && threadIdx.x == 0), start_(mine_ ? NowNs() : 0) {}
  __device__ __forceinline__ void Stop() const {
    if (!mine_) return;
    link_.state->exchange_ns += NowNs() - start_;
    StoreSystem(&link_.report->exchange_ns, link_.state->exchange_ns);
  }

 private:
  const LinkArgs& link_;
  bool mine_;
  uint64_t start_;
};

// This block's part in one sum. The buffer is chosen by the parity of the epoch. Two are needed and enough: a rank that
// is in epoch e + 1 may push while another still polls for e; but a kernel of e + 2 begins only after that of e + 1 has
// ended, which took a word of e + 1 from every rank, which each sent after its kernel of e had ended.
//
// Epoch 0 is the zeroed start and never used; after 2^32 - 1 comes 2, so that the parity alternates.
class SumExchange {
 public:
  __device__ __forceinline__ explicit SumExchange(const LinkArgs& link) : link_(link), waiter_(link, LinkWait::kSum) {
    const uint32_t last = link.state->epoch[blockIdx.x];
    epoch_ = last == 0xffffffffu ? 2 : last + 1;
    base_ = (epoch_ % 2) * link.layout.parity_stride;
  }

  // Sends element i of this rank to all others. In two planes, so that a warp's stores are contiguous.
  __device__ __forceinline__ void Push(int64_t i, double value) const {
    const uint64_t bits = static_cast<uint64_t>(__double_as_longlong(value)), tag = static_cast<uint64_t>(epoch_) << 32;
    // Starting behind oneself spreads the stores over the peers.
    for (int step = 1; step < link_.ranks; ++step) {
      const int to = link_.rank + step < link_.ranks ? link_.rank + step : link_.rank + step - link_.ranks;
      uint64_t* const words = link_.mailbox[to] + Plane(link_.rank);
      StoreSystem(words + i, tag | (bits & 0xffffffffu));
      StoreSystem(words + link_.layout.sum_elements + i, tag | bits >> 32);
    }
  }

  // The sum of element i over all ranks, in rank order. `mine` is this rank's.
  __device__ __forceinline__ double Sum(int64_t i, double mine) {
    double sum = 0.0;
    for (int r = 0; r < link_.ranks; ++r) {
      double part = mine;
      if (r != link_.rank) {
        const uint64_t* const words = link_.mailbox[link_.rank] + Plane(r);
        const uint64_t low = waiter_.Await(words + i, epoch_, r);
        const uint64_t high = waiter_.Await(words + link_.layout.sum_elements + i, epoch_, r);
        part = __longlong_as_double(static_cast<long long>(high << 32 | low));
      }
      sum += part;
    }
    return sum;
  }

  // Behind all sums of the block.
  __device__ __forceinline__ void End() const {
    __syncthreads();
    if (threadIdx.x == 0) link_.state->epoch[blockIdx.x] = epoch_;
  }

 private:
  __device__ __forceinline__ int64_t Plane(int sender) const { return base_ + sender * 2 * link_.layout.sum_elements; }

  const LinkArgs& link_;
  Waiter waiter_;
  uint32_t epoch_;
  int64_t base_;
};

}  // namespace shoal::cuda
