#include "model/weights.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/half.h"
#include "model/random_model.h"
#include "model/weight_table.h"
#include "tests/model/model_folder.h"
#include "tests/model/recording_device.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

FormatPlan AllIn(WeightFormat format, WeightFormat embedding = WeightFormat::kBF16) {
  FormatPlan formats;
  formats.qkv = formats.attention_out = formats.gate_up = formats.down = formats.lm_head = format;
  formats.embedding = embedding;
  return formats;
}

absl::StatusOr<Plan> PlanFor(const ModelConfig& config, const FormatPlan& formats, std::vector<int> stages) {
  PlanRequest request;
  request.shape = config.shape;
  request.formats = formats;
  request.ranks = 0;
  for (int ranks : stages) {
    request.stages.push_back({ranks, 0, {}});
    request.ranks += ranks;
  }
  request.max_context = 256;
  request.kv_blocks = 16;
  return MakePlan(request);
}

int64_t RopeBytes(const ModelConfig& config) { return config.shape.head_dim / 2 * 4; }

// A tiny random model on disk, and its whole weights on one rank.
class TinyModel {
 public:
  explicit TinyModel(const std::string& shape, DType type = DType::kBF16) {
    RandomModelOptions options;
    options.dtype = type;
    options.shard_bytes_max = 400'000;  // Several shards.
    EXPECT_TRUE(WriteRandomModel(shape, dir(), options).ok());
    auto loaded = LoadModelConfig(dir());
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    config = *loaded;
  }
  std::string dir() const { return folder_ / "m"; }

  absl::StatusOr<DecoderWeights> Load(const FormatPlan& formats, const std::vector<int>& stages, int rank,
                                      Device& device) const {
    const auto plan = PlanFor(config, formats, stages);
    if (!plan.ok()) return plan.status();
    return LoadWeights(dir(), config, *plan, plan->ranks[rank], device);
  }

  ModelConfig config;

 private:
  TemporaryFolder folder_;
};

// Rows [rows) x columns [cols) of `part` are those of `whole` at the given places, integers and scales included.
void ExpectSlice(const Weight& part, int64_t part_row, const Weight& whole, Range rows, Range cols) {
  ASSERT_EQ(part.cols, cols.size());
  ASSERT_EQ(part.group, whole.group);
  for (int64_t i = 0; i < rows.size(); ++i) {
    const std::vector<float> expected = RowOf(whole, rows.begin + i), got = RowOf(part, part_row + i);
    for (int64_t k = 0; k < cols.size(); ++k)
      ASSERT_EQ(got[k], expected[cols.begin + k]) << "row " << i << " column " << k;
    if (!whole.scales.empty()) {
      ASSERT_EQ(part.scales.Row<float>(part_row + i)[0], whole.scales.Row<float>(rows.begin + i)[0]);
    }
    if (!whole.bias.empty()) {
      ASSERT_EQ(part.bias.Row<float>(part_row + i)[0], whole.bias.Row<float>(rows.begin + i)[0]);
    }
  }
}

void ExpectLayerSlice(const LayerWeights& part, const LayerWeights& whole, const ModelShape& shape,
                      const RankPlan& rank) {
  const int64_t d = shape.head_dim, q = shape.heads * d, kv = shape.kv_heads * d;
  const Range query{rank.heads.begin * d, rank.heads.end * d}, keys{rank.kv_heads.begin * d, rank.kv_heads.end * d};
  const Range hidden{0, shape.hidden};
  ASSERT_EQ(part.qkv.rows, query.size() + 2 * keys.size());
  ExpectSlice(part.qkv, 0, whole.qkv, query, hidden);
  ExpectSlice(part.qkv, query.size(), whole.qkv, {q + keys.begin, q + keys.end}, hidden);
  ExpectSlice(part.qkv, query.size() + keys.size(), whole.qkv, {q + kv + keys.begin, q + kv + keys.end}, hidden);
  ExpectSlice(part.attention_out, 0, whole.attention_out, hidden, query);
  ASSERT_EQ(part.gate_up.rows, 2 * rank.ffn.size());
  ExpectSlice(part.gate_up, 0, whole.gate_up, rank.ffn, hidden);
  ExpectSlice(part.gate_up, rank.ffn.size(), whole.gate_up, {shape.ffn + rank.ffn.begin, shape.ffn + rank.ffn.end},
              hidden);
  ExpectSlice(part.down, 0, whole.down, hidden, rank.ffn);
  EXPECT_TRUE(SameTensor(part.attention_norm, whole.attention_norm));
  EXPECT_TRUE(SameTensor(part.ffn_norm, whole.ffn_norm));
  EXPECT_TRUE(SameTensor(part.q_norm, whole.q_norm));
  EXPECT_TRUE(SameTensor(part.k_norm, whole.k_norm));
}

