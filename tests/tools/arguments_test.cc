#include "tools/arguments.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<Flag>& TestFlags() {
  static const std::vector<Flag> flags = {{"batch", "N,...", "help"}, {"json", "", "help", FlagKind::kSwitch}};
  return flags;
}

absl::StatusOr<std::vector<int64_t>> Batch(const std::vector<std::string>& words) {
  const absl::StatusOr<Arguments> arguments = Arguments::Parse(TestFlags(), words);
  if (!arguments.ok()) return arguments.status();
  return arguments->Integers("batch", {7}, 1, 100);
}

TEST(ArgumentsTest, IntegersAreSplitAtCommas) {
  EXPECT_THAT(Batch({"--batch", "1,20,3"}).value(), ElementsAre(1, 20, 3));
  EXPECT_THAT(Batch({"--batch=5"}).value(), ElementsAre(5));
  EXPECT_THAT(Batch({}).value(), ElementsAre(7));
}

TEST(ArgumentsTest, WrongIntegersAreRefusedWithFlagValueAndRange) {
  std::string many = "1";
  for (int i = 0; i < 64; ++i) many += ",1";
  for (const std::string& text : {std::string(), std::string("1,,2"), std::string("0"), std::string("101"),
                                  std::string("1,x"), std::string("99999999999999999999"), many}) {
    const absl::Status status = Batch({"--batch", text}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(status.message(), HasSubstr("--batch is '" + text + "'"));
    EXPECT_THAT(status.message(), HasSubstr("from 1 to 100"));
  }
}

}  // namespace
}  // namespace shoal
