#include "parallel/shm_sums.h"

#include <algorithm>

#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/stream_copy.h"

namespace shoal {
namespace {

constexpr int64_t kDouble = sizeof(double);

}  // namespace

ShmSums::Range ShmSums::ShareOf(int rank, Range units) const {
  return {units.begin + units.size() * rank / ranks_, units.begin + units.size() * (rank + 1) / ranks_};
}

// Of all ranks together.
int64_t ShmSums::UnitsPerExchange(int64_t elements, const SumShare& share) const {
  const auto fits = [&](int64_t units) {
    const int64_t least = units / ranks_, most = (units + ranks_ - 1) / ranks_;
    return share.BytesOf(most) + (units - least) * elements * kDouble <= exchange_.slot_bytes();
  };
  // The parts alone set a limit; what the results take is a share of that and little more.
  int64_t units = exchange_.slot_bytes() * ranks_ / ((ranks_ - 1) * elements * kDouble);
  const int64_t step = std::max<int64_t>(1, units / 64);
  while (units >= ranks_ && !fits(units)) units -= step;
  return units >= ranks_ ? units : 0;
}

absl::Status ShmSums::AwaitAll(const ShmWaiting& waiting) {
  for (int step = 1; step < ranks_; ++step) {
    const int from = (rank_ + step) % ranks_;
    ASSIGN_OR_RETURN(parts_[from], exchange_.Await(waiting, from));
  }
  return absl::OkStatus();
}

// Adds to `mine` what parts_ holds of the others.
void ShmSums::AddInRankOrder(double* mine, int64_t count) {
  // Rank order even though exact sums would not need it: a NaN then has the same bits everywhere, too.
  constexpr int64_t kBlock = 256;
  double total[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    const auto part = [&](int r) { return (r == rank_ ? mine : reinterpret_cast<const double*>(parts_[r])) + begin; };
    const double* const first = part(0);
    for (int64_t i = 0; i < n; ++i) total[i] = 0.0 + first[i];
    for (int r = 1; r + 1 < ranks_; ++r) {
      const double* const next = part(r);
      for (int64_t i = 0; i < n; ++i) total[i] += next[i];
    }
    const double* const last = part(ranks_ - 1);
    double* const out = mine + begin;
    for (int64_t i = 0; i < n; ++i) out[i] = total[i] + last[i];
  }
}

absl::Status ShmSums::AddEverywhere(const ShmWaiting& waiting, std::span<double> data) {
  const auto all = static_cast<int64_t>(data.size());
  const int64_t most = exchange_.slot_bytes() / kDouble;
  for (int64_t begin = 0; begin < all; begin += most) {
    const int64_t count = std::min(most, all - begin);
    StreamCopy(exchange_.slot(), data.data() + begin, count * kDouble);
    exchange_.Publish(all);
    RETURN_IF_ERROR(AwaitAll(waiting));
    AddInRankOrder(data.data() + begin, count);
  }
  return absl::OkStatus();
}

absl::Status ShmSums::AddShares(const ShmWaiting& waiting, std::span<double> data, int64_t units, SumShare& share) {
  const auto all = static_cast<int64_t>(data.size());
  if (all == 0) return absl::OkStatus();
  const int64_t elements = all / units;
  const int64_t most = UnitsPerExchange(elements, share);
  SHOAL_CHECK(most > 0 && all == units * elements);
  const int64_t pieces = (units + most - 1) / most;
  const auto piece = [&](int64_t k) {
    return k < 0 || k >= pieces ? Range{} : Range{units * k / pieces, units * (k + 1) / pieces};
  };
  for (int64_t k = 0; k <= pieces; ++k) {
    const Range before = piece(k - 1), now = piece(k);
    const Range done = ShareOf(rank_, before), mine = ShareOf(rank_, now);
    std::byte* slot = exchange_.slot();
    if (done.size() > 0) share.Pack(done.begin, done.size(), slot);
    slot += share.BytesOf(done.size());
    for (int to = 0; to < ranks_; ++to) {
      const Range theirs = ShareOf(to, now);
      const int64_t bytes = to == rank_ ? 0 : theirs.size() * elements * kDouble;
      StreamCopy(slot, data.data() + theirs.begin * elements, bytes);
      slot += bytes;
    }
    exchange_.Publish(all);
    RETURN_IF_ERROR(AwaitAll(waiting));
    for (int from = 0; from < ranks_; ++from) {
      if (from == rank_) continue;
      const Range theirs = ShareOf(from, before);
      if (theirs.size() > 0) share.Unpack(theirs.begin, theirs.size(), parts_[from]);
      parts_[from] += share.BytesOf(theirs.size());
      for (int to = 0; to < rank_; ++to) {
        if (to != from) parts_[from] += ShareOf(to, now).size() * elements * kDouble;
      }
    }
    if (mine.size() == 0) continue;
    AddInRankOrder(data.data() + mine.begin * elements, mine.size() * elements);
    share.Finish(mine.begin, mine.size());
  }
  return absl::OkStatus();
}

}  // namespace shoal
