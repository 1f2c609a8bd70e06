#include "tests/gpu/bench_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/random_model_shapes.h"
#include "parallel/memory_model.h"
#include "parallel/single_communicator.h"

namespace shoal {
namespace {

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Bytes that look random, fast (xorshift64*, Vigna 2016).
class Noise {
 public:
  template <typename T>
  std::vector<T> Fill(int64_t n) {
    std::vector<T> values(n);
    const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
    for (int64_t i = 0; i < bytes; i += 8) {
      const uint64_t word = Next();
      std::memcpy(reinterpret_cast<char*>(values.data()) + i, &word, std::min<int64_t>(8, bytes - i));
    }
    return values;
  }

 private:
  uint64_t Next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1d;
  }
  uint64_t state_ = 88172645463325252;
};

// A matrix whose entries have this deviation.
struct HostMatrix {
  HostWeight host;
  std::vector<int8_t> values;
  std::vector<float> scales, bias;
  std::vector<uint8_t> n;
  std::vector<int8_t> m;

  HostMatrix(Noise& noise, WeightFormat format, int64_t rows, int64_t cols, int64_t group, double deviation,
             bool with_bias = false) {
    const bool int4 = format == WeightFormat::kInt4;
    values = noise.Fill<int8_t>(rows * cols / (int4 ? 2 : 1));
    if (!int4) std::replace(values.begin(), values.end(), int8_t{-128}, int8_t{127});
    if (int4) {
      n.resize(rows * cols / kWeightGroup);
      m.resize(n.size());
      for (size_t i = 0; i < n.size(); ++i) {
        n[i] = static_cast<uint8_t>(12 + i % 5);
        m[i] = static_cast<int8_t>(-15 * n[i] / 2);  // Around zero: 15 n + m is below 128.
      }
    }
    // Uniform numbers: a byte deviates by 74, a nibble by 4.6, times n.
    scales.assign(rows, static_cast<float>(deviation / (int4 ? 4.6 * 14 : 74)));
    if (with_bias) bias.assign(rows, 0.1f);
    host.format = format;
    host.rows = rows;
    host.cols = cols;
    host.group = group;
    host.values = values.data();
    host.scales = scales.data();
    host.group_scales = int4 ? n.data() : nullptr;
    host.group_offsets = int4 ? m.data() : nullptr;
    host.bias = with_bias ? bias.data() : nullptr;
  }
};

}  // namespace

absl::StatusOr<BenchPlan> MakeBenchPlan(const BenchModelOptions& options) {
  const auto files = MakeRandomModelFiles(options.shape, "bfloat16");
  if (!files.has_value()) return absl::InvalidArgumentError(StrCat("no shape '", options.shape, "'"));
  BenchPlan bench;
  ASSIGN_OR_RETURN(bench.config, ParseModelConfig(files->config, files->generation, options.shape));
  PlanRequest request;
  request.shape = bench.config.shape;
  FormatPlan& f = request.formats;
  f.qkv = f.attention_out = f.gate_up = f.down = f.lm_head = options.format;
  request.memory_budget = {options.memory_budget};
  request.reserved_bytes = options.reserved_bytes;
  request.kv_tokens_default = options.kv_tokens;
  request.max_step_tokens = options.max_step_tokens;
  request.max_sequences = options.max_sequences;
  request.max_context = std::min(options.max_context, bench.config.max_position_embeddings);
  ASSIGN_OR_RETURN(bench.plan, MakePlan(request));
  return bench;
}

BenchModel::BenchModel(BenchPlan bench, Device& device)
    : config_(std::move(bench.config)), plan_(std::move(bench.plan)), device_(device) {}

absl::StatusOr<std::unique_ptr<BenchModel>> BenchModel::Create(const BenchModelOptions& options, Device& device) {
  ASSIGN_OR_RETURN(BenchPlan bench, MakeBenchPlan(options));
  std::unique_ptr<BenchModel> model(new BenchModel(std::move(bench), device));
  RETURN_IF_ERROR(model->Load(options.format));
  RETURN_IF_ERROR(model->Start());
  return model;
}

