#include "parallel/nccl_communicator.h"

#include <cuda_runtime.h>
#include <nccl.h>
#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "parallel/backoff.h"
#include "parallel/single_communicator.h"

namespace shoal {
namespace {

// A connection's buffer; NCCL's own 4 MiB for each of many channels and peers add up to hundreds of MiB.
constexpr const char* kBufferBytes = "1048576";

absl::Status NcclStatus(ncclResult_t result, ncclComm_t comm, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  const char* detail = ncclGetLastError(comm);
  return absl::UnavailableError(
      StrCat(what, ": ", ncclGetErrorString(result), detail != nullptr && *detail != '\0' ? "; " : "", detail));
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Device& device, int rank, int size, double seconds, bool wait)
      : device_(device), rank_(rank), size_(size), seconds_(seconds), wait_(wait) {}

  ~NcclCommunicator() override {
    if (comm_ == nullptr) return;
    absl::Status status = device_.Synchronize();
    if (status.ok()) status = Settle(ncclCommFinalize(comm_), "ncclCommFinalize");
    if (status.ok()) status = NcclStatus(ncclCommDestroy(comm_), nullptr, "ncclCommDestroy");
    if (!status.ok()) {
      LogWarning("closing a communicator: ", status.message());
      Abort();
    }
  }

  // Meets the other ranks.
  absl::Status Start(const ncclUniqueId& id) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = 2;
    return Settle(ncclCommInitRankConfig(&comm_, size_, id, rank_, &config), "ncclCommInitRankConfig");
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int64_t exchange_ns() const override { return exchange_ns_; }

  absl::Status AllReduceSum(Tensor inout) override {
    SHOAL_CHECK(inout.dtype == DType::kF64 && inout.contiguous());
    const auto count = static_cast<size_t>(inout.rows() * inout.cols());
    return Queue("ncclAllReduce",
                 [&] { return ncclAllReduce(inout.data, inout.data, count, ncclDouble, ncclSum, comm_, queue()); });
  }

  absl::Status Send(Tensor in, int to) override {
    SHOAL_CHECK(in.contiguous() && to >= 0 && to < size_ && to != rank_);
    return Queue("ncclSend",
                 [&] { return ncclSend(in.data, static_cast<size_t>(in.bytes()), ncclUint8, to, comm_, queue()); });
  }

  absl::Status Receive(Tensor out, int from) override {
    SHOAL_CHECK(out.contiguous() && from >= 0 && from < size_ && from != rank_);
    return Queue("ncclRecv",
                 [&] { return ncclRecv(out.data, static_cast<size_t>(out.bytes()), ncclUint8, from, comm_, queue()); });
  }

 private:
  cudaStream_t queue() const { return static_cast<cudaStream_t>(device_.native_queue()); }

  // Queues one call and waits until NCCL has taken it, which is before it has run.
  template <typename Call>
  absl::Status Queue(const char* what, Call call) {
    RETURN_IF_ERROR(fault_);
    const ExchangeTimer timer(exchange_ns_);
    RETURN_IF_ERROR(Settle(call(), what));
    return wait_ ? WaitForQueue(what) : absl::OkStatus();
  }

  // Waits for the end of all that is queued; NCCL's kernels end when their communicator is aborted.
  absl::Status WaitForQueue(const char* what) {
    Backoff backoff(BackoffInStep(BackoffPolicy{}));
    while (cudaStreamQuery(queue()) == cudaErrorNotReady) {
      if (backoff.waited_us() > static_cast<int64_t>(seconds_ * 1e6)) {
        fault_ = absl::UnavailableError(StrCat(what, ": has not ended on the device after ", seconds_,
                                               " seconds; a rank is stuck or gone, or the "
                                               "link between two GPUs does not work"));
        Abort();
        return fault_;
      }
      RETURN_IF_ERROR(Settle(ncclSuccess, what));
      backoff.Pause();
    }
    return absl::OkStatus();  // Other faults of the device come to light at Device::Synchronize.
  }

  // Waits for the end of a call that `result` says may be under way. After a fault the communicator is gone.
  absl::Status Settle(ncclResult_t result, const char* what) {
    absl::Status status = NcclStatus(result, comm_, what);
    Backoff backoff(BackoffInStep(BackoffPolicy{}));
    while (status.ok()) {
      ncclResult_t state = ncclSuccess;
      status = NcclStatus(ncclCommGetAsyncError(comm_, &state), comm_, what);
      if (status.ok()) status = NcclStatus(state, comm_, what);
      if (state != ncclInProgress) break;
      if (backoff.waited_us() > static_cast<int64_t>(seconds_ * 1e6)) {
        status = absl::UnavailableError(StrCat(what, ": no end after ", seconds_, " seconds; a rank is stuck or gone"));
      }
      backoff.Pause();
    }
    if (!status.ok()) {
      fault_ = status;
      Abort();
    }
    return status;
  }

  void Abort() {
    if (comm_ != nullptr) (void)ncclCommAbort(std::exchange(comm_, nullptr));
  }

  Device& device_;
  int rank_, size_;
  double seconds_;
  bool wait_;
  ncclComm_t comm_ = nullptr;
  absl::Status fault_;  // The first one; there is no communicator any more.
  int64_t exchange_ns_ = 0;
};

absl::Status CheckDevice(const Device& device) {
  if (device.native_queue() != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(StrCat("NCCL needs a CUDA device; this is ", device.description()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(World& world, Device& device,
                                                                     std::span<const int> group, double seconds,
                                                                     bool wait) {
  RETURN_IF_ERROR(CheckGroups(world, group));
  const bool alone = group.size() == 1;
  ncclUniqueId id{};
  absl::Status ready = alone ? absl::OkStatus() : CheckDevice(device);
  if (ready.ok() && !alone) {
    setenv("NCCL_BUFFSIZE", kBufferBytes, /*overwrite=*/0);
    if (world.rank() == group[0]) ready = NcclStatus(ncclGetUniqueId(&id), nullptr, "ncclGetUniqueId");
  }
  ready = AgreeInGroup(world, group, absl::OkStatus(), ready);
  ASSIGN_OR_RETURN(const auto ids, world.AllGather(std::as_bytes(std::span(&id, 1))));
  const int rank = static_cast<int>(std::find(group.begin(), group.end(), world.rank()) - group.begin());
  auto communicator = std::make_unique<NcclCommunicator>(device, rank, static_cast<int>(group.size()), seconds, wait);
  absl::Status started;
  if (ready.ok() && !alone) {
    const std::vector<std::byte>& theirs = ids[group[0]];
    if (theirs.size() == sizeof(id)) {
      std::memcpy(&id, theirs.data(), sizeof(id));
      started = communicator->Start(id);
    } else {
      started = absl::InternalError(StrCat("an NCCL id of ", theirs.size(), " bytes"));
    }
  }
  RETURN_IF_ERROR(AgreeInGroup(world, group, ready, started));
  if (alone) return CreateSingleCommunicator();
  return communicator;
}

}  // namespace shoal
