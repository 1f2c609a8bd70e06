#include "model/safetensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "tests/model/model_folder.h"
#include "tests/support/shared_data.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<SafetensorsHeader> ParseBytes(const std::string& bytes) {
  return ParseSafetensors(std::as_bytes(std::span(bytes.data(), bytes.size())), "f");
}

TEST(SafetensorsTest, EveryEdgeFileGetsTheVerdictOfTheReference) {
  const std::string data = SharedTestData();
  if (data.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: the edge files are not tested";
  const std::string folder = data + "/safetensors_edge";
  const Json manifest = Json::parse(ReadFile(folder + "/manifest.json"));
  // The words of our message for each reason of the reference.
  const std::map<std::string, std::string> reasons = {{"MetadataIncompleteBuffer", "is it incomplete"},
                                                      {"HeaderTooLarge", "more than the limit"},
                                                      {"HeaderTooSmall", "too few for a safetensors header"},
                                                      {"InvalidHeaderLength", "follow"},
                                                      {"InvalidHeader", "not valid JSON"},
                                                      {"InvalidHeaderDeserialization", "not valid JSON"},
                                                      {"TensorInvalidInfo", "data_offsets give"},
                                                      {"ValidationOverflow", "overflows 64 bits"},
                                                      {"InvalidOffset", "hole or overlap"}};
  int checked = 0;
  for (const Json& entry : manifest["cases"]) {
    const std::string name = entry["file"], verdict = entry["expected_reference_verdict"];
    SCOPED_TRACE(name + " " + verdict);
    const auto opened = SafetensorsFile::Open(folder, name);
    const auto parsed = ParseBytes(ReadFile(folder + "/" + name));
    EXPECT_EQ(opened.ok(), verdict == "accept") << opened.status();
    EXPECT_EQ(parsed.ok(), verdict == "accept") << parsed.status();
    if (verdict != "accept") {
      const std::string reason = verdict.substr(verdict.find(':') + 1);
      ASSERT_TRUE(reasons.contains(reason));
      EXPECT_EQ(opened.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(opened.status().message()), HasSubstr(reasons.at(reason)));
    }
    ++checked;
  }
  EXPECT_EQ(checked, 17);
}

TEST(SafetensorsTest, TheFuzzersSeedsAreValid) {
  int seeds = 0;
  const std::string folder = std::string(SHOAL_SOURCE_DIR) + "/tests/fuzz/seeds/safetensors_fuzz";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    EXPECT_TRUE(ParseBytes(ReadFile(entry.path())).ok()) << entry.path();
    ++seeds;
  }
  EXPECT_GE(seeds, 6);
}

TEST(SafetensorsTest, ReadsTensorsAndMetadata) {
  const TemporaryFolder folder;
  WriteFile(folder / "a.safetensors",
            MakeSafetensors({{"b", "F32", {2, 1}, "01234567"}, {"a", "BF16", {1}, "xy"}, {"e", "U8", {0, 3}, ""}},
                            {{"format", "pt"}}));
  const auto file = SafetensorsFile::Open(folder.path(), "a.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const SafetensorsHeader& header = (*file)->header();
  EXPECT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.Find("c"), nullptr);
  const SafetensorsTensor* b = header.Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->ShapeText(), "[2, 1]");
  EXPECT_EQ(b->type, kSafeF32);
  std::string bytes(3, ' ');
  ASSERT_TRUE((*file)->Read(*b, 4, std::as_writable_bytes(std::span(bytes.data(), bytes.size()))).ok());
  EXPECT_EQ(bytes, "456");
}

struct BrokenHeader {
  const char* header;
  size_t data_bytes;
  const char* message;
};

class BrokenHeaderTest : public ::testing::TestWithParam<BrokenHeader> {};

TEST_P(BrokenHeaderTest, IsRefusedWithItsReason) {
  const BrokenHeader& broken = GetParam();
  const auto parsed = ParseBytes(RawSafetensors(broken.header, std::string(broken.data_bytes, 'x')));
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << broken.header;
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(broken.message)) << broken.header;
  EXPECT_THAT(std::string(parsed.status().message()), ::testing::StartsWith("f: "));
}

constexpr BrokenHeader kBrokenHeaders[] = {
    {"", 0, "not valid JSON"},
    {"[]", 0, "a list instead of an object"},
    {"3", 0, "instead of an object"},
    {"\"x\"", 0, "a string instead of an object"},
    {"{}{}", 0, "not valid JSON"},
    {"{", 0, "not valid JSON"},
    {"{\"a\":1}", 0, "'a' is a number instead of an object"},
    {"{\"a\":[]}", 0, "'a' is a list instead of an object"},
    {"{\"a\":{}}", 0, "lacks dtype, shape or data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "lacks dtype"},
    {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype 'F33'"},
    {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'dtype' holds a number"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "'shape' holds a number"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "'shape' holds a negative number"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "'shape' holds a fraction"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551616],\"data_offsets\":[0,4]}}", 4, "beyond 64 bits"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4, "'shape' holds a string"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]}}", 4, "'shape' holds a list"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[{}],\"data_offsets\":[0,4]}}", 4, "'shape' holds an object"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":null,\"data_offsets\":[0,4]}}", 4, "'shape' holds null"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "must have two data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "more than two data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "hole or overlap"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "hole or overlap"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "4 bytes, the file has 8"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, "incomplete"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "needs 8 bytes, its data_offsets give 4"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "whole byte"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4194305,4194305,211106198978564],\"data_offsets\":[0,4]}}", 4, "overflows"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "gives 'dtype' twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"U8\",\"shape\":[0],"
     "\"data_offsets\":[0,0]}}",
     0, "appears twice"},
    {"{\"__metadata__\":{\"x\":1}}", 0, "metadata 'x' is a number instead of a string"},
    {"{\"__metadata__\":{\"x\":\"1\",\"x\":\"2\"}}", 0, "metadata 'x' appears twice"},
    {"{\"__metadata__\":[]}", 0, "instead of an object"},
};

INSTANTIATE_TEST_SUITE_P(Headers, BrokenHeaderTest, ::testing::ValuesIn(kBrokenHeaders));

TEST(SafetensorsTest, UnknownFieldsOfATensorAreSkippedUpToADepth) {
  const auto with_field = [](const std::string& value) {
    return RawSafetensors("{\"a\":{\"extra\":" + value + ",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
                          "x");
  };
  EXPECT_TRUE(ParseBytes(with_field("{\"dtype\":[1,{\"b\":null}]}")).ok());
  const auto deep = ParseBytes(with_field(std::string(100000, '[') + std::string(100000, ']')));
  EXPECT_THAT(std::string(deep.status().message()), HasSubstr("nested deeper"));
}

TEST(SafetensorsTest, OnlyPlainNamesOfRegularFilesAreOpened) {
  const TemporaryFolder folder, outside;
  const std::string good = MakeSafetensors({{"a", "U8", {1}, "x"}});
  WriteFile(folder / "good", good);
  WriteFile(outside / "good", good);
  ASSERT_EQ(mkfifo((folder / "fifo").c_str(), 0600), 0);
  ASSERT_EQ(symlink((outside / "good").c_str(), (folder / "out").c_str()), 0);
  ASSERT_EQ(symlink("../nowhere/else", (folder / "dangling").c_str()), 0);
  ASSERT_EQ(symlink("loop", (folder / "loop").c_str()), 0);
  ASSERT_EQ(symlink("fifo", (folder / "to_fifo").c_str()), 0);
  ASSERT_EQ(symlink("/dev/zero", (folder / "to_device").c_str()), 0);
  ASSERT_EQ(symlink(outside.path().c_str(), (folder / "to_folder").c_str()), 0);
  ASSERT_EQ(mkdir((folder / "sub").c_str(), 0700), 0);
  EXPECT_TRUE(SafetensorsFile::Open(folder.path(), "good").ok());
  EXPECT_TRUE(SafetensorsFile::Open(folder.path(), "out").ok());
  const auto message = [&](const std::string& name) {
    return std::string(SafetensorsFile::Open(folder.path(), name).status().message());
  };
  for (const char* name : {"fifo", "sub", "to_fifo", "to_device", "to_folder"}) {
    EXPECT_THAT(message(name), HasSubstr("not a regular file")) << name;
  }
  EXPECT_THAT(message("dangling"), HasSubstr("is a link that leads to no file"));
  EXPECT_THAT(message("loop"), HasSubstr("is a link that leads to no file"));
  for (const char* name : {"../good", "sub/good", "/etc/passwd", "..", ".", ""}) {
    EXPECT_THAT(message(name), HasSubstr("not a plain file name")) << name;
  }
  EXPECT_EQ(SafetensorsFile::Open(folder.path(), "absent").status().code(), absl::StatusCode::kNotFound);
}

