#include "model/gguf.h"

#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/model_folder.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/shared_data.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<GgufHeader> ParseBytes(const std::string& bytes) {
  return ParseGguf(std::as_bytes(std::span(bytes.data(), bytes.size())), "f");
}

std::string MessageFor(const std::string& bytes) { return std::string(ParseBytes(bytes).status().message()); }

// Two tensors and a key of every kind.
GgufWriter SmallFile() {
  GgufWriter gguf;
  gguf.Add("a.text", "hello");
  gguf.Add("a.u32", 7u);
  gguf.Add("a.f32", 0.5f);
  gguf.Add("a.bool", true);
  gguf.Add("a.i64", GgufValueType::kInt64, RawBytes<int64_t>(-3));
  gguf.Add("a.u64", GgufValueType::kUint64, RawBytes<uint64_t>(UINT64_MAX));
  gguf.Add("a.texts", std::vector<std::string>{"x", "", "\u2581y"});
  gguf.AddNumbers("a.i32s", GgufValueType::kInt32, std::vector<int32_t>{1, -2});
  gguf.AddNumbers("a.f32s", GgufValueType::kFloat32, std::vector<float>{1.5f});
  gguf.AddTensor("one", 0, {2, 3}, std::string(24, '\1'));
  gguf.AddTensor("two", 8, {64}, std::string(68, '\2'));
  return gguf;
}

TEST(GgufTest, ReadsKeysAndTensors) {
  for (const uint32_t version : {2u, 3u}) {
    for (const uint64_t alignment : {8, 32, 4096}) {
      GgufWriter gguf;
      gguf.alignment = alignment;
      gguf.version = version;
      gguf.AddTensor("one", 0, {2, 3}, std::string(24, '\1'));
      gguf.AddTensor("two", 8, {64}, std::string(68, '\2'));
      const auto header = ParseBytes(gguf.Bytes());
      ASSERT_TRUE(header.ok()) << header.status();
      EXPECT_EQ(header->alignment, alignment);
      EXPECT_EQ(header->data_offset % alignment, 0u);
      const StoredTensor* two = header->Find("two");
      ASSERT_NE(two, nullptr);
      EXPECT_EQ(two->type.name, "Q8_0");
      EXPECT_EQ(two->bytes(), 68u);
      EXPECT_EQ(two->begin, (24 + alignment - 1) / alignment * alignment);
      EXPECT_THAT(header->Find("one")->shape, ElementsAre(2, 3));
      EXPECT_EQ(header->Find("three"), nullptr);
    }
  }
}

TEST(GgufTest, ValuesComeInTheirTypesAndOtherTypesAreRefused) {
  const auto header = ParseBytes(SmallFile().Bytes());
  ASSERT_TRUE(header.ok()) << header.status();
  const GgufMetadata& metadata = header->metadata;
  EXPECT_EQ(*metadata.Text("a.text"), "hello");
  EXPECT_EQ(*metadata.Integer("a.u32"), 7);
  EXPECT_EQ(*metadata.Integer("a.i64"), -3);
  EXPECT_EQ(*metadata.Number("a.f32"), 0.5);
  EXPECT_EQ(*metadata.Number("a.u32"), 7.0);
  EXPECT_TRUE(*metadata.Bool("a.bool"));
  EXPECT_THAT(*metadata.Texts("a.texts"), ElementsAre("x", "", "\u2581y"));
  EXPECT_THAT(*metadata.Integers("a.i32s"), ElementsAre(1, -2));
  EXPECT_THAT(*metadata.Floats("a.f32s"), ElementsAre(1.5f));
  EXPECT_TRUE(metadata.Has("a.text"));
  EXPECT_FALSE(metadata.Has("a"));
  for (const auto& status :
       {metadata.Integer("a.u64").status(), metadata.Integer("a.f32").status(), metadata.Integer("a.i32s").status(),
        metadata.Number("a.text").status(), metadata.Bool("a.u32").status(), metadata.Text("a.texts").status(),
        metadata.Texts("a.i32s").status(), metadata.Integers("a.f32s").status(), metadata.Floats("a.texts").status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("must be"));
  }
  EXPECT_EQ(metadata.Text("b").status().message(), "f: key 'b' is missing; convert the model again");
}

