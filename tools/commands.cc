#include "tools/commands.h"

#include "absl/strings/cord.h"

namespace shoal {
namespace {

constexpr char kUsageUrl[] = "shoal.usage";

}  // namespace

absl::Status UsageError(const absl::Status& status) {
  absl::Status marked = status;
  marked.SetPayload(kUsageUrl, absl::Cord("1"));
  return marked;
}

bool IsUsageError(const absl::Status& status) { return status.GetPayload(kUsageUrl).has_value(); }

}  // namespace shoal
