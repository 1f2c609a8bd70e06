// shoal: the command for people and scripts.
#include <signal.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "base/str_cat.h"
#include "server/text_config.h"
#include "tools/commands.h"

namespace shoal {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

std::vector<Command> AllCommands() {
  std::vector<Command> all;
  for (auto* list : {StreamCommands, ModelCommands, ServerCommands, BenchCommands}) {
    for (Command& command : list()) all.push_back(std::move(command));
  }
  return all;
}

void PrintOverview(const std::vector<Command>& commands) {
  std::string text =
      "shoal: talk to a Shoal server and work with its models.\n\nUsage: shoal COMMAND [FLAGS]\n\nCommands:\n";
  for (const Command& command : commands) {
    std::string name = command.name;
    name.resize(12, ' ');
    text += StrCat("  ", name, command.summary, "\n");
  }
  text += "\n`shoal COMMAND --help` lists the flags of a command.\nExit codes: 0 done, 1 failed, 2 wrong arguments.\n";
  std::fputs(text.c_str(), stdout);
}

void PrintHelp(const Command& command) {
  std::string text = StrCat("shoal ", command.name, ": ", command.summary, "\n\nUsage: shoal ", command.name,
                            " [FLAGS]\n\n", FlagsHelp(command.flags), "  --help\n");
  if (*command.details != '\0') text += StrCat("\n", command.details, "\n");
  std::fputs(text.c_str(), stdout);
}

int Fail(std::string_view command, const absl::Status& status) {
  for (const auto& line : absl::StrSplit(std::string(status.message()), '\n')) {
    const std::string text = StrCat("shoal ", command, ": ", std::string(line), "\n");
    std::fputs(text.c_str(), stderr);
  }
  return IsUsageError(status) ? kExitUsage : kExitFailed;
}

int Run(const Command& command, const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    if (word == "--help" || word == "-h") {
      PrintHelp(command);
      return 0;
    }
  }
  const absl::StatusOr<Arguments> arguments = Arguments::Parse(command.flags, words);
  if (!arguments.ok()) {
    return Fail(command.name, UsageError(absl::InvalidArgumentError(StrCat(std::string(arguments.status().message()),
                                                                           "; see shoal ", command.name, " --help"))));
  }
  const absl::Status status = command.run(*arguments);
  return status.ok() ? 0 : Fail(command.name, status);
}

int Main(int argc, char** argv) {
  signal(SIGPIPE, SIG_DFL);
  const std::vector<Command> commands = AllCommands();
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "--help" || name == "-h" || name == "help") {
    PrintOverview(commands);
    return 0;
  }
  std::vector<std::string> known;
  for (const Command& command : commands) {
    if (name == command.name) return Run(command, {argv + 2, argv + argc});
    known.emplace_back(command.name);
  }
  const std::string line =
      name.empty() ? "shoal: a command is missing; see shoal --help\n"
                   : StrCat("shoal: unknown command '", name, "'", DidYouMean(name, known), "; see shoal --help\n");
  std::fputs(line.c_str(), stderr);
  return kExitUsage;
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) { return shoal::Main(argc, argv); }
