#include "base/json.h"

#include <unistd.h>

#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::HasSubstr;

std::string ErrorOf(const absl::Status& status) { return std::string(status.message()); }

TEST(JsonTest, ParsesWhatItShould) {
  const Json json = ParseJson(R"({"a": [1, 2.5, "x"], "b": {"c": null}, "d": true})", "f.json").value();
  EXPECT_EQ(json["a"][0], 1);
  EXPECT_TRUE(json["b"]["c"].is_null());
  EXPECT_EQ(JsonInt(json["a"], "a", "f").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(JsonBool(json, "d", "f").value());
}

TEST(JsonTest, SyntaxErrorsNameTheFileAndTheByte) {
  const auto status = ParseJson("{\"a\": 1,}", "dir/config.json").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(ErrorOf(status), HasSubstr("dir/config.json: is not valid JSON near byte 9"));
  for (const char* text : {"", "{", "[1 2]", "{'a': 1}", "nul", "{\"a\": NaN}", "{} {}", "\"\xFF\""}) {
    EXPECT_FALSE(ParseJson(text, "f").ok()) << text;
  }
}

TEST(JsonTest, DuplicateKeysAreRefusedAtAnyDepth) {
  EXPECT_THAT(ErrorOf(ParseJson(R"({"a": 1, "a": 2})", "f").status()), HasSubstr("key 'a' appears twice"));
  EXPECT_THAT(ErrorOf(ParseJson(R"({"x": [{"b": 1, "b": 1}]})", "f").status()), HasSubstr("key 'b' appears twice"));
  EXPECT_TRUE(ParseJson(R"({"x": {"a": 1}, "y": {"a": 1}, "a": 1})", "f").ok());
}

TEST(JsonTest, DeepNestingIsRefusedAndCannotOverflowTheStack) {
  EXPECT_TRUE(ParseJson(std::string(60, '[') + std::string(60, ']'), "f").ok());
  EXPECT_THAT(ErrorOf(ParseJson(std::string(100, '[') + std::string(100, ']'), "f").status()),
              HasSubstr("nesting is deeper than 64"));
  EXPECT_FALSE(ParseJson(std::string(1000000, '['), "f").ok());
}

TEST(JsonTest, FieldErrorsSayWhichFieldOfWhichFileAndWhatItMustBe) {
  const Json json =
      ParseJson(R"({"i": 3, "n": 0.5, "s": "t", "z": null, "big": 18446744073709551615})", "c.json").value();
  EXPECT_EQ(JsonInt(json, "i", "c.json").value(), 3);
  EXPECT_EQ(JsonNumber(json, "n", "c.json").value(), 0.5);
  EXPECT_EQ(JsonNumber(json, "i", "c.json").value(), 3.0);
  EXPECT_EQ(JsonString(json, "s", "c.json").value(), "t");
  EXPECT_EQ(ErrorOf(JsonInt(json, "x", "c.json").status()), "c.json: field 'x' is missing");
  EXPECT_EQ(ErrorOf(JsonInt(json, "z", "c.json").status()), "c.json: field 'z' is missing");
  EXPECT_EQ(ErrorOf(JsonInt(json, "n", "c.json").status()), "c.json: field 'n' must be an integer");
  EXPECT_EQ(ErrorOf(JsonInt(json, "big", "c.json").status()), "c.json: field 'big' is too large");
  EXPECT_EQ(ErrorOf(JsonString(json, "i", "c.json").status()), "c.json: field 'i' must be a string");
  EXPECT_EQ(ErrorOf(JsonBool(json, "i", "c.json").status()), "c.json: field 'i' must be true or false");
  EXPECT_TRUE(JsonHas(json, "i"));
  EXPECT_FALSE(JsonHas(json, "z"));
  EXPECT_FALSE(JsonHas(json["i"], "i"));
}

TEST(JsonTest, FilesAreBounded) {
  const std::string path = testing::TempDir() + "/json_test_" + std::to_string(getpid()) + ".json";
  std::ofstream(path) << "{\"k\": [1, 2, 3]}";
  EXPECT_EQ(ReadJsonFile(path, 1000).value()["k"].size(), 3u);
  EXPECT_THAT(ErrorOf(ReadJsonFile(path, 10).status()), HasSubstr("more than the limit of 10"));
  EXPECT_EQ(ReadJsonFile(path + ".absent", 10).status().code(), absl::StatusCode::kNotFound);
  unlink(path.c_str());
}

}  // namespace
}  // namespace shoal