TEST(SafetensorsTest, AFileCutOrChangedMeanwhileIsAnErrorAndNoCrash) {
  const TemporaryFolder folder;
  WriteFile(folder / "a", MakeSafetensors({{"a", "U8", {100000}, std::string(100000, 'x')}}));
  const auto file = SafetensorsFile::Open(folder.path(), "a");
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE((*file)->CheckUnchanged().ok());
  std::filesystem::resize_file(folder / "a", 5000);
  std::vector<std::byte> bytes(100000);
  EXPECT_EQ((*file)->Read(*(*file)->header().Find("a"), 0, bytes).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ((*file)->CheckUnchanged().code(), absl::StatusCode::kFailedPrecondition);
}

// A folder with two shards and an index that a test may spoil.
struct Sharded {
  Sharded() {
    WriteFile(folder / "s1", MakeSafetensors({{"a", "U8", {1}, "x"}}));
    WriteFile(folder / "s2", MakeSafetensors({{"b", "U8", {1}, "y"}, {"c", "U8", {1}, "z"}}));
  }
  absl::Status Open(const Json& index) {
    WriteFile(folder / "model.safetensors.index.json", index.dump());
    return Checkpoint::Open(folder.path()).status();
  }
  TemporaryFolder folder;
};

TEST(CheckpointTest, AShardedIndexMustMatchItsShards) {
  Sharded sharded;
  EXPECT_TRUE(sharded.Open({{"weight_map", {{"a", "s1"}, {"b", "s2"}, {"c", "s2"}}}}).ok());
  const auto message = [&](const Json& index) { return std::string(sharded.Open(index).message()); };
  EXPECT_THAT(message(Json::array()), HasSubstr("'weight_map' is missing"));
  EXPECT_THAT(message({{"weight_map", 3}}), HasSubstr("'weight_map' is missing"));
  EXPECT_THAT(message({{"weight_map", Json::object()}}), HasSubstr("lists no tensor"));
  EXPECT_THAT(message({{"weight_map", {{"a", 3}}}}), HasSubstr("no file name for tensor 'a'"));
  EXPECT_THAT(message({{"weight_map", {{"a", "s1"}, {"b", "s2"}}}}), HasSubstr("holds tensor 'c', which"));
  EXPECT_THAT(message({{"weight_map", {{"a", "s1"}, {"b", "s1"}, {"c", "s2"}}}}), HasSubstr("lists tensor 'b' in s1"));
  EXPECT_THAT(message({{"weight_map", {{"a", "s1"}, {"b", "s2"}, {"c", "s2"}, {"d", "s2"}}}}),
              HasSubstr("lists tensor 'd' in s2"));
  EXPECT_THAT(message({{"weight_map", {{"a", "s1"}, {"b", "s3"}}}}), HasSubstr("/s3: is missing"));
  EXPECT_THAT(message({{"weight_map", {{"a", "../s1"}}}}), HasSubstr("not a plain file name"));
  WriteFile(sharded.folder / "s3", MakeSafetensors({{"a", "U8", {1}, "x"}}));
  EXPECT_THAT(message({{"weight_map", {{"a", "s1"}, {"b", "s2"}, {"c", "s2"}, {"d", "s3"}}}}), HasSubstr("is also in"));
}

TEST(CheckpointTest, AHuggingFaceCacheFolderIsRead) {
  const TemporaryFolder cache;
  std::filesystem::create_directories(cache / "blobs");
  std::filesystem::create_directories(cache / "snapshots/rev");
  WriteFile(cache / "blobs/1234", MakeSafetensors({{"a", "U8", {1}, "x"}}));
  ASSERT_EQ(symlink("../../blobs/1234", (cache / "snapshots/rev/model.safetensors").c_str()), 0);
  const auto opened = Checkpoint::Open(cache / "snapshots/rev");
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_NE((*opened)->Find("a").tensor, nullptr);
  std::filesystem::remove(cache / "blobs/1234");  // An interrupted download.
  EXPECT_THAT(std::string(Checkpoint::Open(cache / "snapshots/rev").status().message()),
              HasSubstr("model.safetensors: is a link that leads to no file"));
}

TEST(CheckpointTest, AFolderWithoutWeightsIsRefused) {
  const TemporaryFolder folder;
  const auto opened = Checkpoint::Open(folder.path());
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("has neither model.safetensors nor"));
}

}  // namespace
}  // namespace shoal
