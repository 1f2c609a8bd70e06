// The arguments of shoal-server.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace shoal {

struct CommandLine {
  std::string config;
  std::string listen;  // Empty: the configuration's.
  bool help = false;
};

// Understands "--name value" and "--name=value". Errors: kInvalidArgument.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

// What --help prints.
extern const char kServerHelp[];

}  // namespace shoal
