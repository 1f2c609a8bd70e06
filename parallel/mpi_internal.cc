#include "parallel/mpi_internal.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/str_cat.h"

namespace shoal {

absl::Status MpiStatus(int code, std::string_view call) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::UnavailableError(StrCat(call, ": ", std::string_view(text, length)));
}

absl::Status WaitAll(const BackoffPolicy& policy, std::span<MPI_Request> requests) {
  return WaitUntil(policy, [&]() -> absl::StatusOr<bool> {
    int done = 0;
    RETURN_IF_ERROR(MpiStatus(
        MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE), "MPI_Testall"));
    return done != 0;
  });
}

absl::Status Outbox::Send(MPI_Comm comm, int to, int tag, std::span<const std::byte> bytes, bool with_length) {
  const uint64_t length = bytes.size();
  std::span<const std::byte> head;
  if (with_length) head = std::as_bytes(std::span(&length, 1));
  while (head.size() + bytes.size() > kPieceBytes) {
    const size_t count = kPieceBytes - head.size();
    RETURN_IF_ERROR(SendPiece(comm, to, tag, head, bytes.first(count), /*is_last=*/false));
    bytes = bytes.subspan(count);
    head = {};
  }
  return SendPiece(comm, to, tag, head, bytes, /*is_last=*/true);
}

absl::Status Outbox::SendPiece(MPI_Comm comm, int to, int tag, std::span<const std::byte> head,
                               std::span<const std::byte> bytes, bool is_last) {
  std::vector<std::byte> buffer;
  if (!spare_.empty()) {
    buffer = std::move(spare_.back());
    spare_.pop_back();
  }
  buffer.assign(head.begin(), head.end());
  buffer.insert(buffer.end(), bytes.begin(), bytes.end());
  MPI_Request request = MPI_REQUEST_NULL;
  RETURN_IF_ERROR(MpiStatus(
      MPI_Issend(buffer.data(), static_cast<int>(buffer.size()), MPI_BYTE, to, tag, comm, &request), "MPI_Issend"));
  requests_.push_back(request);
  buffers_.push_back(std::move(buffer));
  is_last_.push_back(is_last);
  return absl::OkStatus();
}

absl::Status Outbox::Reap() {
  if (requests_.empty()) return absl::OkStatus();
  std::vector<int> done(requests_.size());
  int count = 0;
  RETURN_IF_ERROR(MpiStatus(
      MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, done.data(), MPI_STATUSES_IGNORE),
      "MPI_Testsome"));
  if (count <= 0) return absl::OkStatus();
  size_t kept = 0;
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) {
      // A few small buffers are worth keeping; a large one (weights, a long prompt) is given back.
      constexpr size_t kSpareMax = 8;
      constexpr size_t kSpareBytesMax = size_t{32} << 20;
      if (spare_.size() < kSpareMax && buffers_[i].capacity() <= kSpareBytesMax)
        spare_.push_back(std::move(buffers_[i]));
      continue;
    }
    requests_[kept] = requests_[i];
    is_last_[kept] = is_last_[i];
    if (kept != i) buffers_[kept] = std::move(buffers_[i]);
    ++kept;
  }
  requests_.resize(kept);
  buffers_.resize(kept);
  is_last_.resize(kept);
  return absl::OkStatus();
}

absl::Status Outbox::WaitBelow(const BackoffPolicy& policy, int limit, double seconds, int to) {
  Backoff backoff(policy);
  while (true) {
    RETURN_IF_ERROR(Reap());
    if (unread() < limit) return absl::OkStatus();
    if (seconds > 0 && backoff.waited_us() > static_cast<int64_t>(seconds * 1e6)) {
      return absl::UnavailableError(StrCat("rank ", to, " has left ", unread(), " messages unread for ", seconds,
                                           " seconds; it is stuck or far too slow"));
    }
    backoff.Pause();
  }
}

}  // namespace shoal
