// shoal bench --offline.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/json.h"
#include "tools/arguments.h"
#include "tools/offline_bench.h"

namespace shoal {

// The flags of this form alone.
const std::vector<Flag>& OfflineFlags();

// Measures and prints; also uses --seed and --json.
absl::Status RunOfflineCommand(const Arguments& arguments);

// The report for people, and for programs (docs/formats.md lists the keys).
std::string OfflineTable(const OfflineReport& report);
Json OfflineJson(const OfflineReport& report);

// What either form of the command says of the machine.
Json MachineJson(const MachineRates& rates);

}  // namespace shoal
