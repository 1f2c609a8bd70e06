#include "model/weights.h"

#include <optional>
#include <utility>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/checkpoint.h"
#include "model/loader_matrix.h"
#include "model/loader_tensors.h"
#include "model/prepare.h"
#include "model/weight_table.h"

namespace shoal {
namespace {

// Loads one rank's part, target after target.
class RankLoader {
 public:
  RankLoader(const Checkpoint& checkpoint, bool prepared, const ModelConfig& config, const Plan& plan,
             const RankPlan& rank, Device& device, const LoadProgress& progress)
      : checkpoint_(checkpoint),
        loader_(checkpoint, prepared),
        config_(config),
        plan_(plan),
        rank_(rank),
        device_(device),
        progress_(progress) {}

  absl::StatusOr<DecoderWeights> Load() {
    counter_.emplace(progress_, CountBytes());
    DecoderWeights weights;
    if (rank_.has_embedding) {
      ASSIGN_OR_RETURN(weights.embedding, LoadEmbedding());
    }
    for (int layer = static_cast<int>(rank_.layers.begin); layer < rank_.layers.end; ++layer) {
      ASSIGN_OR_RETURN(LayerWeights loaded, LoadLayer(layer));
      weights.layers.push_back(std::move(loaded));
    }
    if (IsLastStage()) {
      ASSIGN_OR_RETURN(weights.final_norm, LoadNorm(WeightTarget::kFinalNorm, -1));
      ASSIGN_OR_RETURN(weights.lm_head, LoadMatrix(WeightTarget::kHead, -1));
    }
    RETURN_IF_ERROR(counter_->Finish());
    return weights;
  }

 private:
  bool IsLastStage() const { return rank_.layers.end == config_.shape.layers; }

  std::vector<TensorSlice> Slices(WeightTarget target, int layer, bool bias) const {
    std::vector<TensorSlice> slices;
    for (ModelTensor& tensor : TensorsOf(config_.shape, target, layer, bias)) {
      const Range rows = RowsOf(tensor, config_.shape, rank_), cols = ColsOf(tensor, config_.shape, rank_);
      std::string name = StoredName(tensor, config_, checkpoint_);
      slices.push_back({std::move(tensor), std::move(name), rows, cols});
    }
    return slices;
  }

  int64_t CountBytes() const {
    int64_t bytes = 0;
    const auto add = [&](WeightTarget target, int layer) {
      for (bool bias : {false, true}) {
        const WeightFormat format = bias ? WeightFormat::kF32 : FormatOf(target, plan_.formats);
        for (const TensorSlice& slice : Slices(target, layer, bias)) bytes += loader_.BytesToRead(slice, format);
      }
    };
    if (rank_.has_embedding) add(WeightTarget::kEmbedding, -1);
    for (int layer = static_cast<int>(rank_.layers.begin); layer < rank_.layers.end; ++layer) {
      for (WeightTarget target :
           {WeightTarget::kAttentionNorm, WeightTarget::kFfnNorm, WeightTarget::kQNorm, WeightTarget::kKNorm,
            WeightTarget::kQkv, WeightTarget::kAttentionOut, WeightTarget::kGateUp, WeightTarget::kDown}) {
        add(target, layer);
      }
    }
    if (IsLastStage()) {
      add(WeightTarget::kFinalNorm, -1);
      add(WeightTarget::kHead, -1);
    }
    return bytes;
  }

  int64_t BytesToRead(const std::vector<TensorSlice>& slices, WeightFormat format) const {
    int64_t bytes = 0;
    for (const TensorSlice& slice : slices) bytes += loader_.BytesToRead(slice, format);
    return bytes;
  }

  // The slices as a source that reports what has been read.
  absl::StatusOr<WeightSource> Open(const std::vector<TensorSlice>& slices, WeightFormat format) {
    ASSIGN_OR_RETURN(WeightSource source, loader_.Open(slices, format));
    const int64_t row_bytes = source.rows == 0 ? 0 : BytesToRead(slices, format) / source.rows;
    source.read = [this, row_bytes, read = std::move(source.read)](int64_t begin, int64_t end, const HostRows& out) {
      RETURN_IF_ERROR(read(begin, end, out));
      return counter_->Add((end - begin) * row_bytes);
    };
    return source;
  }

  // Says which part of the model a device error is about; what went wrong with a file says so itself. Waits for the
  // copy, because the host memory goes away.
  template <typename T>
  absl::StatusOr<T> Copied(absl::StatusOr<T> result, WeightTarget target, int layer) {
    absl::Status status = result.status();
    if (!status.ok() && !absl::IsResourceExhausted(status)) return status;
    if (status.ok()) status = device_.Synchronize();
    if (status.ok()) return result;
    const std::string place = layer < 0 ? "" : StrCat(" of layer ", layer);
    return absl::Status(status.code(),
                        ToAbsl(StrCat("loading ", WeightTargetName(target), place, ": ",
                                      std::string_view(status.message().data(), status.message().size()))));
  }