struct SliceCase {
  const char* shape;
  WeightFormat format;
  std::vector<int> stages;
};

class SliceTest : public ::testing::TestWithParam<SliceCase> {};

TEST_P(SliceTest, SlicesOfAllRanksAreTheWholeModel) {
  const SliceCase& test = GetParam();
  const TinyModel model(test.shape);
  const FormatPlan formats = AllIn(test.format);
  RecordingDevice whole_device;
  const auto whole = model.Load(formats, {1}, 0, whole_device);
  ASSERT_TRUE(whole.ok()) << whole.status();
  const auto plan = PlanFor(model.config, formats, test.stages);
  ASSERT_TRUE(plan.ok()) << plan.status();
  int64_t vocab_rows = 0;
  std::vector<int64_t> ffn(model.config.shape.layers), heads(model.config.shape.layers);
  for (const RankPlan& rank : plan->ranks) {
    RecordingDevice device;
    const auto part = LoadWeights(model.dir(), model.config, *plan, rank, device);
    ASSERT_TRUE(part.ok()) << part.status();
    // The planner counts exactly what a device is asked to hold, and the rotary frequencies, which the runner loads.
    EXPECT_EQ(device.ledger().total() + RopeBytes(model.config), rank.memory.weights);
    EXPECT_EQ(part->embedding.empty(), !rank.has_embedding);
    if (rank.has_embedding) {
      EXPECT_TRUE(SameTensor(part->embedding, whole->embedding));
    }
    ASSERT_EQ(static_cast<int64_t>(part->layers.size()), rank.layers.size());
    for (int64_t i = 0; i < rank.layers.size(); ++i) {
      ExpectLayerSlice(part->layers[i], whole->layers[rank.layers.begin + i], model.config.shape, rank);
      ffn[rank.layers.begin + i] += rank.ffn.size();
      heads[rank.layers.begin + i] += rank.heads.size();
    }
    const bool last = rank.layers.end == model.config.shape.layers;
    EXPECT_EQ(part->final_norm.empty(), !last);
    if (!last) continue;
    ExpectSlice(part->lm_head, 0, whole->lm_head, rank.vocab, {0, model.config.shape.hidden});
    vocab_rows += rank.vocab.size();
  }
  EXPECT_EQ(vocab_rows, model.config.shape.vocab);
  for (int64_t width : ffn) EXPECT_EQ(width, model.config.shape.ffn);
  for (int64_t count : heads) EXPECT_EQ(count, model.config.shape.heads);
}

INSTANTIATE_TEST_SUITE_P(Plans, SliceTest,
                         ::testing::Values(SliceCase{"tiny-qwen2", WeightFormat::kInt8, {2}},
                                           SliceCase{"tiny-qwen2", WeightFormat::kInt4, {3}},
                                           SliceCase{"tiny-qwen2", WeightFormat::kInt8, {4}},
                                           SliceCase{"tiny-qwen3", WeightFormat::kInt4, {5}},
                                           SliceCase{"tiny-qwen3", WeightFormat::kInt8, {4}},
                                           SliceCase{"tiny-llama", WeightFormat::kInt4, {2, 2}},
                                           SliceCase{"tiny-llama", WeightFormat::kInt8, {3, 1}},
                                           SliceCase{"tiny-qwen2", WeightFormat::kBF16, {1, 2}},
                                           SliceCase{"tiny-qwen3", WeightFormat::kF32, {3, 2}},
                                           SliceCase{"tiny-llama", WeightFormat::kInt4, {1, 1, 1, 1}}));