TEST(GgufTest, TextThatIsNotUtf8IsRefusedWhenItIsAskedFor) {
  GgufWriter gguf;
  gguf.Add("a", "\xff");
  gguf.Add("b", std::vector<std::string>{"fine", "\xc3"});
  const auto header = ParseBytes(gguf.Bytes());
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_FALSE(header->metadata.Text("a").ok());
  EXPECT_FALSE(header->metadata.Texts("b").ok());
}

TEST(GgufTest, AFileWithoutTensorsHasAllKeys) {
  const auto header = ParseBytes(SmallFile().Bytes());
  ASSERT_TRUE(header.ok()) << header.status();
  const std::string bytes = header->metadata.FileWithoutTensors();
  const auto copy = ParseBytes(bytes);
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_TRUE(copy->tensors.empty());
  EXPECT_EQ(copy->metadata.FileWithoutTensors(), bytes);
  EXPECT_THAT(*copy->metadata.Texts("a.texts"), ElementsAre("x", "", "\u2581y"));
}

TEST(GgufTest, EveryPrefixOfAFileIsRefused) {
  const std::string bytes = SmallFile().Bytes();
  const size_t needed = bytes.size() - 28;  // The padding of the last tensor may be missing.
  ASSERT_TRUE(ParseBytes(bytes.substr(0, needed)).ok());
  for (size_t size = 0; size < needed; ++size) {
    const auto header = ParseBytes(bytes.substr(0, size));
    ASSERT_EQ(header.status().code(), absl::StatusCode::kInvalidArgument) << size;
    ASSERT_THAT(std::string(header.status().message()), HasSubstr("download it again"));
  }
  EXPECT_THAT(MessageFor(bytes + "x"), HasSubstr("has 1 bytes behind what its header lists"));
}

// A header with these counts, then `rest`.
std::string Header(uint64_t tensors, uint64_t keys, const std::string& rest, uint32_t version = 3) {
  std::string bytes = "GGUF" + RawBytes(version) + RawBytes(tensors) + RawBytes(keys) + rest;
  return bytes + std::string(std::max<size_t>(bytes.size(), 4096) - bytes.size(), '\0');
}

std::string Key(std::string_view name, uint32_t type) { return GgufText(name) + RawBytes(type); }

// The description of a tensor, its dimensions as the file orders them.
std::string Info(std::string_view name, const std::vector<uint64_t>& dimensions, uint32_t type, uint64_t offset) {
  std::string bytes = GgufText(name) + RawBytes(static_cast<uint32_t>(dimensions.size()));
  for (const uint64_t size : dimensions) bytes += RawBytes(size);
  return bytes + RawBytes(type) + RawBytes(offset);
}

struct Broken {
  const char* name;
  std::string bytes;
  const char* message;
};

class BrokenGgufTest : public testing::TestWithParam<Broken> {};

TEST_P(BrokenGgufTest, IsRefusedWithItsReason) {
  const auto header = ParseBytes(GetParam().bytes);
  ASSERT_FALSE(header.ok());
  EXPECT_THAT(std::string(header.status().message()), HasSubstr(GetParam().message));
  EXPECT_THAT(std::string(header.status().message()), testing::StartsWith("f: "));
  EXPECT_EQ(std::string(header.status().message()).find('\n'), std::string::npos);
}

