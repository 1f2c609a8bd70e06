#include "parallel/shm_communicator.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/ops.h"
#include "kernels/stream_copy.h"
#include "parallel/shared_segment.h"
#include "parallel/shm_exchange.h"
#include "parallel/shm_ring.h"
#include "parallel/shm_sums.h"

namespace shoal {
namespace {

constexpr int64_t kPage = 4096;
constexpr int kRanksMax = 1024;

// Up to here every rank adds up everything: one exchange. Beyond, each adds up a share: one more exchange, but fewer
// bytes and, with the norm, less to compute.
constexpr int64_t kEverywhereBytesMax = 32 << 10;

int64_t WholeLines(int64_t bytes) { return (bytes + 63) / 64 * 64; }
int64_t SlotBytes(int64_t sum_bytes) {
  return std::min((sum_bytes + kShmAlignment - 1) / kShmAlignment * kShmAlignment, kAllReduceChunkBytes);
}

// The numbers of a sum as they are.
class PlainShare final : public SumShare {
 public:
  explicit PlainShare(double* data) : data_(data) {}
  int64_t BytesOf(int64_t n) const override { return WholeLines(n * static_cast<int64_t>(sizeof(double))); }
  void Finish(int64_t, int64_t) override {}
  void Pack(int64_t begin, int64_t n, std::byte* slot) const override {
    StreamCopy(slot, data_ + begin, n * static_cast<int64_t>(sizeof(double)));
  }
  void Unpack(int64_t begin, int64_t n, const std::byte* slot) override {
    std::memcpy(data_ + begin, slot, static_cast<size_t>(n) * sizeof(double));
  }

 private:
  double* data_;
};

// Rows that are added to the residual, normalised and quantized where they are added up. What travels are the finished
// rows: a little more than half of the bytes of the sums.
class NormShare final : public SumShare {
 public:
  NormShare(Ops& ops, Tensor delta, Tensor gain, float eps, Tensor residual, const Activation& out)
      : ops_(ops), delta_(delta), gain_(gain), eps_(eps), residual_(residual), out_(out) {
    for (const Tensor& tensor : {residual, out.dense, out.q, out.scale, out.sum}) {
      if (tensor.empty()) continue;
      const int64_t size = SizeOf(tensor.dtype);
      columns_.push_back({tensor.data, tensor.cols() * size, tensor.row_stride * size});
    }
  }

  int64_t BytesOf(int64_t n) const override {
    int64_t bytes = 0;
    for (const Columns& c : columns_) bytes += WholeLines(n * c.bytes);
    return bytes;
  }
  int64_t computing_ns() const { return computing_ns_; }

  void Finish(int64_t begin, int64_t n) override {
    const ExchangeTimer timer(computing_ns_);
    ops_.AddRmsNorm(delta_.Slice(begin, n), gain_, eps_, residual_.Slice(begin, n), Slice(out_, begin, n));
  }
  void Pack(int64_t begin, int64_t n, std::byte* slot) const override {
    for (const Columns& c : columns_) {
      c.ForEachRun(begin, n,
                   [&](std::byte* data, int64_t from, int64_t bytes) { StreamCopy(slot + from, data, bytes); });
      slot += WholeLines(n * c.bytes);
    }
  }
  void Unpack(int64_t begin, int64_t n, const std::byte* slot) override {
    for (const Columns& c : columns_) {
      c.ForEachRun(begin, n, [&](std::byte* data, int64_t from, int64_t bytes) {
        std::memcpy(data, slot + from, static_cast<size_t>(bytes));
      });
      slot += WholeLines(n * c.bytes);
    }
  }

 private:
  struct Columns {
    std::byte* data;
    int64_t bytes;   // Of a row.
    int64_t stride;  // From row to row.

    // Calls `copy` with runs of memory, and where in a dense copy of the rows each begins.
    template <typename Copy>
    void ForEachRun(int64_t begin, int64_t n, Copy copy) const {
      if (stride == bytes) return copy(data + begin * bytes, 0, n * bytes);
      for (int64_t i = 0; i < n; ++i) copy(data + (begin + i) * stride, i * bytes, bytes);
    }
  };

