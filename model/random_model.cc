#include "model/random_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "base/cores.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/thread_pool.h"
#include "kernels/half.h"
#include "kernels/weight_source.h"
#include "model/random_model_shapes.h"
#include "model/safetensors_writer.h"
#include "model/weight_table.h"

namespace shoal {
namespace {

// Weights per chunk of work; a multiple of 4, because one hash makes four.
constexpr int64_t kChunk = 1 << 18;
constexpr int kThreadsMax = 64;

// A 64-bit number from (key, counter): the finalizer of SplitMix64 (Steele, Lea, Flood 2014) on a Weyl sequence.
uint64_t Hash(uint64_t key, uint64_t counter) {
  uint64_t z = key + counter * 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

// x with Phi(x) = p, to 1e-9 or so: Newton's method on erfc.
double NormalQuantile(double p) {
  double x = 0;
  for (int i = 0; i < 60; ++i) {
    const double error = 0.5 * std::erfc(-x / std::sqrt(2.0)) - p;
    const double density = std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
    // A bounded step cannot run away where the density is small.
    const double step = std::fmax(-0.5, std::fmin(0.5, error / density));
    x -= step;
    if (std::fabs(step) < 1e-12) break;
  }
  return x;
}

// The middle values of 65,536 equally likely slices of the normal distribution: a table look-up per weight, four per
// hash.
const std::vector<float>& NormalTable() {
  static const std::vector<float> table = [] {
    std::vector<float> values(1 << 16);
    for (int i = 0; i < 1 << 15; ++i) {
      const auto x = static_cast<float>(NormalQuantile((i + 0.5) / (1 << 16)));
      values[i] = x;
      values[(1 << 16) - 1 - i] = -x;
    }
    return values;
  }();
  return table;
}

// mean + deviation * normal.
struct Distribution {
  double mean = 0;
  double deviation = 0;
};

// Keeps activations near 1: products preserve the variance, the two that add to the residual stream leave each layer
// its share of it, and a head's logits have deviation 3.
Distribution DistributionOf(const ModelTensor& tensor, const ModelConfig& config) {
  const double layers = config.shape.layers, hidden = config.shape.hidden;
  if (tensor.row->bias) return {0, 0.1};
  if (tensor.row->vector()) return {1, 0.1};
  switch (tensor.row->target) {
    case WeightTarget::kEmbedding:
      return {0, config.tie_word_embeddings ? 3 / std::sqrt(hidden) : 1};
    case WeightTarget::kHead:
      return {0, 3 / std::sqrt(hidden)};
    case WeightTarget::kAttentionOut:
    case WeightTarget::kDown:
      return {0, 1 / std::sqrt(static_cast<double>(tensor.cols) * 2 * layers)};
    default:
      return {0, 1 / std::sqrt(static_cast<double>(tensor.cols))};
  }
}

// Fills [begin, end) of a tensor with table entries; `begin` is a multiple of 4.
template <typename T>
void Fill(const std::vector<T>& table, uint64_t key, int64_t begin, int64_t end, std::vector<T>& out) {
  out.resize(static_cast<size_t>(end - begin + 3) / 4 * 4);
  for (int64_t i = begin; i < end; i += 4) {
    const uint64_t bits = Hash(key, static_cast<uint64_t>(i / 4));
    T* const four = out.data() + (i - begin);
    for (int j = 0; j < 4; ++j) four[j] = table[bits >> (16 * j) & 0xffff];
  }
  out.resize(static_cast<size_t>(end - begin));
}

template <typename T>
absl::Status WriteTensor(const ModelTensor& tensor, const std::vector<T>& table, uint64_t key, size_t index,
                         SafetensorsWriter& writer) {
  ThreadPool pool(std::min(CoresAllowed(), kThreadsMax));
  return ForChunks(pool, tensor.rows * tensor.cols, kChunk, kChunk, [&](int64_t begin, int64_t end) {
    std::vector<T> values;
    Fill(table, key, begin, end, values);
    return writer.Write(index, static_cast<uint64_t>(begin) * sizeof(T), std::as_bytes(std::span(values)));
  });
}

absl::Status WriteRandomTensor(const ModelTensor& tensor, const ModelConfig& config, const RandomModelOptions& options,
                               size_t index, SafetensorsWriter& writer) {
  const Distribution distribution = DistributionOf(tensor, config);
  std::vector<float> table = NormalTable();
  for (float& value : table) value = static_cast<float>(distribution.mean + distribution.deviation * value);
  const uint64_t key = Hash(options.seed, index + 1);
  if (options.dtype == DType::kF32) return WriteTensor(tensor, table, key, index, writer);
  std::vector<uint16_t> bf16(table.size());
  for (size_t i = 0; i < table.size(); ++i) bf16[i] = FloatToBf16(table[i]);
  return WriteTensor(tensor, bf16, key, index, writer);
}

}  // namespace

std::vector<std::string_view> RandomModelShapes() { return RandomModelShapeNames(); }

absl::Status WriteRandomModel(std::string_view shape, const std::string& out_dir, const RandomModelOptions& options) {
  if (options.dtype != DType::kBF16 && options.dtype != DType::kF32) {
    return absl::InvalidArgumentError("random models are written in bf16 or f32");
  }
  const bool f32 = options.dtype == DType::kF32;
  const auto files = MakeRandomModelFiles(shape, f32 ? "float32" : "bfloat16");
  if (!files.has_value()) {
    std::string names;
    for (std::string_view name : RandomModelShapeNames()) names += StrCat(names.empty() ? "" : ", ", name);
    return absl::InvalidArgumentError(StrCat("'", shape.substr(0, 64), "' is not a known shape; there are ", names));
  }
  ASSIGN_OR_RETURN(const ModelConfig config, ParseModelConfig(files->config, files->generation, out_dir));
  ASSIGN_OR_RETURN(const std::unique_ptr<PendingFolder> folder, PendingFolder::Create(out_dir));
  RETURN_IF_ERROR(WriteSmallFile(StrCat(folder->temporary(), "/config.json"), files->config));
  RETURN_IF_ERROR(WriteSmallFile(StrCat(folder->temporary(), "/generation_config.json"), files->generation));
  RETURN_IF_ERROR(WriteSmallFile(StrCat(folder->temporary(), "/tokenizer.json"), files->tokenizer));
  RETURN_IF_ERROR(WriteSmallFile(StrCat(folder->temporary(), "/tokenizer_config.json"), files->tokenizer_config));

  std::vector<ModelTensor> tensors;
  std::vector<TensorToWrite> outputs;
  int64_t total = 0, done = 0;
  for (ModelTensor& tensor : ModelTensors(config.shape)) {
    if (config.tie_word_embeddings && tensor.row->target == WeightTarget::kHead) continue;
    std::vector<uint64_t> sizes = {static_cast<uint64_t>(tensor.rows)};
    if (!tensor.row->vector()) sizes.push_back(static_cast<uint64_t>(tensor.cols));
    outputs.push_back({tensor.name, f32 ? kSafeF32 : kSafeBF16, std::move(sizes)});
    total += static_cast<int64_t>(outputs.back().bytes());
    tensors.push_back(std::move(tensor));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> writer,
                   SafetensorsWriter::Create(folder->temporary(), outputs, {{"format", "pt"}},
                                             static_cast<uint64_t>(options.shard_bytes_max)));
  for (size_t i = 0; i < tensors.size(); ++i) {
    RETURN_IF_ERROR(WriteRandomTensor(tensors[i], config, options, i, *writer));
    done += static_cast<int64_t>(outputs[i].bytes());
    if (options.progress) RETURN_IF_ERROR(options.progress(done, total));
  }
  RETURN_IF_ERROR(writer->Finish());
  return folder->Commit();
}

}  // namespace shoal
