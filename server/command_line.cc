#include "server/command_line.h"

#include <string_view>

#include "base/str_cat.h"

namespace shoal {

const char kServerHelp[] =
    R"(shoal-server: one rank of a Shoal server. Started by mpirun, one process per device:

  source deploy/mpirun_env.sh    # once per shell; without it mpirun may bind every rank to a single core
  mpirun -n 2 shoal-server --config configs/demo_tp2.textproto

Options:
  --config FILE        deployment in protobuf text format (proto/shoal/v1/config.proto); required
  --listen HOST:PORT   address of the gRPC front end of rank 0, in place of the configuration's
  --help               this text

Rank 0 prints a line "ready: ..." once requests are served. SIGTERM to rank 0, or `shoal drain`, lets running requests
finish and ends all ranks with exit code 0; while the model is still loading SIGTERM ends them at once with 1. Other exit
codes: 1 fault, 2 configuration, model or plan refused, 3 not enough memory, 4 port in use.
)";

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  CommandLine line;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--help" || word == "-h") {
      line.help = true;
      continue;
    }
    const size_t equals = word.find('=');
    const std::string_view name = word.substr(0, equals);
    std::string* value = name == "--config" ? &line.config : name == "--listen" ? &line.listen : nullptr;
    if (value == nullptr) {
      return absl::InvalidArgumentError(StrCat("unknown argument '", word, "'; see shoal-server --help"));
    }
    if (equals != std::string_view::npos) {
      *value = std::string(word.substr(equals + 1));
    } else if (++i < argc) {
      *value = argv[i];
    }
    if (value->empty()) return absl::InvalidArgumentError(StrCat(name, " needs a value; see shoal-server --help"));
  }
  if (!line.help && line.config.empty()) {
    return absl::InvalidArgumentError("--config FILE is missing; see shoal-server --help");
  }
  return line;
}

}  // namespace shoal
