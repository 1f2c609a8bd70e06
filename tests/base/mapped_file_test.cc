#include "base/mapped_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::HasSubstr;

class MappedFileTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) const {
    return testing::TempDir() + "/mapped_file_test_" + std::to_string(getpid()) + "_" + name;
  }
  std::string Write(const std::string& name, const std::string& bytes) {
    std::ofstream(Path(name), std::ios::binary) << bytes;
    return Path(name);
  }
};

TEST_F(MappedFileTest, GivesTheBytesAndThePathAndOutlivesTheName) {
  const std::string content = std::string("ab\0cd", 5) + std::string(10000, 'x');
  const std::string path = Write("a", content);
  auto file = MappedFile::Open(path).value();
  unlink(path.c_str());
  EXPECT_EQ(file->path(), path);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()), content);
}

TEST_F(MappedFileTest, AnEmptyFileIsAnEmptySpan) {
  const std::string path = Write("empty", "");
  EXPECT_TRUE(MappedFile::Open(path).value()->bytes().empty());
  EXPECT_EQ(ReadSmallFile(path, 0).value(), "");
  unlink(path.c_str());
}

TEST_F(MappedFileTest, ErrorsCarryThePathAndTheRightCode) {
  const auto absent = MappedFile::Open(Path("absent")).status();
  EXPECT_EQ(absent.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(absent.message()), HasSubstr(Path("absent") + ": No such file"));
  const auto folder = MappedFile::Open(testing::TempDir()).status();
  EXPECT_EQ(folder.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(folder.message()), HasSubstr("is not a regular file"));
  EXPECT_EQ(MappedFile::Open(Path("absent") + "/below").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(MappedFileTest, APipeIsRefusedWithoutWaitingForAWriter) {
  const std::string path = Path("pipe");
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::Open(path).status().code(), absl::StatusCode::kInvalidArgument);
  unlink(path.c_str());
}

TEST_F(MappedFileTest, ReadSmallFileKeepsToItsLimit) {
  const std::string path = Write("b", "0123456789");
  EXPECT_EQ(ReadSmallFile(path, 10).value(), "0123456789");
  const auto status = ReadSmallFile(path, 9).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has 10 bytes, more than the limit of 9"));
  unlink(path.c_str());
}

}  // namespace
}  // namespace shoal