TEST(LoadWeightsTest, DenseWeightsAreThoseOfTheFile) {
  const TinyModel model("tiny-qwen2", DType::kF32);
  RecordingDevice device;
  const auto weights = model.Load(AllIn(WeightFormat::kF32, WeightFormat::kF32), {1}, 0, device);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const Json index = Json::parse(ReadFile(model.dir() + "/model.safetensors.index.json"));
  const auto tensor = [&](const std::string& name) {
    for (TestTensor& t :
         ParseHonestSafetensors(ReadFile(model.dir() + "/" + index["weight_map"][name].get<std::string>()))) {
      if (t.name == name) return t.bytes;
    }
    ADD_FAILURE() << name;
    return std::string();
  };
  const auto same = [](const std::string& bytes, const void* data) {
    return std::memcmp(bytes.data(), data, bytes.size()) == 0;
  };
  const LayerWeights& layer = weights->layers[1];
  EXPECT_TRUE(same(tensor("model.layers.1.self_attn.q_proj.weight"), layer.qkv.values.data));
  EXPECT_TRUE(same(tensor("model.layers.1.self_attn.v_proj.weight"), layer.qkv.values.Row<float>(192)));
  EXPECT_TRUE(same(tensor("model.layers.1.self_attn.k_proj.bias"), layer.qkv.bias.Row<float>(128)));
  EXPECT_TRUE(same(tensor("model.layers.1.mlp.up_proj.weight"), layer.gate_up.values.Row<float>(320)));
  EXPECT_TRUE(same(tensor("model.layers.1.mlp.down_proj.weight"), layer.down.values.data));
  EXPECT_TRUE(same(tensor("model.layers.1.input_layernorm.weight"), layer.attention_norm.data));
  EXPECT_TRUE(same(tensor("model.embed_tokens.weight"), weights->embedding.data));
  EXPECT_TRUE(same(tensor("lm_head.weight"), weights->lm_head.values.data));
  EXPECT_TRUE(same(tensor("model.norm.weight"), weights->final_norm.data));
}

TEST(LoadWeightsTest, ATiedHeadIsTheEmbedding) {
  const TinyModel model("tiny-llama");
  RecordingDevice device;
  const auto weights = model.Load(AllIn(WeightFormat::kBF16), {1}, 0, device);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_TRUE(SameTensor(weights->embedding, weights->lm_head.values));
}

TEST(LoadWeightsTest, TheGoldenModelsLoad) {
  for (const char* name : {"tiny-qwen2", "tiny-qwen2-tied", "tiny-llama", "tiny-qwen3"}) {
    const std::string dir = std::string(SHOAL_SOURCE_DIR) + "/tests/golden/" + name;
    const auto config = LoadModelConfig(dir);
    ASSERT_TRUE(config.ok()) << config.status();
    for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kInt8, WeightFormat::kInt4}) {
      const auto plan = PlanFor(*config, AllIn(format), {1});
      ASSERT_TRUE(plan.ok()) << plan.status();
      RecordingDevice device;
      const auto weights = LoadWeights(dir, *config, *plan, plan->ranks[0], device);
      EXPECT_TRUE(weights.ok()) << weights.status();
    }
  }
}

TEST(LoadWeightsTest, ProgressEndsAtTheTotal) {
  const TinyModel model("tiny-qwen3");
  const auto plan = PlanFor(model.config, AllIn(WeightFormat::kInt8), {2, 1});
  ASSERT_TRUE(plan.ok()) << plan.status();
  for (const RankPlan& rank : plan->ranks) {
    int64_t last = 0, all = -1;
    RecordingDevice device;
    const auto weights = LoadWeights(model.dir(), model.config, *plan, rank, device, [&](int64_t done, int64_t total) {
      EXPECT_GT(done, last);
      last = done;
      all = total;
      return absl::OkStatus();
    });
    ASSERT_TRUE(weights.ok());
    EXPECT_EQ(last, all);
  }
}

