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

}  // namespace
}  // namespace shoal
