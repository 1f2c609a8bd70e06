#include "parallel/staged_communicator.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

constexpr int64_t kPieceBytesMax = int64_t{256} << 20;

// The inner communicator counts the time: it is called when the device has nothing left to compute, so that only the
// exchange and the wait for others remain.
class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(std::unique_ptr<Communicator> inner, Device& device, std::unique_ptr<double[]> host,
                     int64_t host_bytes)
      : inner_(std::move(inner)), device_(device), host_(std::move(host)), host_bytes_(host_bytes) {}
  ~StagedCommunicator() override { (void)device_.Synchronize(); }  // Copies may still read host_.

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  int64_t exchange_ns() const override { return inner_->exchange_ns(); }

  absl::Status AllReduceSum(Tensor inout) override {
    SHOAL_CHECK(inout.dtype == DType::kF64 && inout.contiguous());
    if (size() == 1) return absl::OkStatus();
    return ForEachPiece(inout, std::min(host_bytes_, kAllReduceChunkBytes), [&](Tensor piece, Tensor host) {
      RETURN_IF_ERROR(TakeOut(piece));
      RETURN_IF_ERROR(inner_->AllReduceSum(host));
      device_.CopyIn(host_.get(), piece);
      return absl::OkStatus();
    });
  }

  absl::Status Send(Tensor in, int to) override {
    SHOAL_CHECK(in.contiguous());
    return ForEachPiece(in, host_bytes_, [&](Tensor piece, Tensor host) {
      RETURN_IF_ERROR(TakeOut(piece));
      return inner_->Send(host, to);
    });
  }

  absl::Status Receive(Tensor out, int from) override {
    SHOAL_CHECK(out.contiguous());
    return ForEachPiece(out, host_bytes_, [&](Tensor piece, Tensor host) {
      RETURN_IF_ERROR(device_.Synchronize());  // The last copy from host_ has ended.
      RETURN_IF_ERROR(inner_->Receive(host, from));
      device_.CopyIn(host_.get(), piece);
      return absl::OkStatus();
    });
  }

 private:
  // Brings a piece into host_ when all that was queued before is done.
  absl::Status TakeOut(Tensor piece) {
    device_.CopyOut(piece, host_.get());
    return device_.Synchronize();
  }

  // Calls `exchange` with parts of at most `bytes` of the tensor, each with its place in host memory. An empty tensor
  // has one piece.
  template <typename Exchange>
  absl::Status ForEachPiece(const Tensor& tensor, int64_t bytes, Exchange exchange) {
    const int64_t size = SizeOf(tensor.dtype), count = tensor.rows() * tensor.cols();
    int64_t begin = 0;
    do {
      const int64_t n = std::min(bytes / size, count - begin);
      RETURN_IF_ERROR(exchange(MakeTensor(tensor.data + begin * size, tensor.dtype, {n}),
                               MakeTensor(host_.get(), tensor.dtype, {n})));
      begin += n;
    } while (begin < count);
    return absl::OkStatus();
  }

  std::unique_ptr<Communicator> inner_;
  Device& device_;
  std::unique_ptr<double[]> host_;
  int64_t host_bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateStagedCommunicator(std::unique_ptr<Communicator> inner,
                                                                       Device& device, int64_t piece_bytes) {
  if (piece_bytes < 8 || piece_bytes > kPieceBytesMax || piece_bytes % 8 != 0) {
    return absl::InvalidArgumentError(StrCat("staged communicator: pieces of ", piece_bytes,
                                             " bytes; they must be a multiple of 8 up to ", kPieceBytesMax));
  }
  // Value-initialised, so that every page is taken now.
  std::unique_ptr<double[]> host(new (std::nothrow) double[static_cast<size_t>(piece_bytes / 8)]());
  if (host == nullptr) {
    return absl::ResourceExhaustedError(StrCat("no host memory for the ", piece_bytes, " bytes of a communicator"));
  }
  return std::make_unique<StagedCommunicator>(std::move(inner), device, std::move(host), piece_bytes);
}

}  // namespace shoal
