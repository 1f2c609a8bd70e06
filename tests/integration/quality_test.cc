// What quantization costs on the demo model's held-out text: perplexity, KL divergence and top-token agreement against
// the same model in float32.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "gtest/gtest.h"
#include "model/tokenizer.h"
#include "tests/support/gguf_export.h"
#include "tests/support/local_cluster.h"
#include "tests/support/model_runs.h"

namespace shoal {
namespace {

constexpr char kDemo[] = "deploy/demo_model";

// Documents are separated by a line "%%"; each is scored on its own from its second token.
std::vector<std::vector<int32_t>> HeldOutDocuments() {
  const auto text = ReadSmallFile(SourcePath(kDemo) + "/heldout.txt", 1 << 20);
  const auto tokenizer = Tokenizer::Load(SourcePath(kDemo));
  SHOAL_CHECK(text.ok() && tokenizer.ok());
  std::vector<std::vector<int32_t>> documents;
  for (const std::string& document :
       std::vector<std::string>(absl::StrSplit(absl::StripSuffix(*text, "\n"), "\n%%\n"))) {
    auto ids = (*tokenizer)->Encode(document, {.add_special_tokens = false, .parse_special = true});
    SHOAL_CHECK(ids.ok());
    documents.push_back(*std::move(ids));
  }
  return documents;
}

// Log probabilities of every next token of one document: [tokens - 1][vocab].
std::vector<std::vector<double>> LogProbs(const std::vector<std::vector<float>>& logits) {
  std::vector<std::vector<double>> out;
  for (const std::vector<float>& row : logits) {
    const double top = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (const float x : row) sum += std::exp(x - top);
    const double log_sum = top + std::log(sum);
    std::vector<double>& probs = out.emplace_back();
    for (const float x : row) probs.push_back(x - log_sum);
  }
  return out;
}

// Calls use(document, logits) for each document that `model` reads.
void RunDocuments(const std::string& model, const std::vector<std::vector<int32_t>>& documents, const PlanRequest& base,
                  const std::function<void(size_t, const std::vector<std::vector<float>>&)>& use) {
  LocalClusterOptions options;
  options.model_dir = model;
  options.threads = 2;
  options.request = base;
  options.request.max_step_tokens = options.request.max_sequences = 512;
  const absl::Status status = RunLocalCluster(options, [&](const ClusterView& view) -> absl::Status {
    for (size_t d = 0; d < documents.size(); ++d) {
      Prompt prompt{{documents[d].begin(), documents[d].end() - 1}, {}};
      for (size_t i = 0; i < prompt.ids.size(); ++i) prompt.positions.push_back(static_cast<int32_t>(i));
      ASSIGN_OR_RETURN(const auto logits, RunPrompt(view, prompt, 512));
      use(d, logits);
    }
    return absl::OkStatus();
  });
  ASSERT_TRUE(status.ok()) << status;
}

struct Quality {
  int64_t tokens = 0;
  double loss_exact = 0, loss = 0, kl = 0;  // Sums in nats.
  int64_t agree = 0;