absl::Status BenchModel::Load(WeightFormat format) {
  const ModelShape& s = plan_.shape;
  const int64_t hidden = s.hidden, heads = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  const double out_share = 2.0 * s.layers;  // What the residual stream gains per layer, as in random_model.cc.
  Noise noise;
  const HostMatrix qkv(noise, format, heads + 2 * kv, hidden, HiddenGroup(s), 1 / std::sqrt(hidden), s.qkv_bias);
  const HostMatrix attention_out(noise, format, hidden, heads, AttentionGroup(s), 1 / std::sqrt(heads * out_share));
  const HostMatrix gate_up(noise, format, 2 * s.ffn, hidden, HiddenGroup(s), 1 / std::sqrt(hidden));
  const HostMatrix down(noise, format, hidden, s.ffn, FfnGroup(s), 1 / std::sqrt(s.ffn * out_share));
  const HostMatrix head(noise, format, s.vocab, hidden, HiddenGroup(s), 3 / std::sqrt(hidden));
  // Of magnitude 0.5 to 1: any sign and mantissa with one exponent.
  std::vector<uint16_t> embedding = noise.Fill<uint16_t>(s.vocab * hidden);
  for (uint16_t& x : embedding) x = (x & 0x807f) | 0x3f00;
  std::vector<float> gain(std::max(hidden, s.head_dim), 1.0f);
  const auto vector = [&](int64_t n) { return device_.LoadTensor(MakeTensor(gain.data(), DType::kF32, {n})); };

  const int64_t before = device_.ledger().total();
  const double start = Seconds();
  ASSIGN_OR_RETURN(weights_.embedding,
                   device_.LoadTensor(MakeTensor(embedding.data(), DType::kBF16, {s.vocab, hidden})));
  for (int i = 0; i < s.layers; ++i) {
    LayerWeights& layer = weights_.layers.emplace_back();
    ASSIGN_OR_RETURN(layer.attention_norm, vector(hidden));
    ASSIGN_OR_RETURN(layer.ffn_norm, vector(hidden));
    if (s.qk_norm) {
      ASSIGN_OR_RETURN(layer.q_norm, vector(s.head_dim));
      ASSIGN_OR_RETURN(layer.k_norm, vector(s.head_dim));
    }
    ASSIGN_OR_RETURN(layer.qkv, device_.LoadWeight(qkv.host));
    ASSIGN_OR_RETURN(layer.attention_out, device_.LoadWeight(attention_out.host));
    ASSIGN_OR_RETURN(layer.gate_up, device_.LoadWeight(gate_up.host));
    ASSIGN_OR_RETURN(layer.down, device_.LoadWeight(down.host));
  }
  ASSIGN_OR_RETURN(weights_.final_norm, vector(hidden));
  ASSIGN_OR_RETURN(weights_.lm_head, device_.LoadWeight(head.host));
  RETURN_IF_ERROR(device_.Synchronize());
  upload_seconds_ = Seconds() - start;
  upload_bytes_ = device_.ledger().total() - before;
  return absl::OkStatus();
}

absl::Status BenchModel::Start() {
  const RankPlan& rank = plan_.ranks[0];
  ASSIGN_OR_RETURN(kv_, AllocateKvCache(plan_, rank, device_));
  ASSIGN_OR_RETURN(activations_, AllocateActivations(plan_, rank, device_));
  std::vector<float> inv_freq = RopeInverseFrequencies(config_.rope, plan_.shape.head_dim);
  const int64_t half = static_cast<int64_t>(inv_freq.size());
  ASSIGN_OR_RETURN(const Tensor frequencies, device_.LoadTensor(MakeTensor(inv_freq.data(), DType::kF32, {half})));
  RETURN_IF_ERROR(device_.Synchronize());
  alone_ = CreateSingleCommunicator();
  context_ = std::make_unique<DecoderContext>(DecoderContext{.config = config_,
                                                             .rank = rank,
                                                             .weights = weights_,
                                                             .heads = HeadsOf(plan_.shape, rank),
                                                             .inv_freq = frequencies,
                                                             .kv = kv_.layers,
                                                             .act = activations_.views,
                                                             .ops = device_.ops(),
                                                             .tp = *alone_});
  return absl::OkStatus();
}

int64_t BenchModel::step_weight_bytes() const {
  const RankPlan& rank = plan_.ranks[0];
  return TotalWeightBytes(plan_.shape, plan_.formats, rank) - EmbeddingBytes(plan_.shape, plan_.formats, rank);
}

int64_t BenchModel::step_kv_bytes(int sequences, int64_t context) const {
  const ModelShape& s = plan_.shape;
  return sequences * context * s.layers * 2 * s.kv_heads * s.head_dim * SizeOf(plan_.formats.kv);
}