  static Activation Slice(const Activation& all, int64_t begin, int64_t n) {
    Activation some = all;
    for (Tensor* tensor : {&some.dense, &some.q, &some.scale, &some.sum}) {
      if (!tensor->empty()) *tensor = tensor->Slice(begin, n);
    }
    return some;
  }

  Ops& ops_;
  Tensor delta_, gain_;
  float eps_;
  Tensor residual_;
  Activation out_;
  std::vector<Columns> columns_;
  int64_t computing_ns_ = 0;
};

class ShmCommunicator final : public Communicator {
 public:
  ShmCommunicator(std::span<std::byte> memory, std::unique_ptr<SharedSegment> segment, Device& device, int rank,
                  int ranks, const BackoffPolicy& policy, const ShmOptions& options)
      : segment_(std::move(segment)), device_(device), rank_(rank), size_(ranks), outboxes_(ranks), inboxes_(ranks) {
    waiting_ = {BackoffInStep(policy), options.seconds, options.meanwhile};
    SHOAL_CHECK_EQ(static_cast<int64_t>(memory.size()), ShmBytes(ranks, options));
    if (options.sum_bytes > 0) {
      const auto bytes = static_cast<size_t>(ranks * ShmSumBytesPerRank(options.sum_bytes));
      sums_.emplace(ShmExchange(memory.first(bytes), rank, ranks, SlotBytes(options.sum_bytes)), rank, ranks);
      memory = memory.subspan(bytes);
    }
    const auto bytes = static_cast<size_t>(ShmHopBytes(options.tensor_bytes));
    for (const auto& [from, to] : options.hops) {
      if (from == rank) outboxes_[to].emplace(memory.first(bytes), options.tensor_bytes, to);
      if (to == rank) inboxes_[from].emplace(memory.first(bytes), options.tensor_bytes, from);
      memory = memory.subspan(bytes);
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int64_t exchange_ns() const override { return exchange_ns_; }

  absl::Status AllReduceSum(Tensor inout) override {
    SHOAL_CHECK(inout.dtype == DType::kF64 && inout.contiguous());
    if (size_ == 1) return absl::OkStatus();
    SHOAL_CHECK(sums_.has_value());
    RETURN_IF_ERROR(fault_);
    const ExchangeTimer timer(exchange_ns_);
    const std::span<double> data(inout.As<double>(), static_cast<size_t>(inout.rows() * inout.cols()));
    PlainShare share(data.data());
    // Two ranks gain nothing by sharing: each reads all of the other's numbers either way.
    const bool everywhere =
        size_ == 2 || inout.bytes() <= kEverywhereBytesMax || !sums_->CanShare(/*elements=*/1, share);
    return Remember(everywhere ? sums_->AddEverywhere(waiting_, data)
                               : sums_->AddShares(waiting_, data, static_cast<int64_t>(data.size()), share));
  }

  absl::StatusOr<bool> AllReduceAddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual,
                                           const Activation& out) override {
    SHOAL_CHECK(delta.dtype == DType::kF64 && delta.contiguous());
    if (size_ == 1 || delta.rows() < size_ || delta.bytes() <= kEverywhereBytesMax) return false;
    SHOAL_CHECK(sums_.has_value());
    NormShare share(device_.ops(), delta, gain, eps, residual, out);
    if (!sums_->CanShare(delta.cols(), share)) return false;
    RETURN_IF_ERROR(fault_);
    {
      const ExchangeTimer timer(exchange_ns_);
      const std::span<double> data(delta.As<double>(), static_cast<size_t>(delta.rows() * delta.cols()));
      RETURN_IF_ERROR(Remember(sums_->AddShares(waiting_, data, delta.rows(), share)));
    }
    exchange_ns_ -= share.computing_ns();
    return true;
  }

  absl::Status Send(Tensor in, int to) override {
    SHOAL_CHECK(in.contiguous() && to >= 0 && to < size_ && outboxes_[to].has_value());
    RETURN_IF_ERROR(fault_);
    const ExchangeTimer timer(exchange_ns_);
    return Remember(outboxes_[to]->Send(waiting_, std::span(in.data, static_cast<size_t>(in.bytes()))));
  }

  absl::Status Receive(Tensor out, int from) override {
    SHOAL_CHECK(out.contiguous() && from >= 0 && from < size_ && inboxes_[from].has_value());
    RETURN_IF_ERROR(fault_);
    const ExchangeTimer timer(exchange_ns_);
    return Remember(inboxes_[from]->Receive(waiting_, std::span(out.data, static_cast<size_t>(out.bytes()))));
  }

 private:
  // After a rank was silent nobody knows what of an exchange it has seen.
  absl::Status Remember(absl::Status status) {
    if (absl::IsUnavailable(status)) fault_ = status;
    return status;
  }

  std::unique_ptr<SharedSegment> segment_;
  Device& device_;
  int rank_, size_;
  ShmWaiting waiting_;
  absl::Status fault_;
  std::optional<ShmSums> sums_;
  std::vector<std::optional<ShmRing>> outboxes_;  // By receiver.
  std::vector<std::optional<ShmRing>> inboxes_;   // By sender.
  int64_t exchange_ns_ = 0;
};

absl::Status CheckOptions(int ranks, const ShmOptions& options) {
  constexpr int64_t kBytesMax = int64_t{1} << 30;  // Of a sum or a tensor.
  const auto in_range = [](int64_t n) { return n >= 0 && n <= kBytesMax; };
  bool ok = ranks <= kRanksMax && in_range(options.sum_bytes) && in_range(options.tensor_bytes) &&
            options.seconds > 0 && options.hops.size() <= static_cast<size_t>(ranks) * static_cast<size_t>(ranks);
  for (const auto& [from, to] : options.hops) {
    ok = ok && from != to && std::min(from, to) >= 0 && std::max(from, to) < ranks;
  }
  if (!ok) {
    return absl::InvalidArgumentError(StrCat("shared memory for ", ranks, " ranks, sums of ", options.sum_bytes,
                                             " bytes and ", options.hops.size(), " hops of ", options.tensor_bytes,
                                             " bytes: out of range"));
  }
  if (ShmBytes(ranks, options) > kSegmentBytesMax) {
    return absl::ResourceExhaustedError(StrCat("shared memory of ", ShmBytes(ranks, options), " bytes is more than ",
                                               kSegmentBytesMax, "; lower batch.max_step_tokens"));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t ShmSumBytesPerRank(int64_t sum_bytes) {
  return sum_bytes == 0 ? 0 : ShmExchange::Bytes(/*ranks=*/1, SlotBytes(sum_bytes));
}

int64_t ShmHopBytes(int64_t tensor_bytes) { return ShmRing::Bytes(tensor_bytes); }

int64_t ShmBytes(int ranks, const ShmOptions& options) {
  const int64_t bytes = ranks * ShmSumBytesPerRank(options.sum_bytes) +
                        static_cast<int64_t>(options.hops.size()) * ShmHopBytes(options.tensor_bytes);
  return (bytes + kPage - 1) / kPage * kPage;
}

absl::StatusOr<std::unique_ptr<Communicator>> CreateShmCommunicator(World& world, Device& device,
                                                                    std::span<const int> group,
                                                                    const ShmOptions& options) {
  RETURN_IF_ERROR(CheckGroups(world, group));
  const int ranks = static_cast<int>(group.size());
  const int rank = static_cast<int>(std::find(group.begin(), group.end(), world.rank()) - group.begin());
  // Groups may fail one by one, but no rank leaves out a collective step.
  const absl::Status valid = AgreeInGroup(world, group, absl::OkStatus(), CheckOptions(ranks, options));
  absl::StatusOr<std::unique_ptr<SharedSegment>> segment =
      SharedSegment::Create(world, group, valid.ok() && ranks > 1 ? ShmBytes(ranks, options) : 0);
  RETURN_IF_ERROR(valid);
  RETURN_IF_ERROR(segment.status());
  if (ranks == 1) return MakeShmCommunicator({}, device, 0, 1, ShmOptions{});
  const std::span<std::byte> memory = (*segment)->memory();
  return std::make_unique<ShmCommunicator>(memory, *std::move(segment), device, rank, ranks,
                                           BackoffFor(world.local_size()), options);
}

std::unique_ptr<Communicator> MakeShmCommunicator(std::span<std::byte> memory, Device& device, int rank, int ranks,
                                                  const ShmOptions& options) {
  return std::make_unique<ShmCommunicator>(memory, nullptr, device, rank, ranks, BackoffFor(ranks), options);
}

}  // namespace shoal
