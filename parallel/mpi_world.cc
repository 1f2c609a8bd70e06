#include "parallel/mpi_world.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/str_cat.h"
#include "parallel/mpi_internal.h"

namespace shoal {
namespace {

constexpr double kFinalizeSecondsMax = 15.0;
constexpr unsigned kAbortSecondsMax = 5;

bool MpiRuns() {
  int started = 0;
  int ended = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&ended);
  return started != 0 && ended == 0;
}

// Waits for a message of `channel` from `from` and matches it.
absl::Status Match(const MpiWorld::Impl& impl, int from, Channel channel, MPI_Message& message, MPI_Status& status) {
  return WaitUntil(impl.policy, [&]() -> absl::StatusOr<bool> {
    int found = 0;
    RETURN_IF_ERROR(
        MpiStatus(MPI_Improbe(from, static_cast<int>(channel), impl.comm, &found, &message, &status), "MPI_Improbe"));
    return found != 0;
  });
}

// Appends one matched piece to `bytes`, which must not grow beyond `limit`.
absl::Status TakePiece(const BackoffPolicy& policy, MPI_Message message, const MPI_Status& status, size_t limit,
                       std::vector<std::byte>& bytes) {
  MPI_Count count = 0;
  RETURN_IF_ERROR(MpiStatus(MPI_Get_elements_x(&status, MPI_BYTE, &count), "MPI_Get_elements_x"));
  if (count < 0 || static_cast<size_t>(count) > std::min(kPieceBytes, limit - bytes.size())) {
    return absl::InternalError(StrCat("rank ", status.MPI_SOURCE, " sent a piece of ", count,
                                      " bytes of a message that wants at most ", limit - bytes.size()));
  }
  const size_t begin = bytes.size();
  bytes.resize(begin + static_cast<size_t>(count));
  MPI_Request request = MPI_REQUEST_NULL;
  RETURN_IF_ERROR(
      MpiStatus(MPI_Imrecv(bytes.data() + begin, static_cast<int>(count), MPI_BYTE, &message, &request), "MPI_Imrecv"));
  return WaitAll(policy, std::span(&request, 1));
}

// Takes over a message whose first piece is matched. Its length is checked before memory is taken for it.
absl::StatusOr<std::vector<std::byte>> TakeMessage(const MpiWorld::Impl& impl, Channel channel, MPI_Message message,
                                                   MPI_Status status) {
  uint64_t length = 0;
  std::vector<std::byte> bytes;
  RETURN_IF_ERROR(TakePiece(impl.policy, message, status, kPieceBytes, bytes));
  if (bytes.size() >= sizeof(length)) std::memcpy(&length, bytes.data(), sizeof(length));
  if (bytes.size() < sizeof(length) || length > static_cast<uint64_t>(kMessageBytesMax)) {
    return absl::InternalError(StrCat("rank ", status.MPI_SOURCE, " sent a message of ", length,
                                      " bytes; no message may be longer than ", kMessageBytesMax));
  }
  bytes.erase(bytes.begin(), bytes.begin() + sizeof(length));
  bytes.reserve(length);
  const int from = status.MPI_SOURCE;
  while (bytes.size() < length) {
    RETURN_IF_ERROR(Match(impl, from, channel, message, status));
    RETURN_IF_ERROR(TakePiece(impl.policy, message, status, length, bytes));
  }
  return bytes;
}

absl::Status CountCoreSharers(MPI_Comm local, MpiWorld::Impl& impl) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (sched_getaffinity(0, sizeof(mine), &mine) != 0) CPU_ZERO(&mine);  // All that fail share what there is.
  std::vector<cpu_set_t> all(impl.local_size);
  RETURN_IF_ERROR(MpiStatus(MPI_Allgather(&mine, sizeof(mine), MPI_BYTE, all.data(), sizeof(mine), MPI_BYTE, local),
                            "MPI_Allgather"));
  const auto same = [&](const cpu_set_t& set) { return CPU_EQUAL(&set, &mine) != 0; };
  impl.core_sharers = static_cast<int>(std::count_if(all.begin(), all.end(), same));
  impl.core_share = static_cast<int>(std::count_if(all.begin(), all.begin() + impl.local_rank, same));
  return absl::OkStatus();
}

