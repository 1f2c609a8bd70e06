#include "base/read_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::HasSubstr;

class ReadFileTest : public testing::Test {
 protected:
  ReadFileTest() {
    std::string pattern = testing::TempDir() + "/read_file_XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~ReadFileTest() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string Write(const std::string& name, const std::string& bytes) {
    std::ofstream(Path(name), std::ios::binary) << bytes;
    return Path(name);
  }
  // A link `name` to `target`.
  std::string Link(const std::string& name, const std::string& target) {
    EXPECT_EQ(symlink(target.c_str(), Path(name).c_str()), 0);
    return Path(name);
  }

  std::string folder_;
};

TEST_F(ReadFileTest, GivesTheBytes) {
  const std::string content = std::string("ab\0cd", 5) + std::string(10000, 'x');
  EXPECT_EQ(ReadSmallFile(Write("a", content), 1 << 20).value(), content);
  EXPECT_EQ(ReadSmallFile(Write("empty", ""), 0).value(), "");
}

TEST_F(ReadFileTest, KeepsToItsLimit) {
  const std::string path = Write("b", "0123456789");
  EXPECT_EQ(ReadSmallFile(path, 10).value(), "0123456789");
  const auto status = ReadSmallFile(path, 9).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has 10 bytes, more than the limit of 9"));
}

TEST_F(ReadFileTest, ErrorsCarryThePathAndTheRightCode) {
  const auto absent = ReadSmallFile(Path("absent"), 10).status();
  EXPECT_EQ(absent.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(absent.message()), HasSubstr(Path("absent") + ": No such file"));
  EXPECT_EQ(ReadSmallFile(Path("absent") + "/below", 10).status().code(), absl::StatusCode::kNotFound);
  const auto folder = ReadSmallFile(folder_, 10).status();
  EXPECT_EQ(folder.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(folder.message()), HasSubstr("is not a regular file"));
}

TEST_F(ReadFileTest, APipeOrDeviceIsRefusedWithoutWaiting) {
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  for (const std::string& path : {Path("pipe"), Link("to_pipe", "pipe"), std::string("/dev/zero")}) {
    EXPECT_EQ(ReadSmallFile(path, 10).status().code(), absl::StatusCode::kInvalidArgument) << path;
  }
}

TEST_F(ReadFileTest, LinksAreFollowedAndBrokenOnesAreNotTakenForAbsent) {
  Write("file", "text");
  EXPECT_EQ(ReadSmallFile(Link("good", "file"), 10).value(), "text");
  for (const std::string& path : {Link("dangling", "nowhere"), Link("below", "file/x"), Link("loop", "loop")}) {
    const auto status = ReadSmallFile(path, 10).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_THAT(std::string(status.message()), HasSubstr("is a link that leads to no file"));
  }
}

}  // namespace
}  // namespace shoal