std::unique_ptr<Device> CpuDevice(int threads) {
  CpuDeviceOptions options;
  options.threads = threads;
  return CreateCpuDevice(options).value();
}

TEST(LoadWeightsTest, WhoeverListensCanEndIt) {
  const TinyModel model("tiny-qwen2");
  const auto plan = PlanFor(model.config, AllIn(WeightFormat::kInt8), {1});
  ASSERT_TRUE(plan.ok()) << plan.status();
  for (int threads : {1, 2}) {
    const auto device = CpuDevice(threads);
    int calls = 0;
    const absl::Status status =
        LoadWeights(model.dir(), model.config, *plan, plan->ranks[0], *device, [&](int64_t, int64_t) {
          return ++calls == 5 ? absl::CancelledError("enough") : absl::OkStatus();
        }).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(status.message(), "enough");
    EXPECT_EQ(calls, 5);
  }
}

// A rank's share is read whole by two threads, and by one: the same bytes, in every format.
TEST(LoadWeightsTest, ThreadsDoNotShow) {
  const TinyModel model("tiny-qwen2");
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    const auto plan = PlanFor(model.config, AllIn(format), {2});
    ASSERT_TRUE(plan.ok()) << plan.status();
    const auto one = CpuDevice(1), three = CpuDevice(3);
    const auto a = LoadWeights(model.dir(), model.config, *plan, plan->ranks[1], *one);
    const auto b = LoadWeights(model.dir(), model.config, *plan, plan->ranks[1], *three);
    ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    EXPECT_TRUE(SameTensor(a->embedding, b->embedding));
    EXPECT_TRUE(SameWeight(a->lm_head, b->lm_head));
    for (size_t i = 0; i < a->layers.size(); ++i) {
      EXPECT_TRUE(SameWeight(a->layers[i].qkv, b->layers[i].qkv));
      EXPECT_TRUE(SameWeight(a->layers[i].attention_out, b->layers[i].attention_out));
      EXPECT_TRUE(SameWeight(a->layers[i].gate_up, b->layers[i].gate_up));
      EXPECT_TRUE(SameWeight(a->layers[i].down, b->layers[i].down));
    }
  }
}

TEST(LoadWeightsTest, AnExceededBudgetNamesThePart) {
  const TinyModel model("tiny-qwen2");
  RecordingDevice device(300'000);
  const auto weights = model.Load(AllIn(WeightFormat::kInt8), {1}, 0, device);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("loading down of layer 0: budget"));
}

TEST(LoadWeightsTest, TheCpuDeviceAcceptsWhatIsLoaded) {
  const TinyModel model("tiny-qwen2");
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    auto device = CreateCpuDevice({});
    ASSERT_TRUE(device.ok()) << device.status();
    const auto plan = PlanFor(model.config, AllIn(format), {2});
    ASSERT_TRUE(plan.ok());
    const auto weights = LoadWeights(model.dir(), model.config, *plan, plan->ranks[1], **device);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ((*device)->ledger().used[static_cast<int>(MemoryKind::kWeights)] + RopeBytes(model.config),
              plan->ranks[1].memory.weights);
  }
}

