// The subcommands of `shoal`.
#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "tools/arguments.h"

namespace shoal {

struct Command {
  const char* name;
  const char* summary;  // One line.
  const char* details;  // More for --help; may be empty.
  std::vector<Flag> flags;
  // Errors of the arguments themselves carry kUsage in their payload, see UsageError.
  absl::Status (*run)(const Arguments& arguments);
};

// In the order of the help text.
std::vector<Command> StreamCommands();  // generate, chat
std::vector<Command> ServerCommands();  // info, loads, drain
std::vector<Command> ModelCommands();   // plan, tokenize, quantize, make-model
std::vector<Command> BenchCommands();   // bench

// Bounds of flags. A longer time does not fit into a deadline; the server says what it thinks of other numbers.
inline constexpr double kSecondsMax = 1e6;
inline constexpr double kNumberMax = 1e9;

// Marks an error as one of the command line: exit code 2 instead of 1.
absl::Status UsageError(const absl::Status& status);
bool IsUsageError(const absl::Status& status);

}  // namespace shoal

// Evaluates `expr` (a StatusOr<T> about an argument); returns its error as a usage error, or moves its value to `lhs`.
#define ASSIGN_ARGUMENT(lhs, expr) SHOAL_ASSIGN_ARGUMENT_(SHOAL_CONCAT_(argument_, __LINE__), lhs, expr)
#define SHOAL_ASSIGN_ARGUMENT_(tmp, lhs, expr)    \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return UsageError(tmp.status()); \
  lhs = *std::move(tmp)
