#include "server/config.h"

#include <filesystem>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

constexpr char kPath[] = "dir/x.textproto";

std::string ErrorOf(std::string_view text) {
  const absl::StatusOr<Config> config = ParseConfig(text, kPath);
  if (config.ok()) return "";
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

TEST(ConfigTest, DefaultsAreThoseOfTheSchema) {
  const absl::StatusOr<Config> config = ParseConfig("model: 'm'", kPath);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model_dir, "dir/m");
  EXPECT_EQ(config->served_model_name, "m");
  EXPECT_EQ(config->listen.ToString(), "127.0.0.1:50051");
  EXPECT_TRUE(config->listen.loopback);
  EXPECT_EQ(config->planned_ranks(), 0);
  EXPECT_EQ(config->message_bytes, 4 << 20);
  const EngineOptions engine = MakeEngineOptions(*config, 100, 2048, 1024);
  EXPECT_EQ(engine.kv_blocks, 100);
  EXPECT_EQ(engine.kv_block_tokens, 32);
  EXPECT_EQ(engine.max_context, 2048);
  EXPECT_EQ(engine.vocab_size, 1024);
  EXPECT_EQ(engine.max_waiting, 256);
}

TEST(ConfigTest, AGgufFileIsServedUnderItsNameWithoutEnding) {
  const absl::StatusOr<Config> config = ParseConfig("model: 'a/Qwen2-7B.Q8_0.gguf'", kPath);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model_dir, "dir/a/Qwen2-7B.Q8_0.gguf");
  EXPECT_EQ(config->served_model_name, "Qwen2-7B.Q8_0");
}

TEST(ConfigTest, ReadsEveryKindOfField) {
  const absl::StatusOr<Config> config = ParseConfig(R"(
    # A comment.
    model: "/models/" "a/"   # Adjacent strings are one.
    served_model_name: 'qwen'
    formats { weights: INT4, lm_head: INT8; kv: KV_F32 }
    plan: { stages { ranks: 2 layers: 3 shares: [1, 2.5] } stages { ranks: 1 } }
    memory_budget: ["3700MiB", "4GiB"]
    memory_budget: "1.5GiB"
    reserved_memory: "100MB"
    batch { max_step_tokens: 0x200 }
    listen: "[::1]:0"
    drain_seconds: 2.5
    log_level: DEBUG
    chat { add_generation_prompt: false }
  )",
                                                    kPath);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model_dir, "/models/a");
  EXPECT_EQ(config->served_model_name, "qwen");
  EXPECT_EQ(config->proto.formats().weights(), v1::Formats::INT4);
  EXPECT_EQ(config->proto.formats().lm_head(), v1::Formats::INT8);
  EXPECT_EQ(config->planned_ranks(), 3);
  EXPECT_EQ(config->proto.plan().stages(0).shares(1), 2.5);
  EXPECT_EQ(config->memory_budget, (std::vector<int64_t>{3700LL << 20, 4LL << 30, 3LL << 29}));
  EXPECT_EQ(config->reserved_bytes, 100000000);
  EXPECT_EQ(config->proto.batch().max_step_tokens(), 512);
  EXPECT_EQ(config->listen.ToString(), "[::1]:0");
  EXPECT_FALSE(config->proto.chat().add_generation_prompt());
}

TEST(ConfigTest, EveryExampleIsValid) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(SHOAL_SOURCE_DIR) + "/configs")) {
    if (entry.path().extension() != ".textproto") continue;
    const absl::StatusOr<Config> config = LoadConfig(entry.path().string());
    EXPECT_TRUE(config.ok()) << config.status();
    ++files;
  }
  EXPECT_GE(files, 11);
}

TEST(ConfigTest, AMissingFileIsNotFound) {
  const absl::StatusOr<Config> config = LoadConfig("/nonexistent/x.textproto");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("/nonexistent/x.textproto"));
}

struct Broken {
  const char* text;
  const char* message;  // After "dir/x.textproto:".
};

class BrokenConfigTest : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenConfigTest, IsRefusedWithPlaceAndReason) {
  const std::string error = ErrorOf(GetParam().text);
  EXPECT_THAT(error, ::testing::StartsWith(std::string(kPath) + ":" + GetParam().message));
  EXPECT_EQ(error.find('\n'), std::string::npos) << error;
}