std::vector<Broken> BrokenFiles() {
  const uint64_t huge = uint64_t{1} << 63;
  const std::string array = RawBytes<uint32_t>(9), text = RawBytes<uint32_t>(8);
  GgufWriter twice;
  twice.Add("k", 1u);
  twice.Add("k", 2u);
  GgufWriter alignment_type;
  alignment_type.Add("general.alignment", "32");
  GgufWriter same_name;
  same_name.AddTensor("t", 0, {8}, std::string(32, '\0'));
  same_name.AddTensor("t", 0, {8}, std::string(32, '\0'));
  const auto aligned = [](uint32_t value) {
    GgufWriter gguf;
    gguf.Add("general.alignment", value);
    return gguf.Bytes();
  };
  const auto tensor = [](const std::vector<uint64_t>& dimensions, uint32_t type, uint64_t offset) {
    return Header(1, 0, Info("t", dimensions, type, offset));
  };
  return {
      {"Empty", "", "has 0 bytes, too few"},
      {"Magic", "GGML" + std::string(100, '\0'), "does not begin with 'GGUF'"},
      {"Version1", Header(0, 0, "", 1), "has version 1 of GGUF; supported are versions 2 and 3"},
      {"Version4", Header(0, 0, "", 4), "has version 4 of GGUF"},
      {"BigEndian", Header(0, 0, "", 0x03000000), "is big-endian"},
      {"TensorCount", Header(huge, 0, ""), "tensors, more than its 4096 bytes can hold"},
      {"KeyCount", Header(0, UINT64_MAX, ""), "claims 18446744073709551615 keys"},
      {"KeyCountBeyondTheKeys", Header(0, 100, ""), "a key has 0 bytes"},
      {"KeyLength", Header(0, 1, RawBytes(huge)), "a key has 9223372036854775808 bytes"},
      {"KeyText", Header(0, 1, Key(std::string("a\0b", 3), 4)), "a key is not plain text"},
      {"KeyTwice", twice.Bytes(), "key 'k' appears twice"},
      {"ValueType", Header(0, 1, Key("k", 13)), "key 'k' has the unknown type 13"},
      {"ElementType", Header(0, 1, Key("k", 9) + RawBytes<uint32_t>(77)), "key 'k' has the unknown type 77"},
      {"NestedArray", Header(0, 1, Key("k", 9) + array + RawBytes<uint64_t>(1)), "is an array of arrays"},
      {"ArrayCount", Header(0, 1, Key("k", 9) + RawBytes<uint32_t>(4) + RawBytes(huge)),
       "key 'k' claims 9223372036854775808 values"},
      {"ArrayCountTimesSizeWraps", Header(0, 1, Key("k", 9) + RawBytes<uint32_t>(10) + RawBytes(uint64_t{1} << 61)),
       "key 'k' claims 2305843009213693952 values"},
      {"TextsCount", Header(0, 1, Key("k", 9) + text + RawBytes<uint64_t>(600)), "key 'k' claims 600 values"},
      {"TextLength", Header(0, 1, Key("k", 8) + RawBytes(UINT64_MAX)), "asks for 18446744073709551615 bytes"},
      {"BoolValue", Header(0, 1, Key("k", 7) + "\2"), "has a bool of 2"},
      {"AlignmentZero", aligned(0), "'general.alignment' is 0; it must be a power of two"},
      {"AlignmentOdd", aligned(24), "'general.alignment' is 24"},
      {"AlignmentHuge", aligned(1u << 31), "'general.alignment' is 2147483648"},
      {"AlignmentType", alignment_type.Bytes(), "'general.alignment' must be an integer"},
      {"TensorNameEmpty", Header(1, 0, Info("", {8}, 0, 0)), "a tensor's name has 0 bytes"},
      {"TensorNameLong", Header(1, 0, Info(std::string(65, 'x'), {8}, 0, 0)), "a tensor's name has 65 bytes"},
      {"TensorNameText", Header(1, 0, Info("a\nb", {8}, 0, 0)), "a tensor's name is not plain text"},
      {"TensorTwice", same_name.Bytes(), "tensor 't' appears twice"},
      {"NoDimension", tensor({}, 0, 0), "tensor 't' has 0 dimensions"},
      {"FiveDimensions", tensor({1, 1, 1, 1, 1}, 0, 0), "tensor 't' has 5 dimensions"},
      {"DimensionZero", tensor({8, 0}, 0, 0), "tensor 't' has a dimension of 0"},
      {"DimensionsWrap", tensor({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0), "makes more than 2199023255552 values"},
      {"DimensionNegative", tensor({UINT64_MAX}, 0, 0), "tensor 't' has a dimension of 18446744073709551615"},
      {"TypeUnknown", tensor({256}, 99, 0), "tensor 't' has type number 99, which is not known"},
      {"TypeRemoved", tensor({256}, 4, 0), "type number 4"},
      {"TypeUnsupported", tensor({256}, 16, 0), "tensor 't' has type IQ2_XXS; supported are"},
      {"BlockCut", tensor({48, 2}, 2, 0), "rows of 48 values, no multiple of the 32 that a block of Q4_0 holds"},
      {"SuperBlockCut", tensor({128}, 12, 0), "rows of 128 values, no multiple of the 256"},
      {"OffsetUnaligned", tensor({8}, 0, 8), "begins at byte 8 of the data, no multiple of the alignment 32"},
      {"OffsetHuge", tensor({8}, 0, huge), "there is a hole before it"},
      {"Hole", tensor({8}, 0, 64), "its place is 0: there is a hole before it"},
      {"Overlap", Header(2, 0, Info("a", {64}, 0, 0) + Info("b", {8}, 0, 224)),
       "tensor 'b' begins at byte 224 of the data, but its place is 256: it overlaps another"},
      {"SameOffset", Header(2, 0, Info("a", {8}, 0, 0) + Info("b", {8}, 0, 0)), "it overlaps another"},
      {"TooLittleData", tensor({1024}, 0, 0), "ends at byte 4096 of the data, but the file has 4032"},
      {"TooMuchData", tensor({8}, 0, 0), "bytes behind what its header lists"},
  };
}

INSTANTIATE_TEST_SUITE_P(Cases, BrokenGgufTest, testing::ValuesIn(BrokenFiles()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(GgufTest, TheFuzzersSeedsAreValid) {
  int seeds = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(SHOAL_SOURCE_DIR) + "/tests/fuzz/seeds/gguf_fuzz")) {
    const auto header = ParseBytes(ReadFile(entry.path()));
    EXPECT_TRUE(header.ok()) << entry.path() << header.status();
    ++seeds;
  }
  EXPECT_GE(seeds, 3);
}

TEST(GgufTest, RealFilesAreRead) {
  const std::string data = SharedTestData();
  if (data.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: real GGUF files are not tested";
  const auto stories = GgufFile::Open(data + "/weights/stories260K/stories260K.gguf");
  ASSERT_TRUE(stories.ok()) << stories.status();
  EXPECT_EQ((*stories)->header().tensors.size(), 48u);
  EXPECT_EQ(*(*stories)->header().metadata.Integer("llama.embedding_length"), 64);
  EXPECT_THAT((*stories)->header().Find("blk.1.ffn_down.weight")->shape, ElementsAre(64, 172));
  for (const auto& [name, tokens] : {std::pair("gpt-2", 50257u), std::pair("deepseek-coder", 32256u)}) {
    const auto vocabulary = GgufFile::Open(data + "/llamacpp_vocab/ggml-vocab-" + name + ".gguf");
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
    EXPECT_EQ((*vocabulary)->header().metadata.Texts("tokenizer.ggml.tokens")->size(), tokens);
  }
}

TEST(GgufTest, AFileCutOrChangedMeanwhileIsAnErrorAndNoCrash) {
  const TemporaryFolder folder;
  WriteFile(folder / "a.gguf", SmallFile().Bytes());
  const auto file = GgufFile::Open(folder / "a.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  const StoredTensor& two = *(*file)->header().Find("two");
  std::vector<std::byte> bytes(two.bytes());
  ASSERT_TRUE((*file)->Read(two, 0, bytes).ok());
  EXPECT_EQ(bytes, std::vector<std::byte>(68, std::byte{2}));
  EXPECT_TRUE((*file)->CheckUnchanged().ok());
  ASSERT_EQ(truncate((folder / "a.gguf").c_str(), 100), 0);
  EXPECT_EQ((*file)->Read(two, 0, bytes).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ((*file)->CheckUnchanged().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GgufFile::Open(folder / "absent.gguf").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GgufFile::Open(folder.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal
