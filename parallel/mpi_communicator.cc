#include "parallel/mpi_communicator.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/str_cat.h"
#include "parallel/mpi_internal.h"

namespace shoal {
namespace {

constexpr int kTensorTag = 1;
constexpr int kSumTag = 2;
constexpr int kTotalTag = 3;

// Up to here every rank sends all it has to all others: one exchange. Beyond, each rank adds up one slice and sends the
// total on: two exchanges, but 2 (n - 1) / n of the bytes instead of n - 1.
constexpr int64_t kOneExchangeBytesMax = 32 << 10;

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, int rank, int size, const BackoffPolicy& policy)
      : comm_(comm), rank_(rank), size_(size), policy_(policy), outboxes_(size) {}

  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized != 0) return;
    for (int to = 0; to < size_; ++to) {
      // After an error nobody may read any more; the job is about to end then, and the buffers with it.
      constexpr double kSeconds = 1.0;
      if (absl::Status status = outboxes_[to].WaitBelow(policy_, 1, kSeconds, to); !status.ok()) {
        LogWarning("closing a communicator: ", status.message());
        return;
      }
    }
    MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduceSum(Tensor inout) override {
    SHOAL_CHECK(inout.dtype == DType::kF64 && inout.contiguous());
    if (size_ == 1) return absl::OkStatus();
    const ExchangeTimer timer(exchange_ns_);
    auto* data = inout.As<double>();
    constexpr int64_t kChunk = kAllReduceChunkBytes / static_cast<int64_t>(sizeof(double));
    const int64_t count = inout.rows() * inout.cols();
    for (int64_t begin = 0; begin < count; begin += kChunk) {
      const std::span<double> chunk(data + begin, static_cast<size_t>(std::min(kChunk, count - begin)));
      const bool small = static_cast<int64_t>(chunk.size_bytes()) <= kOneExchangeBytesMax || size_ == 2;
      RETURN_IF_ERROR(small ? SumInOneExchange(chunk) : SumInTwoExchanges(chunk));
    }
    return absl::OkStatus();
  }

  absl::Status Send(Tensor in, int to) override {
    SHOAL_CHECK(in.contiguous() && to >= 0 && to < size_ && to != rank_);
    SHOAL_CHECK_LE(in.bytes(), kMessageBytesMax);
    const ExchangeTimer timer(exchange_ns_);
    RETURN_IF_ERROR(outboxes_[to].WaitBelow(policy_, kSendsInFlight, /*seconds=*/0, to));
    return outboxes_[to].Send(comm_, to, kTensorTag, std::span(in.data, static_cast<size_t>(in.bytes())),
                              /*with_length=*/false);
  }

  absl::Status Receive(Tensor out, int from) override {
    SHOAL_CHECK(out.contiguous() && from >= 0 && from < size_ && from != rank_);
    SHOAL_CHECK_LE(out.bytes(), kMessageBytesMax);
    const ExchangeTimer timer(exchange_ns_);
    std::span<std::byte> rest(out.data, static_cast<size_t>(out.bytes()));
    do {
      const size_t piece = std::min(rest.size(), kPieceBytes);
      RETURN_IF_ERROR(ReceivePiece(rest.first(piece), from));
      rest = rest.subspan(piece);
    } while (!rest.empty());
    return absl::OkStatus();
  }

  int64_t exchange_ns() const override { return exchange_ns_; }

 private:
  absl::Status ReceivePiece(std::span<std::byte> out, int from) {
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status{};
    RETURN_IF_ERROR(WaitUntil(policy_, [&]() -> absl::StatusOr<bool> {
      int found = 0;
      RETURN_IF_ERROR(MpiStatus(MPI_Improbe(from, kTensorTag, comm_, &found, &message, &status), "MPI_Improbe"));
      return found != 0;
    }));
    MPI_Count bytes = 0;
    RETURN_IF_ERROR(MpiStatus(MPI_Get_elements_x(&status, MPI_BYTE, &bytes), "MPI_Get_elements_x"));
    if (bytes != static_cast<MPI_Count>(out.size())) {
      RETURN_IF_ERROR(Discard(message, bytes));
      return absl::InternalError(StrCat("rank ", from, " of the group sent a tensor of ", bytes, " bytes where ",
                                        out.size(), " were awaited; the ranks are out of step"));
    }
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(
        MpiStatus(MPI_Imrecv(out.data(), static_cast<int>(bytes), MPI_BYTE, &message, &request), "MPI_Imrecv"));
    return WaitAll(policy_, std::span(&request, 1));
  }

  // Takes a message nobody wants, so that its sender does not hold it for ever.
  absl::Status Discard(MPI_Message message, int64_t bytes) {
    if (bytes < 0 || bytes > kMessageBytesMax) return absl::OkStatus();
    std::vector<std::byte> unwanted(static_cast<size_t>(bytes));
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(
        MpiStatus(MPI_Imrecv(unwanted.data(), static_cast<int>(bytes), MPI_BYTE, &message, &request), "MPI_Imrecv"));
    return WaitAll(policy_, std::span(&request, 1));
  }

  absl::Status BeginReceive(double* out, int64_t count, int from, int tag) {
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(
        MpiStatus(MPI_Irecv(out, static_cast<int>(count), MPI_DOUBLE, from, tag, comm_, &request), "MPI_Irecv"));
    requests_.push_back(request);
    return absl::OkStatus();
  }

  absl::Status BeginSend(const double* in, int64_t count, int to, int tag) {
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(
        MpiStatus(MPI_Isend(in, static_cast<int>(count), MPI_DOUBLE, to, tag, comm_, &request), "MPI_Isend"));
    requests_.push_back(request);
    return absl::OkStatus();
  }

  absl::Status WaitForRequests() {
    RETURN_IF_ERROR(WaitAll(policy_, requests_));
    requests_.clear();
    return absl::OkStatus();
  }

  // Adds, in order of rank, `mine` and what scratch_ holds of the others (`stride` apart, by rank) into `mine`.
  void AddInRankOrder(double* mine, int64_t count, int64_t stride) {
    // Rank order even though exact sums would not need it: a NaN then has the same bits everywhere, too.
    constexpr int64_t kBlock = 256;
    double total[kBlock];
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int64_t n = std::min(kBlock, count - begin);
      std::fill_n(total, n, 0.0);
      for (int r = 0; r < size_; ++r) {
        const double* part = (r == rank_ ? mine : scratch_.data() + r * stride) + begin;
        for (int64_t i = 0; i < n; ++i) total[i] += part[i];
      }
      std::copy_n(total, n, mine + begin);
    }
  }

  absl::Status SumInOneExchange(std::span<double> chunk) {
    const auto count = static_cast<int64_t>(chunk.size());
    scratch_.resize(std::max<size_t>(scratch_.size(), static_cast<size_t>(size_ * count)));
    for (int r = 0; r < size_; ++r) {
      if (r != rank_) RETURN_IF_ERROR(BeginReceive(scratch_.data() + r * count, count, r, kSumTag));
    }
    for (int step = 1; step < size_; ++step) {
      RETURN_IF_ERROR(BeginSend(chunk.data(), count, (rank_ + step) % size_, kSumTag));
    }
    RETURN_IF_ERROR(WaitForRequests());
    AddInRankOrder(chunk.data(), count, count);
    return absl::OkStatus();
  }

  absl::Status SumInTwoExchanges(std::span<double> chunk) {
    const auto count = static_cast<int64_t>(chunk.size());
    const auto begin = [&](int r) { return count * r / size_; };
    const auto slice = [&](int r) { return begin(r + 1) - begin(r); };
    const int64_t mine = slice(rank_);
    scratch_.resize(std::max<size_t>(scratch_.size(), static_cast<size_t>(size_ * mine)));
    for (int r = 0; r < size_; ++r) {
      if (r != rank_) RETURN_IF_ERROR(BeginReceive(scratch_.data() + r * mine, mine, r, kSumTag));
    }
    for (int step = 1; step < size_; ++step) {
      const int to = (rank_ + step) % size_;
      RETURN_IF_ERROR(BeginSend(chunk.data() + begin(to), slice(to), to, kSumTag));
    }
    RETURN_IF_ERROR(WaitForRequests());
    AddInRankOrder(chunk.data() + begin(rank_), mine, mine);
    for (int r = 0; r < size_; ++r) {
      if (r != rank_) RETURN_IF_ERROR(BeginReceive(chunk.data() + begin(r), slice(r), r, kTotalTag));
    }
    for (int step = 1; step < size_; ++step) {
      RETURN_IF_ERROR(BeginSend(chunk.data() + begin(rank_), mine, (rank_ + step) % size_, kTotalTag));
    }
    return WaitForRequests();
  }

  MPI_Comm comm_;
  int rank_;
  int size_;
  BackoffPolicy policy_;
  int64_t exchange_ns_ = 0;
  std::vector<Outbox> outboxes_;       // By receiver.
  std::vector<double> scratch_;        // Others' parts of the chunk being summed: at most kAllReduceChunkBytes * size.
  std::vector<MPI_Request> requests_;  // Of the exchange under way.
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateMpiCommunicator(MpiWorld& world, std::span<const int> group) {
  RETURN_IF_ERROR(CheckGroups(world, group));
  const MpiWorld::Impl& impl = world.impl();
  const int colour = *std::min_element(group.begin(), group.end());
  const int key = static_cast<int>(std::find(group.begin(), group.end(), impl.rank) - group.begin());
  MPI_Comm comm = MPI_COMM_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_split(impl.comm, colour, key, &comm), "MPI_Comm_split"));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
  return std::make_unique<MpiCommunicator>(comm, key, static_cast<int>(group.size()), BackoffInStep(impl.policy));
}

}  // namespace shoal
