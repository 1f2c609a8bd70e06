// The arguments and the exit codes of shoal-server.
#include "server/command_line.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "server/exit_code.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<CommandLine> Parse(std::vector<const char*> words) {
  words.insert(words.begin(), "shoal-server");
  return ParseCommandLine(static_cast<int>(words.size()), words.data());
}

TEST(CommandLineTest, AValueFollowsAsAWordOrAfterAnEqualsSign) {
  for (const std::vector<const char*>& words :
       {std::vector<const char*>{"--config", "a=b", "--listen", "[::1]:5"}, {"--config=a=b", "--listen=[::1]:5"}}) {
    const absl::StatusOr<CommandLine> line = Parse(words);
    ASSERT_TRUE(line.ok()) << line.status();
    EXPECT_EQ(line->config, "a=b");
    EXPECT_EQ(line->listen, "[::1]:5");
    EXPECT_FALSE(line->help);
  }
}

TEST(CommandLineTest, HelpNeedsNoConfig) {
  EXPECT_TRUE(Parse({"--help"})->help);
  EXPECT_TRUE(Parse({"-h"})->help);
}

TEST(CommandLineTest, ErrorsNameTheArgument) {
  const auto error = [](std::vector<const char*> words) { return std::string(Parse(words).status().message()); };
  EXPECT_THAT(error({}), HasSubstr("--config FILE is missing"));
  EXPECT_THAT(error({"--config"}), HasSubstr("--config needs a value"));
  EXPECT_THAT(error({"--config="}), HasSubstr("--config needs a value"));
  EXPECT_THAT(error({"--config", "x", "--listen"}), HasSubstr("--listen needs a value"));
  EXPECT_THAT(error({"--configs=x"}), HasSubstr("unknown argument '--configs=x'"));
  EXPECT_THAT(error({"x"}), HasSubstr("unknown argument 'x'"));
}

TEST(ExitCodeTest, SaysWhoCanHelp) {
  EXPECT_EQ(ExitCode(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCode(absl::UnavailableError("a rank is stuck")), kExitFault);
  EXPECT_EQ(ExitCode(absl::InternalError("a bug")), kExitFault);
  EXPECT_EQ(ExitCode(absl::InvalidArgumentError("a bad field")), kExitRefused);
  EXPECT_EQ(ExitCode(absl::DataLossError("a file cut short")), kExitRefused);
  EXPECT_EQ(ExitCode(absl::OutOfRangeError("a number too large")), kExitRefused);
  EXPECT_EQ(ExitCode(absl::ResourceExhaustedError("the budget")), kExitMemory);
  EXPECT_EQ(ExitCode(absl::AlreadyExistsError("the port")), kExitPort);
}

}  // namespace
}  // namespace shoal
