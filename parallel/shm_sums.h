// Sums over ranks through the slots of an exchange.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/tensor.h"
#include "parallel/shm_exchange.h"

namespace shoal {

// What the rank that adds up some units of a sum makes of their totals, and how the others get it. Units are numbers,
// or rows of a matrix.
class SumShare {
 public:
  virtual ~SumShare() = default;
  // In a slot, of `n` units; a multiple of 64.
  virtual int64_t BytesOf(int64_t n) const = 0;
  // The totals of units [begin, begin + n) are where their addends were.
  virtual void Finish(int64_t begin, int64_t n) = 0;
  // To and from a slot, what Finish has made of them.
  virtual void Pack(int64_t begin, int64_t n, std::byte* slot) const = 0;
  virtual void Unpack(int64_t begin, int64_t n, const std::byte* slot) = 0;
};

class ShmSums {
 public:
  ShmSums(ShmExchange exchange, int rank, int ranks)
      : exchange_(exchange), rank_(rank), ranks_(ranks), parts_(static_cast<size_t>(ranks)) {}

  // Every rank adds up everything: one exchange per slot.
  absl::Status AddEverywhere(const ShmWaiting& waiting, std::span<double> data);

  // Every rank adds up some of the units and shares the result. A slot carries parts of the next units and the result
  // of those before, so the number of exchanges is that of the pieces and one. data: units * elements.
  absl::Status AddShares(const ShmWaiting& waiting, std::span<double> data, int64_t units, SumShare& share);

  // If a slot holds one unit per rank at least.
  bool CanShare(int64_t elements, const SumShare& share) const { return UnitsPerExchange(elements, share) > 0; }

 private:
  struct Range {
    int64_t begin = 0;
    int64_t end = 0;
    int64_t size() const { return end - begin; }
  };
  Range ShareOf(int rank, Range units) const;
  int64_t UnitsPerExchange(int64_t elements, const SumShare& share) const;
  absl::Status AwaitAll(const ShmWaiting& waiting);
  void AddInRankOrder(double* mine, int64_t count);

  ShmExchange exchange_;
  int rank_, ranks_;
  std::vector<const std::byte*> parts_;  // By rank: what it has in its slot.
};

}  // namespace shoal