const Broken kBroken[] = {
    {"", "1:1: model is missing; give the folder or the GGUF file of the model"},
    {"model: 'm' modle: 'n'", "1:12: unknown field 'modle' in the file; did you mean 'model'?"},
    {"model: 'm'\n  lisen: ':1'", "2:3: unknown field 'lisen' in the file; did you mean 'listen'?"},
    {"model: 'm' zzzzqqqq { a: 1 b { c: 'd' } }", "1:12: unknown field 'zzzzqqqq' in the file"},
    {"model: 'm' batch { sequences: 3 }", "1:20: unknown field 'sequences' in batch; did you mean 'max_sequences'?"},
    {"model: 'm' plan { stages { rank: 3 } }", "1:28: unknown field 'rank' in plan.stages[0]; did you mean 'ranks'?"},
    {"model: 'm' formats { weights: int8 }",
     "1:31: formats.weights: unknown value 'int8'; one of PREPARED, F32, BF16, INT8, INT4; did you mean 'INT8'?"},
    {"model: 'm' formats { weights: INT5 }",
     "1:31: formats.weights: unknown value 'INT5'; one of PREPARED, F32, BF16, INT8, INT4"},
    {"model: 'm' formats { weights: 8 }", "1:31: formats.weights: unknown value '8'"},
    {"model: 'm' formats { kv: F16 }",
     "1:26: formats.kv: unknown value 'F16'; one of KV_F32, KV_F16, KV_INT8; did you mean 'KV_F16'?"},
    {"model: 'm' log_level: LOUD", "1:23: log_level: unknown value 'LOUD'; one of DEBUG, INFO, WARNING, ERROR"},
    {"model: 3", "1:8: model must be a string in quotes, found '3'"},
    {"model: m", "1:8: model must be a string in quotes, found 'm'"},
    {"model: 'm' threads: 'two'", "1:21: threads must be an integer, found ''two''"},
    {"model: 'm' threads: 1.5", "1:21: threads must be an integer, found '1.5'"},
    {"model: 'm' threads: -1", "1:12: threads is -1; it must be from 0 to 1024"},
    {"model: 'm' threads: 99999999999", "1:21: threads: 99999999999 is too large; at most 2147483647"},
    {"model: 'm' max_context: 99999999999999999999", "1:25: max_context: 99999999999999999999 is too large"},
    {"model: 'm' max_context: 1", "1:12: max_context is 1; it must be from 2 to 1048576"},
    {"model: 'm' allow_insecure_remote: yes", "1:35: allow_insecure_remote must be true or false, found 'yes'"},
    {"model: 'm' drain_seconds: 'x'", "1:27: drain_seconds must be a number, found ''x''"},
    {"model: 'm' drain_seconds: -2", "1:12: drain_seconds is -2; it must be from 0 to 86400"},
    {"model: 'm' drain_seconds: 1e400", "1:12: drain_seconds is inf; it must be from 0 to 86400"},
    {"model: 'm' model: 'n'", "1:12: model is set twice; keep one"},
    {"model: 'm' batch: 3", "1:19: batch must be a block in braces, found '3'"},
    {"model: 'm' batch { max_sequences: 3", "1:36: batch: the '{' of line 1 is never closed; add '}'"},
    {"model: 'm' }", "1:12: '}' without a '{' before it; remove it"},
    {"model 'm'", "1:7: expected ':' after 'model', found ''m''"},
    {"model: 'm' memory_budget: ['1GiB', '2GiB'",
     "1:42: expected ']' at the end of memory_budget, found the end of the file"},
    {"model: 'm' threads:", "1:20: threads has no value"},
    {"model: 'm' batch { max_waiting: }", "1:33: batch.max_waiting has no value"},
    {"'model'", "1:1: expected the name of a field, found ''model''"},
    {"model: 'm\xFF'", "1:8: model is not valid UTF-8 text"},
    {"model: 'm' batch { max_sequences: 0 }", "1:20: batch.max_sequences is 0; it must be from 1 to 1024"},
    {"model: 'm' batch { max_step_tokens: 100000 }",
     "1:20: batch.max_step_tokens is 100000; it must be from 1 to 8192"},
    {"model: 'm' batch { max_step_tokens: 64 prefill_chunk_tokens: 65 }",
     "1:40: batch.prefill_chunk_tokens does not fit: prefill_chunk_tokens 65 is more than max_step_tokens 64"},
    {"model: 'm' batch { max_step_tokens: 64 }", "1:20: batch.max_step_tokens does not fit: prefill_chunk_tokens 256"},
    {"model: 'm' batch { max_waiting: 0 }", "1:20: batch.max_waiting is 0; it must be from 1 to 100000"},
    {"model: 'm' kv_cache { block_tokens: 0 }", "1:23: kv_cache.block_tokens is 0; it must be from 1 to 1024"},
    {"model: 'm' kv_cache { blocks: -4 }", "1:23: kv_cache.blocks is -4; it must be from 1 to 1073741824"},
    {"model: 'm' kv_cache { blocks: 4 tokens: 128 }",
     "1:33: kv_cache.tokens has no meaning beside kv_cache.blocks; keep one"},
    {"model: 'm' plan { stages { ranks: 0 } }", "1:28: plan.stages[0].ranks is 0; it must be from 1 to 64"},
    {"model: 'm' plan { stages { ranks: 2 layers: 0 } }",
     "1:37: plan.stages[0].layers is 0; it must be from 1 to 1000"},
    {"model: 'm' plan { stages { ranks: 2 shares: [1] } }",
     "1:19: plan.stages[0] has 1 shares for 2 ranks; give one per rank or none"},
    {"model: 'm' plan { stages { shares: [-1] } }",
     "1:37: plan.stages[0].shares[0] is -1; it must be from 0.001 to 1e+06"},
    {"model: 'm' plan { automatic: true stages { ranks: 1 } }",
     "1:19: plan.automatic is true but stages are given; keep one of the two"},
    {"model: 'm' plan { stages { ranks: 3 } } memory_budget: ['1GiB', '2GiB']",
     "1:57: memory_budget[0] starts a list of 2 budgets for the plan's 3 ranks; give one for all or one per rank"},
    {"model: 'm' memory_budget: '3700 megs'",
     "1:12: memory_budget[0] is '3700 megs'; write a size such as 3700MiB, 4GiB or 4000000000"},
    {"model: 'm' memory_budget: '1KiB'",
     "1:12: memory_budget[0] is 1KiB; it must be from 1048576 to 1099511627776 bytes"},
    {"model: 'm' memory_budget: '-4GiB'", "1:12: memory_budget[0] is '-4GiB'; write a size such as"},
    {"model: 'm' memory_budget: 4096", "1:27: memory_budget[0] must be a string in quotes, found '4096'"},
    {"model: 'm' reserved_memory: ''", "1:12: reserved_memory is ''; write a size such as"},
    {"model: 'm' formats { embedding: INT8 }", "1:22: formats.embedding is INT8; it must be F32 or BF16"},
    {"model: 'm' formats { qkv: PREPARED }", "1:22: formats.qkv is PREPARED; that can only be said of all classes"},
    {"model: 'm' formats { weights: PREPARED down: INT8 }",
     "1:40: formats.down cannot be chosen when formats.weights is PREPARED"},
    {"model: 'm' listen: 'localhost'", "1:12: listen is 'localhost', which has no port; write HOST:PORT"},
    {"model: 'm' listen: ':50051'", "1:12: listen is ':50051', which has no host; write HOST:PORT"},
    {"model: 'm' listen: '127.0.0.1:70000'",
     "1:12: listen is '127.0.0.1:70000', whose port is not a number from 0 to 65535"},
    {"model: 'm' listen: '::1:50051'", "1:12: listen is '::1:50051', an IPv6 address without brackets"},
    {"model: 'm' listen: '[::1:50051'", "1:12: listen is '[::1:50051', whose '[' is not closed"},
    {"model: 'm' listen: 'a b:1'", "1:12: listen is 'a b:1', whose host has a character that no host name has"},
    {"model: 'm' listen: '0.0.0.0:50051'",
     "1:12: listen '0.0.0.0:50051' is not a loopback address; there is no TLS yet"},
    {"model: 'm' limits { message_bytes: '1GiB' }",
     "1:21: limits.message_bytes is 1GiB; it must be from 1024 to 268435456 bytes"},
    {"model: 'm' limits { prompt_bytes: '5MiB' }", "1:21: limits.prompt_bytes does not fit"},
    {"model: 'm' limits { stalled_reader_seconds: 0 }",
     "1:21: limits.stalled_reader_seconds is 0; it must be from 0.1 to 3600"},
    {"model: 'm' limits { streams_per_connection: 0 }",
     "1:21: limits.streams_per_connection is 0; it must be from 1 to 100000"},
    {"model: 'm' limits { stop_strings: 65 }", "1:21: limits.stop_strings is 65; it must be from 0 to 64"},
    {"model: 'unterminated", "1:"},
};
INSTANTIATE_TEST_SUITE_P(All, BrokenConfigTest, ::testing::ValuesIn(kBroken));

