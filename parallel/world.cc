#include "parallel/world.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "parallel/backoff.h"

namespace shoal {
namespace {

// A longer error text helps nobody, and rank 0 must be able to hold one from every rank.
constexpr size_t kMessageMax = 8192;

// One byte of code, then the text.
std::vector<std::byte> EncodeStatus(const absl::Status& status) {
  const std::string text(status.message().substr(0, kMessageMax));
  std::vector<std::byte> bytes(1 + text.size());
  bytes[0] = static_cast<std::byte>(status.code());
  if (!text.empty()) std::memcpy(bytes.data() + 1, text.data(), text.size());
  return bytes;
}

// The status of another rank, which an error names.
absl::Status DecodeStatus(size_t rank, std::span<const std::byte> bytes) {
  if (bytes.empty()) return absl::InternalError(StrCat("rank ", rank, ": sent an empty status"));
  const auto code = static_cast<absl::StatusCode>(std::to_integer<int>(bytes[0]));
  if (code == absl::StatusCode::kOk) return absl::OkStatus();
  const std::string_view message(reinterpret_cast<const char*>(bytes.data()) + 1, bytes.size() - 1);
  return absl::Status(code, StrCat("rank ", rank, ": ", message));
}

}  // namespace

absl::Status AgreeOn(World& world, const absl::Status& mine) {
  ASSIGN_OR_RETURN(const auto all, world.AllGather(EncodeStatus(mine)));
  for (size_t rank = 0; rank < all.size(); ++rank) RETURN_IF_ERROR(DecodeStatus(rank, all[rank]));
  return absl::OkStatus();
}

absl::Status AgreeInGroup(World& world, std::span<const int> group, const absl::Status& so_far,
                          const absl::Status& mine) {
  ASSIGN_OR_RETURN(const auto all, world.AllGather(EncodeStatus(mine)));
  RETURN_IF_ERROR(so_far);
  for (const int rank : group) RETURN_IF_ERROR(DecodeStatus(rank, all[rank]));
  return absl::OkStatus();
}

absl::Status PhaseReports::Report(const absl::Status& mine) {
  if (world_.rank() != 0) return world_.Send(0, Channel::kControl, EncodeStatus(mine));
  if (failure_.ok()) failure_ = DecodeStatus(0, EncodeStatus(mine));
  return absl::OkStatus();
}

absl::Status PhaseReports::Look() {
  while (missing_ > 0) {
    ASSIGN_OR_RETURN(const std::optional<World::Message> message, world_.TryReceive(Channel::kControl));
    if (!message.has_value()) break;
    --missing_;
    const absl::Status status = DecodeStatus(message->from, message->bytes);
    if (failure_.ok()) failure_ = status;
  }
  return failure_;
}

absl::Status PhaseReports::WaitForAll(double patience_seconds) {
  const BackoffPolicy policy = BackoffFor(world_.local_size());
  Backoff backoff(policy);
  bool failure_known = false;
  while (true) {
    const absl::Status failure = Look();
    if (missing_ == 0) return absl::OkStatus();
    if (!failure.ok() && !std::exchange(failure_known, true)) backoff = Backoff(policy);
    if (failure_known && backoff.waited_us() > static_cast<int64_t>(patience_seconds * 1e6)) return failure;
    backoff.Pause();
  }
}

absl::Status CheckGroups(World& world, std::span<const int> group) {
  const auto mine = std::as_bytes(group);
  ASSIGN_OR_RETURN(const auto all, world.AllGather(mine));
  // Looked at from every rank's list, so that all ranks come to the same verdict.
  for (int r = 0; r < world.size(); ++r) {
    std::vector<int> list(all[r].size() / sizeof(int));
    if (!list.empty()) std::memcpy(list.data(), all[r].data(), list.size() * sizeof(int));
    bool good = std::find(list.begin(), list.end(), r) != list.end();
    for (int member : list) {
      good = good && member >= 0 && member < world.size() && std::count(list.begin(), list.end(), member) == 1 &&
             all[member] == all[r];
    }
    if (!good) {
      return absl::InvalidArgumentError(
          StrCat("rank ", r, " and the others do not agree about its group [", absl::StrJoin(list, ", "), "]"));
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