  absl::StatusOr<Weight> LoadMatrix(WeightTarget target, int layer) {
    ASSIGN_OR_RETURN(WeightSource source, Open(Slices(target, layer, false), FormatOf(target, plan_.formats)));
    if (source.rows == 0 || source.cols == 0) return Weight{};  // A rank without a share of it.
    source.group = GroupOf(target, config_.shape);
    const std::vector<TensorSlice> biases = Slices(target, layer, true);
    std::vector<float> bias;
    if (!biases.empty()) {
      ASSIGN_OR_RETURN(bias, loader_.LoadVector(biases));
      source.bias = bias.data();
      RETURN_IF_ERROR(counter_->Add(BytesToRead(biases, WeightFormat::kF32)));
    }
    return Copied(device_.LoadWeight(source), target, layer);
  }

  absl::StatusOr<Tensor> LoadNorm(WeightTarget target, int layer) {
    const std::vector<TensorSlice> slices = Slices(target, layer, false);
    if (slices.empty()) return Tensor{};
    ASSIGN_OR_RETURN(std::vector<float> gain, loader_.LoadVector(slices));
    RETURN_IF_ERROR(counter_->Add(BytesToRead(slices, WeightFormat::kF32)));
    const Tensor host = MakeTensor(gain.data(), DType::kF32, {static_cast<int64_t>(gain.size())});
    return Copied(device_.LoadTensor(host), target, layer);
  }

  absl::StatusOr<Tensor> LoadEmbedding() {
    const WeightFormat format = plan_.formats.embedding;
    ASSIGN_OR_RETURN(const WeightSource source, Open(Slices(WeightTarget::kEmbedding, -1, false), format));
    const DType type = format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
    TableSource table;
    table.shape = MakeTensor(nullptr, type, {source.rows, source.cols});
    table.read = [&](int64_t begin, int64_t end, std::byte* out) { return source.read(begin, end, {.values = out}); };
    return Copied(device_.LoadTensor(table), WeightTarget::kEmbedding, -1);
  }

  absl::StatusOr<LayerWeights> LoadLayer(int layer) {
    LayerWeights weights;
    ASSIGN_OR_RETURN(weights.attention_norm, LoadNorm(WeightTarget::kAttentionNorm, layer));
    ASSIGN_OR_RETURN(weights.ffn_norm, LoadNorm(WeightTarget::kFfnNorm, layer));
    ASSIGN_OR_RETURN(weights.q_norm, LoadNorm(WeightTarget::kQNorm, layer));
    ASSIGN_OR_RETURN(weights.k_norm, LoadNorm(WeightTarget::kKNorm, layer));
    ASSIGN_OR_RETURN(weights.qkv, LoadMatrix(WeightTarget::kQkv, layer));
    ASSIGN_OR_RETURN(weights.attention_out, LoadMatrix(WeightTarget::kAttentionOut, layer));
    ASSIGN_OR_RETURN(weights.gate_up, LoadMatrix(WeightTarget::kGateUp, layer));
    ASSIGN_OR_RETURN(weights.down, LoadMatrix(WeightTarget::kDown, layer));
    return weights;
  }

  const Checkpoint& checkpoint_;
  const MatrixLoader loader_;
  const ModelConfig& config_;
  const Plan& plan_;
  const RankPlan& rank_;
  Device& device_;
  const LoadProgress& progress_;
  std::optional<ReadCounter> counter_;
};

}  // namespace

absl::StatusOr<DecoderWeights> LoadWeights(const std::string& model_dir, const ModelConfig& config, const Plan& plan,
                                           const RankPlan& rank, Device& device, const LoadProgress& progress) {
  RETURN_IF_ERROR(CheckFormats(config.shape, plan.formats));
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model_dir));
  ASSIGN_OR_RETURN(const std::optional<FormatPlan> prepared, PreparedFormats(*checkpoint, config.shape));
  if (prepared.has_value()) RETURN_IF_ERROR(CheckPrepared(model_dir, *prepared, plan.formats));
  RETURN_IF_ERROR(CheckTensors(*checkpoint, config, plan.formats, prepared.has_value(), rank.rank == 0));
  RankLoader loader(*checkpoint, prepared.has_value(), config, plan, rank, device, progress);
  ASSIGN_OR_RETURN(DecoderWeights weights, loader.Load());
  RETURN_IF_ERROR(checkpoint->CheckUnchanged());
  return weights;
}

}  // namespace shoal
