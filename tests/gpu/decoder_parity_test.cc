// A whole decoder on the GPU gives the bits of the CPU: the demo model and random ones, in every format, with one rank
// and with several that share one GPU.
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "gtest/gtest.h"
#include "model/random_model.h"
#include "tests/support/local_cluster.h"
#include "tests/support/model_runs.h"

namespace shoal {
namespace {

constexpr int64_t kRankBudget = int64_t{4} << 30;

std::string DemoModel() {
  const char* const path = std::getenv("SHOAL_DEMO_MODEL");  // Where the sources are not.
  return path != nullptr ? path : SourcePath("deploy/demo_model");
}

// The emulation takes a second for what a GPU does at once.
bool Emulated() {
  static const bool emulated = CreateCudaDevice({}).value()->description().find("emulated") != std::string::npos;
  return emulated;
}

// The longest spans partitions of attention; models but the first are left to short ones in the emulation.
std::vector<Prompt> TestPrompts(int vocab, bool brief = false) {
  const std::vector<int> lengths = brief && Emulated() ? std::vector<int>{1, 5, 18}
                                   : Emulated()        ? std::vector<int>{1, 9, 150}
                                                       : std::vector<int>{1, 7, 33, 90, 150};
  return DrawPrompts(lengths, 3, vocab, 4321);
}

LocalClusterOptions Options(const std::string& model, const std::vector<int>& stages, WeightFormat format, DType kv) {
  LocalClusterOptions options;
  options.model_dir = model;
  options.request = RequestWithStages(stages, format, kv);
  options.request.max_context = 512;
  options.request.kv_tokens_default = 1024;
  return options;
}

LocalClusterOptions OnGpu(LocalClusterOptions options, const std::string& path = "") {
  options.cuda = true;
  options.cuda_options.memory_budget = kRankBudget;
  options.cuda_options.path = path;
  return options;
}

Logits RunAll(const LocalClusterOptions& options, int chunk, bool brief = false) {
  const auto config = LoadModelConfig(options.model_dir);
  EXPECT_TRUE(config.ok()) << config.status();
  if (!config.ok()) return {};
  absl::StatusOr<Logits> logits =
      RunPromptsOn(options, TestPrompts(static_cast<int>(config->shape.vocab), brief), chunk);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? *std::move(logits) : Logits{};
}

// The same bits; says by how much they differ if not, and whether the best token does.
void ExpectSame(const Logits& actual, const Logits& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  int64_t different = 0, all = 0, tokens = 0;
  double worst = 0;
  for (size_t p = 0; p < expected.size(); ++p) {
    ASSERT_EQ(actual[p].size(), expected[p].size()) << what;
    for (size_t i = 0; i < expected[p].size(); ++i) {
      const std::vector<float>&a = actual[p][i], &b = expected[p][i];
      ASSERT_EQ(a.size(), b.size()) << what;
      for (size_t j = 0; j < a.size(); ++j, ++all) {
        ASSERT_TRUE(std::isfinite(a[j])) << what;
        different += std::memcmp(&a[j], &b[j], sizeof(float)) != 0;
        worst = std::max(worst, std::fabs(static_cast<double>(a[j]) - b[j]));
      }
      tokens += std::max_element(a.begin(), a.end()) - a.begin() != std::max_element(b.begin(), b.end()) - b.begin();
    }
  }
  EXPECT_EQ(different, 0) << what << ": of " << all << " logits; the worst is " << worst << " off, and " << tokens
                          << " best tokens differ";
}

class DecoderParityTest : public testing::Test {
 protected:
  void SetUp() override {
    const absl::Status status = CreateCudaDevice({}).status();
    if (status.code() == absl::StatusCode::kFailedPrecondition) GTEST_SKIP() << status.message();
    ASSERT_TRUE(status.ok()) << status;
  }
};

TEST_F(DecoderParityTest, TheDemoModelGivesTheBitsOfTheCpuInEveryFormat) {
  std::vector<WeightFormat> formats = {WeightFormat::kInt4, WeightFormat::kInt8, WeightFormat::kBF16};
  if (Emulated()) formats.pop_back();
  for (const WeightFormat format : formats) {
    const auto options = Options(DemoModel(), {1}, format, DType::kF16);
    const Logits expected = RunAll(options, 64);
    const std::string name(WeightFormatName(format));
    for (const int chunk : Emulated() ? std::vector<int>{64} : std::vector<int>{64, 9, 1}) {
      ExpectSame(RunAll(OnGpu(options), chunk), expected, StrCat(name, ", chunks of ", chunk));
    }
  }
}

TEST_F(DecoderParityTest, EveryInstructionPathGivesTheBitsOfTheCpu) {
  const auto options = Options(DemoModel(), {1}, WeightFormat::kInt8, DType::kF32);
  const Logits expected = RunAll(options, 32, /*brief=*/true);
  for (const char* path : {"dp4a", "sm75", "sm80"}) {
    CudaDeviceOptions device;
    device.path = path;
    if (CreateCudaDevice(device).status().code() == absl::StatusCode::kFailedPrecondition) continue;
    ExpectSame(RunAll(OnGpu(options, path), 32, /*brief=*/true), expected, path);
  }
}

TEST_F(DecoderParityTest, EveryModelFamilyGivesTheBitsOfTheCpu) {
  for (const char* shape : {"tiny-qwen2", "tiny-llama", "tiny-qwen3"}) {
    const std::string folder = StrCat(std::filesystem::temp_directory_path().string(), "/shoal-", shape, "-", getpid());
    ASSERT_TRUE(WriteRandomModel(shape, folder).ok());
    const auto options = Options(folder, {1}, WeightFormat::kInt4, DType::kF32);
    ExpectSame(RunAll(OnGpu(options), 40, /*brief=*/true), RunAll(options, 40, /*brief=*/true), shape);
    std::filesystem::remove_all(folder);
  }
}

TEST_F(DecoderParityTest, RanksThatShareTheGpuGiveTheBitsOfOneCpuRank) {
  const Logits expected = RunAll(Options(DemoModel(), {1}, WeightFormat::kInt8, DType::kF16), 64);
  const std::vector<std::vector<int>> few = {{3}, {1, 1}, {2, 1}}, all = {{2}, {1, 1}, {4}, {2, 2}};
  for (const std::vector<int>& stages : Emulated() ? few : all) {
    const auto options = Options(DemoModel(), stages, WeightFormat::kInt8, DType::kF16);
    ExpectSame(RunAll(OnGpu(options), 64), expected, StrCat(stages.size(), " stages, the first of ", stages[0]));
  }
}

// Decoding replays graphs, in batches that are no bucket.
TEST_F(DecoderParityTest, TokensAreThoseOfCpuRanksWithAndWithoutGraphs) {
  std::vector<Request> requests;
  for (int i = 0; i < 5; ++i) {
    Request request;
    for (int j = 0; j < 3 + 4 * i; ++j) request.prompt.push_back(100 + 37 * i + j);
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.max_tokens = 6;
    requests.push_back(request);
  }
  const auto run = [&](const LocalClusterOptions& options) {
    std::vector<std::vector<int32_t>> outputs;
    const absl::Status status = RunLocalEngine(options, EngineOptions{}, [&](EngineClient& engine, const ModelConfig&) {
      auto result = GenerateAll(engine, requests, 5);
      EXPECT_TRUE(result.ok()) << result.status();
      if (result.ok()) outputs = *std::move(result);
    });
    EXPECT_TRUE(status.ok()) << status;
    return outputs;
  };
  LocalClusterOptions cpu = Options(DemoModel(), {1}, WeightFormat::kInt8, DType::kF16);
  cpu.request.max_sequences = 8;  // A graph each for 1, 2, 4 and 8.
  const auto expected = run(cpu);
  ASSERT_EQ(expected.size(), requests.size());
  for (const bool graphs : {true, false}) {
    LocalClusterOptions options = OnGpu(cpu);
    options.cuda_options.graphs = graphs;
    EXPECT_EQ(run(options), expected) << (graphs ? "with graphs" : "");
  }
}

}  // namespace
}  // namespace shoal