// One model in a single file whose tensors a test may spoil.
class SpoilableModel {
 public:
  SpoilableModel() {
    RandomModelOptions options;
    options.dtype = DType::kF32;
    EXPECT_TRUE(WriteRandomModel("tiny-qwen2", dir(), options).ok());
    config = *LoadModelConfig(dir());
    tensors = ParseHonestSafetensors(ReadFile(dir() + "/model.safetensors"));
  }
  std::string dir() const { return folder_ / "m"; }
  TestTensor& operator[](const std::string& name) {
    for (TestTensor& t : tensors) {
      if (t.name == name) return t;
    }
    ADD_FAILURE() << name;
    return tensors[0];
  }
  absl::Status Load(WeightFormat format = WeightFormat::kInt8) {
    WriteFile(dir() + "/model.safetensors", MakeSafetensors(tensors));
    const auto plan = PlanFor(config, AllIn(format), {1});
    if (!plan.ok()) return plan.status();
    RecordingDevice device;
    return LoadWeights(dir(), config, *plan, plan->ranks[0], device).status();
  }
  std::string Message(WeightFormat format = WeightFormat::kInt8) { return std::string(Load(format).message()); }

  ModelConfig config;
  std::vector<TestTensor> tensors;

 private:
  TemporaryFolder folder_;
};

TEST(BrokenWeightsTest, EveryMissingTensorIsNamed) {
  SpoilableModel model;
  ASSERT_TRUE(model.Load().ok()) << model.Load();
  int layer_tensors = 0;
  for (const ModelTensor& tensor : ModelTensors(model.config.shape)) {
    if (tensor.layer > 0) continue;  // One layer stands for all.
    const std::vector<TestTensor> all = model.tensors;
    std::erase_if(model.tensors, [&](const TestTensor& t) { return t.name == tensor.name; });
    ASSERT_EQ(model.tensors.size() + 1, all.size());
    EXPECT_EQ(model.Load().code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(model.Message(), HasSubstr("tensor '" + tensor.name + "' is missing"));
    model.tensors = all;
    ++layer_tensors;
  }
  EXPECT_EQ(layer_tensors, 15);
}

TEST(BrokenWeightsTest, EveryWrongShapeIsNamed) {
  SpoilableModel model;
  for (const ModelTensor& tensor : ModelTensors(model.config.shape)) {
    if (tensor.layer > 0) continue;
    const TestTensor good = model[tensor.name];
    TestTensor& spoiled = model[tensor.name];
    spoiled.shape.push_back(1);
    EXPECT_THAT(model.Message(), HasSubstr("tensor '" + tensor.name + "' has shape ["));
    spoiled = good;
    spoiled.shape[0] /= 2;
    spoiled.bytes.resize(spoiled.bytes.size() / 2);
    EXPECT_THAT(model.Message(), HasSubstr("config.json asks for ["));
    spoiled = good;
  }
}

TEST(BrokenWeightsTest, WrongTypesAreNamed) {
  SpoilableModel model;
  for (const char* type : {"I32", "U32"}) {
    model["model.layers.0.mlp.up_proj.weight"].dtype = type;
    EXPECT_THAT(model.Message(), HasSubstr(std::string("has type ") + type + "; supported are F32, BF16 and F16"));
  }
  TestTensor& norm = model["model.norm.weight"];
  model["model.layers.0.mlp.up_proj.weight"].dtype = "F32";
  norm.dtype = "I8";
  norm.bytes.resize(norm.bytes.size() / 4);
  EXPECT_THAT(model.Message(), HasSubstr("'model.norm.weight' has type I8"));
}

TEST(BrokenWeightsTest, NanAndInfinityAreRefusedInEveryFormat) {
  const uint32_t bad[] = {0x7fc00000, 0xffc00001, 0x7f800000, 0xff800000};
  for (const char* name : {"model.layers.2.self_attn.o_proj.weight", "model.layers.0.self_attn.k_proj.bias",
                           "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"}) {
    SpoilableModel model;
    int i = 0;
    for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
      TestTensor& tensor = model[name];
      std::memcpy(tensor.bytes.data() + tensor.bytes.size() / 2, &bad[i++], 4);
      EXPECT_THAT(model.Message(format), HasSubstr(std::string("tensor '") + name + "' holds NaN or infinity"));
    }
  }
}