absl::Status FindPlace(MpiWorld::Impl& impl) {
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_dup(MPI_COMM_WORLD, &impl.comm), "MPI_Comm_dup"));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_set_errhandler(impl.comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_rank(impl.comm, &impl.rank), "MPI_Comm_rank"));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_size(impl.comm, &impl.size), "MPI_Comm_size"));
  MPI_Comm local = MPI_COMM_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_split_type(impl.comm, MPI_COMM_TYPE_SHARED, impl.rank, MPI_INFO_NULL, &local),
                            "MPI_Comm_split_type"));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_rank(local, &impl.local_rank), "MPI_Comm_rank"));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_size(local, &impl.local_size), "MPI_Comm_size"));
  RETURN_IF_ERROR(CountCoreSharers(local, impl));
  return MpiStatus(MPI_Comm_free(&local), "MPI_Comm_free");
}

}  // namespace

void AbortWorld(int code) {
  alarm(kAbortSecondsMax);  // Should MPI be stuck itself: mpirun ends the others when this process dies.
  if (MpiRuns()) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

MpiWorld::MpiWorld(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<MpiWorld>> MpiWorld::Create(int* argc, char*** argv, const WorldLimits& limits) {
  int started = 0;
  MPI_Initialized(&started);
  if (started != 0) return absl::FailedPreconditionError("MPI was already started in this process");
  setenv("OMPI_MCA_btl_vader_eager_limit", std::to_string(kEagerBytesMax).c_str(), /*overwrite=*/0);
  // Containers often forbid one process to read another's memory; pieces of an eager message are copied anyway.
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", /*overwrite=*/0);
  int provided = MPI_THREAD_SINGLE;
  RETURN_IF_ERROR(MpiStatus(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread"));
  if (provided < MPI_THREAD_FUNNELED) {
    return absl::UnavailableError("this MPI library does not allow threads (MPI_THREAD_FUNNELED); install Open MPI");
  }
  auto impl = std::make_unique<Impl>();
  impl->limits = limits;
  RETURN_IF_ERROR(FindPlace(*impl));
  impl->policy = BackoffFor(impl->local_size);
  impl->outboxes.resize(impl->size);
  SetPreciseSleep();
  return std::unique_ptr<MpiWorld>(new MpiWorld(std::move(impl)));
}

MpiWorld::~MpiWorld() {
  if (absl::Status status = Finalize(); !status.ok()) LogError("leaving MPI: ", status.message());
}

absl::Status MpiWorld::Finalize() {
  if (impl_->finalized) return absl::OkStatus();
  impl_->finalized = true;
  for (int to = 0; to < impl_->size; ++to) {
    if (!impl_->outboxes[to].WaitBelow(impl_->policy, 1, kFinalizeSecondsMax, to).ok()) {
      return absl::DeadlineExceededError(StrCat("rank ", to, " did not read its last messages"));
    }
  }
  // MPI_Finalize spins while it waits; this wait does not, and it ends.
  MPI_Request request = MPI_REQUEST_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Ibarrier(impl_->comm, &request), "MPI_Ibarrier"));
  Backoff backoff(impl_->policy);
  while (true) {
    int done = 0;
    RETURN_IF_ERROR(MpiStatus(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test"));
    if (done != 0) break;
    if (backoff.waited_us() > static_cast<int64_t>(kFinalizeSecondsMax * 1e6)) {
      return absl::DeadlineExceededError("another rank did not come to the end of the job");
    }
    backoff.Pause();
  }
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_free(&impl_->comm), "MPI_Comm_free"));
  return MpiStatus(MPI_Finalize(), "MPI_Finalize");
}

int MpiWorld::rank() const { return impl_->rank; }
int MpiWorld::size() const { return impl_->size; }
int MpiWorld::local_rank() const { return impl_->local_rank; }
int MpiWorld::local_size() const { return impl_->local_size; }
int MpiWorld::core_sharers() const { return impl_->core_sharers; }
int MpiWorld::core_share() const { return impl_->core_share; }

absl::Status MpiWorld::Send(int to, Channel channel, std::span<const std::byte> bytes) {
  SHOAL_CHECK(to >= 0 && to < impl_->size && to != impl_->rank);
  if (static_cast<int64_t>(bytes.size()) > kMessageBytesMax) {
    return absl::InvalidArgumentError(
        StrCat("a message of ", bytes.size(), " bytes to rank ", to, " is longer than ", kMessageBytesMax));
  }
  Outbox& outbox = impl_->outboxes[to];
  RETURN_IF_ERROR(
      outbox.WaitBelow(impl_->policy, impl_->limits.unread_messages_max, impl_->limits.unread_seconds_max, to));
  return outbox.Send(impl_->comm, to, static_cast<int>(channel), bytes, /*with_length=*/true);
}

absl::StatusOr<std::vector<std::byte>> MpiWorld::Receive(int from, Channel channel) {
  SHOAL_CHECK(from >= 0 && from < impl_->size && from != impl_->rank);
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status{};
  RETURN_IF_ERROR(Match(*impl_, from, channel, message, status));
  return TakeMessage(*impl_, channel, message, status);
}

absl::StatusOr<std::optional<World::Message>> MpiWorld::TryReceive(Channel channel) {
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status{};
  int found = 0;
  RETURN_IF_ERROR(MpiStatus(
      MPI_Improbe(MPI_ANY_SOURCE, static_cast<int>(channel), impl_->comm, &found, &message, &status), "MPI_Improbe"));
  if (found == 0) return std::nullopt;
  ASSIGN_OR_RETURN(std::vector<std::byte> bytes, TakeMessage(*impl_, channel, message, status));
  return Message{status.MPI_SOURCE, std::move(bytes)};
}

void MpiWorld::Progress() {
  int found = 0;
  // An error comes to light at the next call that needs MPI.
  (void)MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, impl_->comm, &found, MPI_STATUS_IGNORE);
}

absl::StatusOr<std::vector<std::vector<std::byte>>> MpiWorld::AllGather(std::span<const std::byte> bytes) {
  const int size = impl_->size;
  const auto mine = static_cast<int64_t>(bytes.size());
  std::vector<int64_t> lengths(size);
  MPI_Request request = MPI_REQUEST_NULL;
  RETURN_IF_ERROR(MpiStatus(
      MPI_Iallgather(&mine, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, impl_->comm, &request), "MPI_Iallgather"));
  RETURN_IF_ERROR(WaitAll(impl_->policy, std::span(&request, 1)));

  // Every rank sees the same lengths, so all of them refuse together.
  std::vector<int> counts(size);
  std::vector<int> starts(size);
  int64_t total = 0;
  for (int i = 0; i < size; ++i) {
    if (lengths[i] < 0 || lengths[i] > kMessageBytesMax || total + lengths[i] > kMessageBytesMax) {
      return absl::InvalidArgumentError(
          StrCat("rank ", i, " gives ", lengths[i], " bytes to an exchange of at most ", kMessageBytesMax, " in all"));
    }
    counts[i] = static_cast<int>(lengths[i]);
    starts[i] = static_cast<int>(total);
    total += lengths[i];
  }
  std::vector<std::byte> all(static_cast<size_t>(total));
  RETURN_IF_ERROR(MpiStatus(MPI_Iallgatherv(bytes.data(), counts[impl_->rank], MPI_BYTE, all.data(), counts.data(),
                                            starts.data(), MPI_BYTE, impl_->comm, &request),
                            "MPI_Iallgatherv"));
  RETURN_IF_ERROR(WaitAll(impl_->policy, std::span(&request, 1)));
  std::vector<std::vector<std::byte>> parts(size);
  for (int i = 0; i < size; ++i) parts[i].assign(all.begin() + starts[i], all.begin() + starts[i] + counts[i]);
  return parts;
}

}  // namespace shoal
