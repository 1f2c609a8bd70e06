#include "kernels/cuda/cuda_peer_link.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "kernels/cuda/cuda_ops.h"

namespace shoal::cuda {
namespace {

static_assert(kLinkPeersMax == kPeersMax && kLinkSlots == kPutSlots);
static_assert(sizeof(Runtime::Handle) == sizeof(PeerHandle));

uint64_t Look(const uint64_t* word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }

const char* WhatWaits(uint64_t fault) {
  switch (static_cast<LinkWait>(fault >> 32)) {
    case LinkWait::kSum:
      return "a sum waits for its part";
    case LinkWait::kCredit:
      return "a tensor waits for room, which it has not made by reading others,";
    case LinkWait::kPut:
      return "a tensor from it has not come";
  }
  return "a wait";
}

}  // namespace

LinkReports::LinkReports(std::shared_ptr<Runtime> runtime, std::byte* words, double seconds)
    : runtime_(std::move(runtime)), words_(reinterpret_cast<LinkReport*>(words)), seconds_(seconds) {
  std::memset(words, 0, sizeof(LinkReport));
}

LinkReports::~LinkReports() { runtime_->FreeHost(reinterpret_cast<std::byte*>(words_)); }

absl::Status LinkReports::Take() {
  if (const uint64_t fault = Look(&words_->fault); fault != 0) {
    return absl::UnavailableError(StrCat("rank ", fault & 0xffffffffu,
                                         " of the group does not answer: ", WhatWaits(fault), " for ", seconds_,
                                         " seconds; it is stuck, gone or far too slow"));
  }
  if (const uint64_t wrong = Look(&words_->wrong_size); wrong != 0) {
    __atomic_store_n(&words_->wrong_size, 0, __ATOMIC_RELAXED);
    return absl::InternalError(StrCat("rank ", (wrong >> 32) & 0x7fffffffu, " of the group sent a tensor of ",
                                      wrong & 0xffffffffu, " bytes where ", Look(&words_->awaited),
                                      " were awaited; the ranks are out of step"));
  }
  return absl::OkStatus();
}

int64_t LinkReports::exchange_ns() const { return static_cast<int64_t>(Look(&words_->exchange_ns)); }

absl::StatusOr<std::unique_ptr<CudaPeerLink>> CudaPeerLink::Create(std::shared_ptr<Runtime> runtime, Arena& arena,
                                                                   const PeerLinkOptions& options) {
  RETURN_IF_ERROR(CheckPeerLinkOptions(options));
  std::unique_ptr<CudaPeerLink> link(new CudaPeerLink(std::move(runtime), options));
  RETURN_IF_ERROR(link->Start(arena));
  return link;
}

absl::Status CudaPeerLink::Start(Arena& arena) {
  ASSIGN_OR_RETURN(std::byte * words, runtime_->AllocateHost(sizeof(LinkReport)));
  reports_ = std::make_shared<LinkReports>(runtime_, words, options_.seconds);
  ASSIGN_OR_RETURN(state_, arena.Allocate(MemoryKind::kCommunication, sizeof(LinkState)));
  LinkState state{};
  std::fill_n(state.epoch, kLinkBlocks, options_.first_epoch);
  std::fill_n(&state.sent[0][0], kLinkPeersMax * kLinkLanes, options_.first_epoch);
  std::fill_n(&state.received[0][0], kLinkPeersMax * kLinkLanes, options_.first_epoch);
  runtime_->Copy(state_->data(), &state, sizeof(state));
  if (options_.shared_memory.empty()) {
    ASSIGN_OR_RETURN(mailbox_, arena.Allocate(MemoryKind::kCommunication, MailboxBytes(options_), /*alone=*/true));
    ASSIGN_OR_RETURN(handle_, runtime_->Export(mailbox_->data()));
  }
  RETURN_IF_ERROR(runtime_->Synchronize());  // The copy reads `state`.
  args_.state = reinterpret_cast<LinkState*>(state_->data());
  args_.report = reports_->words();
  args_.layout = LayOutMailbox(options_.ranks, options_.sum_elements, options_.put_bytes);
  args_.rank = options_.rank;
  args_.ranks = options_.ranks;
  args_.limit_ns = static_cast<uint64_t>(std::min(options_.seconds, 1e6) * 1e9);
  return absl::OkStatus();
}

CudaPeerLink::~CudaPeerLink() {
  (void)runtime_->Synchronize();  // Nothing may still use what is about to go.
  for (std::byte* memory : imported_) runtime_->CloseImport(memory);
  if (registered_) runtime_->UnregisterHost(options_.shared_memory.data());
}

absl::Status CudaPeerLink::Connect(std::span<const PeerHandle> handles) {
  SHOAL_CHECK(!connected_);
  SHOAL_CHECK_EQ(static_cast<int>(handles.size()), options_.ranks);
  if (!options_.shared_memory.empty()) {
    const auto bytes = static_cast<int64_t>(options_.shared_memory.size());
    ASSIGN_OR_RETURN(std::byte * memory, runtime_->RegisterHost(options_.shared_memory.data(), bytes));
    registered_ = true;
    for (int r = 0; r < options_.ranks; ++r) {
      args_.mailbox[r] = reinterpret_cast<uint64_t*>(memory + r * MailboxBytes(options_));
    }
  } else {
    for (int r = 0; r < options_.ranks; ++r) {
      std::byte* memory = mailbox_->data();
      if (r != options_.rank) {
        ASSIGN_OR_RETURN(memory, runtime_->Import(handles[r]));
        imported_.push_back(memory);
      }
      args_.mailbox[r] = reinterpret_cast<uint64_t*>(memory);
    }
  }
  connected_ = true;
  return absl::OkStatus();
}

void CudaPeerLink::AllReduceSum(Tensor inout) {
  SHOAL_CHECK(connected_ && inout.dtype == DType::kF64 && inout.contiguous());
  const int64_t count = inout.rows() * inout.cols();
  if (options_.ranks == 1 || count == 0) return;
  SHOAL_CHECK_GT(options_.sum_elements, 0);
  for (int64_t begin = 0; begin < count; begin += options_.sum_elements) {
    const int64_t n = std::min(options_.sum_elements, count - begin);
    LaunchAllReduce({.link = args_, .inout = inout.As<double>() + begin, .count = Int(n)}, runtime_->stream());
  }
}

bool CudaPeerLink::AllReduceAddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual, const Activation& out) {
  SHOAL_CHECK(connected_ && delta.dtype == DType::kF64);
  SHOAL_CHECK(delta.rows() == residual.rows() && delta.cols() == residual.cols());
  const int64_t count = delta.rows() * delta.cols();
  if (count == 0 || count > options_.sum_elements) return false;
  RmsNormArgs args = MakeRmsNormArgs(residual, gain, eps, out);
  args.delta = delta.As<double>();
  args.delta_stride = delta.row_stride;
  LaunchAllReduceRmsNorm(args_, args, runtime_->stream());
  return true;
}

void CudaPeerLink::Put(Tensor in, int to) {
  SHOAL_CHECK(connected_ && options_.put_bytes > 0 && in.contiguous());
  SHOAL_CHECK(to >= 0 && to < options_.ranks && to != options_.rank);
  SHOAL_CHECK(reinterpret_cast<uintptr_t>(in.data) % 4 == 0 && in.bytes() <= std::numeric_limits<uint32_t>::max());
  LaunchPut({.link = args_, .data = in.As<unsigned char>(), .bytes = in.bytes(), .peer = to}, runtime_->stream());
}

void CudaPeerLink::Get(Tensor out, int from) {
  SHOAL_CHECK(connected_ && options_.put_bytes > 0 && out.contiguous());
  SHOAL_CHECK(from >= 0 && from < options_.ranks && from != options_.rank);
  SHOAL_CHECK(reinterpret_cast<uintptr_t>(out.data) % 4 == 0 && out.bytes() <= std::numeric_limits<uint32_t>::max());
  LaunchGet({.link = args_, .data = out.As<unsigned char>(), .bytes = out.bytes(), .peer = from}, runtime_->stream());
}

}  // namespace shoal::cuda