  double PerplexityIncrease() const { return std::exp((loss - loss_exact) / tokens) - 1; }
  double Agreement() const { return static_cast<double>(agree) / tokens; }
};

// Logits in float32, by document and position; made once.
const std::vector<std::vector<std::vector<float>>>& ExactLogits() {
  static const auto* const exact = [] {
    const std::vector<std::vector<int32_t>> documents = HeldOutDocuments();
    auto* logits = new std::vector<std::vector<std::vector<float>>>(documents.size());
    RunDocuments(SourcePath(kDemo), documents, RequestWithStages({1}, WeightFormat::kF32, DType::kF32),
                 [&](size_t d, const auto& rows) { (*logits)[d] = rows; });
    return logits;
  }();
  return *exact;
}

Quality Compare(const PlanRequest& quantized, const std::string& model = SourcePath(kDemo)) {
  const std::vector<std::vector<int32_t>> documents = HeldOutDocuments();
  const auto& exact = ExactLogits();
  Quality q;
  RunDocuments(model, documents, quantized, [&](size_t d, const std::vector<std::vector<float>>& logits) {
    const auto p = LogProbs(exact[d]);
    const auto r = LogProbs(logits);
    for (size_t i = 0; i < p.size(); ++i) {
      const int32_t next = documents[d][i + 1];
      ++q.tokens;
      q.loss_exact -= p[i][next];
      q.loss -= r[i][next];
      for (size_t v = 0; v < p[i].size(); ++v) q.kl += std::exp(p[i][v]) * (p[i][v] - r[i][v]);
      q.agree += std::max_element(p[i].begin(), p[i].end()) - p[i].begin() ==
                 std::max_element(r[i].begin(), r[i].end()) - r[i].begin();
    }
  });
  std::printf("  %lld tokens: perplexity %.4f -> %.4f (%+.3f %%), KL %.6f, top token agrees %.2f %%\n",
              static_cast<long long>(q.tokens), std::exp(q.loss_exact / q.tokens), std::exp(q.loss / q.tokens),
              100 * q.PerplexityIncrease(), q.kl / q.tokens, 100 * q.Agreement());
  return q;
}

TEST(QualityTest, Int8CostsAtMostHalfAPercentOfPerplexityAndKeepsNearlyAllTopTokens) {
  const Quality q = Compare(RequestWithStages({1}, WeightFormat::kInt8, DType::kF16));
  EXPECT_GT(q.tokens, 10000);
  EXPECT_LE(q.PerplexityIncrease(), 0.005);
  EXPECT_GE(q.Agreement(), 0.98);
}

TEST(QualityTest, Int8KeysAndValuesCostLittleMore) {
  const Quality q = Compare(RequestWithStages({1}, WeightFormat::kInt8, DType::kI8));
  EXPECT_LE(q.PerplexityIncrease(), 0.005);
  EXPECT_GE(q.Agreement(), 0.98);
}

TEST(QualityTest, Int4StaysUsable) {
  const Quality q = Compare(RequestWithStages({1}, WeightFormat::kInt4, DType::kF16));
  EXPECT_LE(q.PerplexityIncrease(), 0.15);
  EXPECT_GE(q.Agreement(), 0.85);
}

// The demo model as a GGUF file, quantized again by the loader: two roundings, one after the other.
class GgufQualityTest : public testing::Test {
 protected:
  ~GgufQualityTest() override { std::filesystem::remove(path_); }
  Quality CompareFile(const GgufEncoder& encoder, WeightFormat format) {
    std::ofstream(path_, std::ios::binary) << ExportGguf(SourcePath(kDemo), encoder).Bytes();
    return Compare(RequestWithStages({1}, format, DType::kF16), path_);
  }

 private:
  const std::string path_ = testing::TempDir() + "shoal_quality_" + std::to_string(getpid()) + ".gguf";
};

TEST_F(GgufQualityTest, EightBitBlocksAsInt8CostAtMostHalfAPercent) {
  const Quality q = CompareFile(EncodeAs("Q8_0"), WeightFormat::kInt8);
  EXPECT_LE(q.PerplexityIncrease(), 0.005);
  EXPECT_GE(q.Agreement(), 0.98);
}

TEST_F(GgufQualityTest, FourBitBlocksAsInt4StayUsable) {
  const Quality q = CompareFile(EncodeAs("Q4_0"), WeightFormat::kInt4);
  EXPECT_LE(q.PerplexityIncrease(), 0.15);
  EXPECT_GE(q.Agreement(), 0.85);
}

// The demo model's rows are no multiple of 256: blocks run on over the rows, and the file holds what they stand for.
TEST_F(GgufQualityTest, FourBitSuperBlocksAsInt4StayUsable) {
  const auto across_rows = [](std::span<const float> values, int64_t) {
    const GgufEncoded blocks = EncodeAs("Q4_K")(values, static_cast<int64_t>(values.size()));
    return GgufEncoded{GgufTypeNamed("F32"), EncodeGguf("F32", DecodeGguf(blocks, values.size()))};
  };
  const Quality q = CompareFile(across_rows, WeightFormat::kInt4);
  EXPECT_LE(q.PerplexityIncrease(), 0.15);
  EXPECT_GE(q.Agreement(), 0.85);
}

}  // namespace
}  // namespace shoal