double BenchModel::step_operations(int64_t tokens) const {
  const ModelShape& s = plan_.shape;
  const int64_t heads = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  const int64_t layer = s.hidden * (heads + 2 * kv) + heads * s.hidden + 3 * s.hidden * s.ffn;
  return 2.0 * static_cast<double>(layer * s.layers * tokens + s.hidden * s.vocab);
}

absl::Status BenchModel::SetStep(int sequences, int tokens, int64_t context) {
  const int64_t block = plan_.kv_block_tokens, columns = activations_.views.block_table.cols();
  const int64_t blocks = (context + block - 1) / block, total = int64_t{sequences} * tokens;
  if (tokens > context || blocks > columns || blocks * sequences > plan_.kv_blocks || total > plan_.max_step_tokens ||
      sequences > plan_.max_sequences) {
    return absl::ResourceExhaustedError(
        StrCat("the plan does not hold ", sequences, " sequences of ", tokens, " tokens at ", context, " keys"));
  }
  for (auto* list : {&ids_, &positions_, &slots_, &context_len_, &sample_rows_}) list->clear();
  query_start_ = {0};
  block_table_.assign(sequences * columns, 0);
  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t i = 0; i < blocks; ++i) block_table_[s * columns + i] = static_cast<int32_t>(s * blocks + i);
    for (int64_t position = context - tokens; position < context; ++position) {
      ids_.push_back(static_cast<int32_t>((s * 7919 + position * 104729) % plan_.shape.vocab));
      positions_.push_back(static_cast<int32_t>(position));
      slots_.push_back(static_cast<int32_t>((s * blocks + position / block) * block + position % block));
    }
    query_start_.push_back(static_cast<int32_t>(ids_.size()));
    context_len_.push_back(static_cast<int32_t>(context));
    sample_rows_.push_back(static_cast<int32_t>(ids_.size()) - 1);
  }
  QueueInputs();
  return device_.Synchronize();
}

void BenchModel::QueueInputs() {
  const Activations& a = activations_.views;
  const auto copy = [&](const std::vector<int32_t>& host, Tensor whole) {
    const Tensor t = whole.Rows(static_cast<int64_t>(host.size()));
    device_.CopyIn(host.data(), t);
    return t;
  };
  input_.ids = copy(ids_, a.ids);
  input_.positions = copy(positions_, a.positions);
  input_.kv_slots = copy(slots_, a.kv_slots);
  input_.sample_rows = copy(sample_rows_, a.sample_rows);
  input_.attention.query_start = copy(query_start_, a.query_start);
  input_.attention.context_len = copy(context_len_, a.context_len);
  input_.attention.block_table = a.block_table.Rows(static_cast<int64_t>(context_len_.size()));
  device_.CopyIn(block_table_.data(), input_.attention.block_table);
}

absl::Status BenchModel::QueueForward() { return Forward(*context_, input_); }

absl::Status BenchModel::QueueReplay(uint64_t key) {
  return device_.Replay(key, [this] { return QueueForward(); });
}

void BenchModel::QueueTopK(int k) {
  const Activations& a = activations_.views;
  const int64_t rows = static_cast<int64_t>(sample_rows_.size());
  device_.ops().TopK(a.logits.Rows(rows), MakeTensor(a.top_values.data, DType::kF32, {rows, k}),
                     MakeTensor(a.top_ids.data, DType::kI32, {rows, k}));
}

void BenchModel::QueueCandidates(int k) {
  const Activations& a = activations_.views;
  const int64_t rows = static_cast<int64_t>(sample_rows_.size());
  top_values_.resize(rows * k);
  top_ids_.resize(rows * k);
  QueueTopK(k);
  device_.CopyOut(MakeTensor(a.top_values.data, DType::kF32, {rows, k}), top_values_.data());
  device_.CopyOut(MakeTensor(a.top_ids.data, DType::kI32, {rows, k}), top_ids_.data());
}

absl::StatusOr<std::vector<float>> BenchModel::Logits() {
  const Tensor logits = activations_.views.logits.Rows(static_cast<int64_t>(sample_rows_.size()));
  std::vector<float> values(logits.rows() * logits.cols());
  device_.CopyOut(logits, values.data());
  RETURN_IF_ERROR(device_.Synchronize());
  return values;
}

}  // namespace shoal