TEST(ConfigTest, AllErrorsAreReportedAtOnceInOrder) {
  const std::string error = ErrorOf(
      "modle: 'm'\n"
      "batch { max_sequences: 0 }\n"
      "formats { weights: INT9 }\n"
      "listen: '0.0.0.0:1'\n"
      "threads: x\n");
  const std::vector<std::string> lines = absl::StrSplit(error, '\n');
  ASSERT_EQ(lines.size(), 5u) << error;
  EXPECT_THAT(lines[0], HasSubstr(":1:1: unknown field 'modle'"));
  EXPECT_THAT(error, HasSubstr(":2:9: batch.max_sequences is 0"));
  EXPECT_THAT(error, HasSubstr(":3:20: formats.weights: unknown value 'INT9'"));
  EXPECT_THAT(error, HasSubstr(":4:1: listen '0.0.0.0:1' is not a loopback address"));
  EXPECT_THAT(error, HasSubstr(":5:10: threads must be an integer, found 'x'"));
}

TEST(ConfigTest, ErrorsAreBounded) {
  std::string text;
  for (int i = 0; i < 10000; ++i) text += "x: 1\n";
  const std::vector<std::string> lines = absl::StrSplit(ErrorOf(text), '\n');
  EXPECT_LE(lines.size(), 60u);
}