TEST(BrokenWeightsTest, ValuesBeyondBf16AreRefusedThere) {
  SpoilableModel model;
  const float big = 3.4e38f;
  std::memcpy(model["lm_head.weight"].bytes.data(), &big, 4);
  EXPECT_THAT(model.Message(WeightFormat::kBF16), HasSubstr("beyond the range of bf16"));
  EXPECT_TRUE(model.Load(WeightFormat::kF32).ok());
}

TEST(BrokenWeightsTest, ExtraTensorsThatMatterAreRefusedOthersIgnored) {
  SpoilableModel model;
  const std::vector<TestTensor> good = model.tensors;
  model.tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {1}, "1234"});
  model.tensors.push_back({"visual.patch_embed", "F32", {1}, "1234"});
  EXPECT_TRUE(model.Load().ok()) << model.Load();
  model.tensors = good;
  model.tensors.push_back({"model.layers.0.self_attn.o_proj.bias", "F32", {1}, "1234"});
  EXPECT_THAT(model.Message(), HasSubstr("is a bias that Qwen2ForCausalLM does not have"));
  model.tensors = good;
  model.tensors.push_back({"model.layers.4.mlp.up_proj.weight", "F32", {1}, "1234"});
  EXPECT_THAT(model.Message(), HasSubstr("is of a layer that config.json, with its 4 layers, does not have"));
}

TEST(BrokenWeightsTest, AFileCutShortIsRefused) {
  SpoilableModel model;
  ASSERT_TRUE(model.Load().ok());
  const std::string path = model.dir() + "/model.safetensors", bytes = ReadFile(path);
  const auto plan = PlanFor(model.config, AllIn(WeightFormat::kInt8), {1});
  for (size_t keep : {size_t{0}, size_t{7}, size_t{8}, size_t{500}, bytes.size() / 2, bytes.size() - 1}) {
    WriteFile(path, bytes.substr(0, keep));
    RecordingDevice device;
    const auto weights = LoadWeights(model.dir(), model.config, *plan, plan->ranks[0], device);
    EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument) << keep;
    EXPECT_THAT(std::string(weights.status().message()), HasSubstr("model.safetensors"));
  }
}

TEST(LoadWeightsTest, Float16SourcesLoad) {
  SpoilableModel model;
  std::vector<float> expected;
  for (TestTensor& tensor : model.tensors) {
    std::string halves;
    for (size_t i = 0; i < tensor.bytes.size(); i += 4) {
      float value;
      std::memcpy(&value, tensor.bytes.data() + i, 4);
      const uint16_t half = FloatToHalf(value);
      halves.append(reinterpret_cast<const char*>(&half), 2);
      if (tensor.name == "lm_head.weight") expected.push_back(HalfToFloat(half));
    }
    tensor.dtype = "F16";
    tensor.bytes = halves;
  }
  WriteFile(model.dir() + "/model.safetensors", MakeSafetensors(model.tensors));
  const auto plan = PlanFor(model.config, AllIn(WeightFormat::kF32), {1});
  RecordingDevice device;
  const auto weights = LoadWeights(model.dir(), model.config, *plan, plan->ranks[0], device);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(std::memcmp(weights->lm_head.values.data, expected.data(), expected.size() * 4), 0);
}

TEST(LoadWeightsTest, FormatsThatDoNotSuitTheSizesAreRefused) {
  const TinyModel model("tiny-qwen2");
  const auto plan = PlanFor(model.config, AllIn(WeightFormat::kInt8), {1});
  ASSERT_TRUE(plan.ok());
  RecordingDevice device;
  Plan odd = *plan;
  odd.formats.embedding = WeightFormat::kInt8;
  EXPECT_THAT(std::string(LoadWeights(model.dir(), model.config, odd, odd.ranks[0], device).status().message()),
              HasSubstr("format of embedding is int8"));
  ModelConfig narrow = model.config;
  narrow.shape.head_dim = 8;
  EXPECT_THAT(std::string(LoadWeights(model.dir(), narrow, *plan, plan->ranks[0], device).status().message()),
              HasSubstr("format of attention_out is int8, which needs widths and heads in multiples of 32"));
}

}  // namespace
}  // namespace shoal
