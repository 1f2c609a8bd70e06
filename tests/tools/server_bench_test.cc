#include "tools/server_bench.h"

#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace shoal {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(ArrivalTimesTest, GapsHaveTheMeanAndTheSpreadOfAPoissonProcess) {
  constexpr int64_t kRequests = 20000;
  const std::vector<double> times = ArrivalTimes(kRequests, 4.0, 1);
  ASSERT_EQ(times.size(), static_cast<size_t>(kRequests));
  EXPECT_EQ(times[0], 0);
  double squares = 0;
  for (size_t i = 1; i < times.size(); ++i) {
    ASSERT_GE(times[i], times[i - 1]);
    squares += (times[i] - times[i - 1]) * (times[i] - times[i - 1]);
  }
  // Of n exponential gaps: the mean has a relative deviation of 1 / sqrt(n), the mean square 2 / rate^2 one of sqrt(5 /
  // n).
  EXPECT_NEAR(times.back() / kRequests, 0.25, 0.25 * 0.05);
  EXPECT_NEAR(squares / kRequests, 2 * 0.0625, 2 * 0.0625 * 0.1);
  EXPECT_EQ(ArrivalTimes(100, 4.0, 1), ArrivalTimes(100, 4.0, 1));
  EXPECT_NE(ArrivalTimes(100, 4.0, 1), ArrivalTimes(100, 4.0, 2));
}

TEST(ArrivalTimesTest, AnInfiniteRateMeansAtOnce) {
  EXPECT_EQ(ArrivalTimes(3, kInfinity, 1), (std::vector<double>{0, 0, 0}));
}

TEST(ServerReportTest, HasTheKeysAndFiguresOfVllm) {
  ServerBenchOptions options;
  options.requests = 2;
  ServerSamples samples;
  ServerSamples one;
  one.ttft = {10};
  one.tpot = {2};
  one.itl = {1, 3};
  one.e2el = {14};
  one.completed = 1;
  one.prompt_tokens = 64;
  one.output_tokens = 3;
  samples.Add(ServerSamples(one));
  one.ttft = {20};
  samples.Add(ServerSamples(one));
  samples.seconds = 0.5;
  const Json json = ServerJson(options, samples);
  EXPECT_EQ(json["request_rate"], "inf");
  EXPECT_EQ(json["output_throughput"], 12);
  EXPECT_EQ(json["request_throughput"], 4);
  EXPECT_EQ(json["total_token_throughput"], 268);
  EXPECT_EQ(json["mean_ttft_ms"], 15);
  EXPECT_EQ(json["std_ttft_ms"], 5);
  EXPECT_DOUBLE_EQ(json["p90_ttft_ms"].get<double>(), 19);
  EXPECT_EQ(json["median_itl_ms"], 2);
  options.request_rate = 2.5;
  EXPECT_EQ(ServerJson(options, samples)["request_rate"], 2.5);
  EXPECT_NE(ServerTable(options, samples).find("2.5 sent per second"), std::string::npos);
}

TEST(ServerReportTest, SaysWhatTheTimesMakeNecessary) {
  ServerBenchOptions options;
  options.prompt_tokens = 64;
  options.max_tokens = 8;
  ServerSamples samples;
  samples.ttft = {10};
  samples.tpot = samples.itl = {2};
  samples.e2el = {24};
  samples.completed = 1;
  samples.prompt_tokens = 64;
  samples.output_tokens = 8;
  samples.seconds = 0.1;
  samples.work = {.weight_bytes = 20'000'000, .kv_token_bytes = 1000, .token_ops = 2'000'000, .head_ops = 500'000};
  Json json = ServerJson(options, samples);
  EXPECT_TRUE(json["machine"].is_null());
  // 64 prompt tokens and seven outputs pass the layers; eight tokens are sampled.
  EXPECT_DOUBLE_EQ(json["ops_per_second"].get<double>(), (71 * 2e6 + 8 * 5e5) / 0.1);
  EXPECT_DOUBLE_EQ(json["ttft_ops_per_second"].get<double>(), (64 * 2e6 + 5e5) / 0.010);
  EXPECT_TRUE(json["ttft_bytes_per_second"].is_null());
  // All weights, and 64 tokens of prompt and half of the outputs.
  EXPECT_DOUBLE_EQ(json["itl_bytes_per_second"].get<double>(), (20e6 + 68 * 1e3) / 0.002);
  EXPECT_DOUBLE_EQ(json["itl_ops_per_second"].get<double>(), 2.5e6 / 0.002);
  EXPECT_NE(ServerTable(options, samples).find("with --machine"), std::string::npos);

  samples.machine = {.threads = 2, .kernels = "some", .read_bytes_per_second = 20.068e9, .int8_ops_per_second = 14.6e9};
  json = ServerJson(options, samples);
  EXPECT_EQ(json["machine"]["threads"], 2);
  const std::string table = ServerTable(options, samples);
  EXPECT_NE(table.find("1.5 GOPS (10.0 %)"), std::string::npos) << table;
  EXPECT_NE(table.find("    10.0   50.0"), std::string::npos) << table;  // ITL: 10 of 20 GB/s.
}

}  // namespace
}  // namespace shoal