TEST(ConfigTest, DeepNestingIsRefused) {
  std::string text = "model: 'm' ";
  for (int i = 0; i < 100000; ++i) text += "plan { stages { ";
  EXPECT_NE(ErrorOf(text), "");
}

TEST(ConfigTest, ARemoteAddressNeedsConsent) {
  absl::StatusOr<Config> config = ParseConfig("model: 'm' allow_insecure_remote: true listen: '0.0.0.0:1'", kPath);
  ASSERT_TRUE(config.ok()) << config.status();
  config = ParseConfig("model: 'm'", kPath);
  ASSERT_TRUE(config.ok());
  const absl::Status status = OverrideListen("192.168.0.1:5", &*config);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--listen '192.168.0.1:5' is not a loopback address"));
  EXPECT_THAT(std::string(OverrideListen("nonsense", &*config).message()),
              HasSubstr("--listen is 'nonsense', which has no port"));
  EXPECT_TRUE(OverrideListen("localhost:0", &*config).ok());
  EXPECT_EQ(config->listen.port, 0);
}

TEST(ConfigTest, OnlyAddressesOfThisMachineAreLoopback) {
  for (const char* text : {"127.0.0.1:1", "127.255.3.4:1", "[::1]:1", "[0:0:0:0:0:0:0:1]:1", "localhost:1"}) {
    EXPECT_TRUE(ParseListenAddress(text)->loopback) << text;
  }
  for (const char* text : {"127.evil.com:1", "127.0.0.1.evil.com:1", "localhost.evil.com:1", "128.0.0.1:1", "0.0.0.0:1",
                           "[::]:1", "[::2]:1", "127.:1"}) {
    const absl::StatusOr<ListenAddress> address = ParseListenAddress(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_FALSE(address->loopback) << text;
  }
}

TEST(ConfigTest, SizesHaveBinaryAndDecimalUnits) {
  EXPECT_EQ(*ParseBytes("0"), 0);
  EXPECT_EQ(*ParseBytes("12B"), 12);
  EXPECT_EQ(*ParseBytes("1.5KiB"), 1536);
  EXPECT_EQ(*ParseBytes("2 GB"), 2000000000);
  for (const char* bad : {"", "GiB", "1e9", "-1", "1..5GiB", "0x10", "9999999TiB", "1GiBGiB", "nan"}) {
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace shoal
