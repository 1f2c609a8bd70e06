#include "parallel/world.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

// A longer error text helps nobody, and rank 0 must be able to hold one from every rank.
constexpr size_t kMessageMax = 8192;

}  // namespace

absl::Status AgreeOn(World& world, const absl::Status& mine) {
  // One byte of code, then the text.
  const std::string text(mine.message().substr(0, kMessageMax));
  std::vector<std::byte> bytes(1 + text.size());
  bytes[0] = static_cast<std::byte>(mine.code());
  if (!text.empty()) std::memcpy(bytes.data() + 1, text.data(), text.size());

  ASSIGN_OR_RETURN(const auto all, world.AllGather(bytes));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) return absl::InternalError(StrCat("rank ", rank, ": sent an empty status"));
    const auto code = static_cast<absl::StatusCode>(std::to_integer<int>(all[rank][0]));
    if (code == absl::StatusCode::kOk) continue;
    const std::string_view message(reinterpret_cast<const char*>(all[rank].data()) + 1, all[rank].size() - 1);
    return absl::Status(code, StrCat("rank ", rank, ": ", message));
  }
  return absl::OkStatus();
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
