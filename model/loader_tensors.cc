#include "model/loader_tensors.h"

#include <array>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/loader_matrix.h"
#include "model/prepare.h"

namespace shoal {
namespace {

constexpr std::array<WeightTarget, 6> kMatrices = {WeightTarget::kQkv,    WeightTarget::kAttentionOut,
                                                   WeightTarget::kGateUp, WeightTarget::kDown,
                                                   WeightTarget::kHead,   WeightTarget::kEmbedding};

// Names a quantized tensor has in a prepared folder, or just the name.
std::vector<std::string> NamesOf(const std::string& name, WeightFormat format, bool prepared) {
  if (!prepared || !IsQuantized(format)) return {name};
  std::vector<std::string> names = {StrCat(name, ValuesSuffix(format)), StrCat(name, kScaleSuffix)};
  if (format == WeightFormat::kInt4) {
    names.push_back(StrCat(name, kGroupScalesSuffix));
    names.push_back(StrCat(name, kGroupOffsetsSuffix));
  }
  return names;
}

// The layer in "model.layers.12.mlp...", or -1.
int LayerOf(const std::string& name) {
  absl::string_view rest = name;
  int layer = -1;
  if (!absl::ConsumePrefix(&rest, "model.layers.")) return -1;
  return absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) ? layer : -1;
}

}  // namespace

absl::Status CheckFormats(const ModelShape& shape, const FormatPlan& formats) {
  if (IsQuantized(formats.embedding)) {
    return absl::InvalidArgumentError(
        StrCat("format of embedding is ", WeightFormatName(formats.embedding), "; supported are f32 and bf16"));
  }
  for (WeightTarget target : kMatrices) {
    const WeightFormat format = FormatOf(target, formats);
    const int64_t group = GroupOf(target, shape);
    if (IsQuantized(format) && group < kWeightGroup) {
      return absl::InvalidArgumentError(StrCat("format of ", WeightTargetName(target), " is ", WeightFormatName(format),
                                               ", which needs widths and heads in multiples of ", kWeightGroup,
                                               "; this model's divide by ", group, " only: use f32 or bf16"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPrepared(const std::string& model_dir, const FormatPlan& prepared, const FormatPlan& wanted) {
  for (WeightTarget target : kMatrices) {
    const WeightFormat has = FormatOf(target, prepared), wants = FormatOf(target, wanted);
    if (has == wants) continue;
    return absl::InvalidArgumentError(StrCat(
        model_dir, ": was prepared with ", WeightTargetName(target), " in ", WeightFormatName(has), ", but ",
        WeightFormatName(wants), " is asked for; use the prepared formats, or prepare the original model again"));
  }
  return absl::OkStatus();
}

std::string StoredName(const ModelTensor& tensor, const ModelConfig& config, const Checkpoint& checkpoint) {
  if (tensor.row->target != WeightTarget::kHead || !config.tie_word_embeddings) return tensor.name;
  // A file that was not prepared may hold a head of its own beside the tied embedding; transformers ignores it, so do
  // we.
  const bool prepared = checkpoint.metadata().contains(std::string(kPreparedVersionKey));
  const bool own = prepared && (checkpoint.Find(kHeadName).tensor != nullptr ||
                                checkpoint.Find(StrCat(kHeadName, kScaleSuffix)).tensor != nullptr);
  return std::string(own ? kHeadName : kEmbeddingName);
}

absl::Status CheckTensors(const Checkpoint& checkpoint, const ModelConfig& config, const FormatPlan& formats,
                          bool prepared, bool log_ignored) {
  const MatrixLoader loader(checkpoint, prepared);
  std::set<std::string> known;
  for (const ModelTensor& tensor : ModelTensors(config.shape)) {
    const WeightFormat format = tensor.row->bias ? WeightFormat::kF32 : FormatOf(tensor.row->target, formats);
    const std::string name = StoredName(tensor, config, checkpoint);
    RETURN_IF_ERROR(loader.Check(tensor, name, format));
    for (std::string& part : NamesOf(name, format, prepared)) known.insert(std::move(part));
  }
  if (config.tie_word_embeddings) known.insert(std::string(kHeadName));
  std::string first_ignored;
  int ignored = 0;
  for (const auto& [name, entry] : checkpoint.tensors()) {
    if (known.contains(name) || absl::EndsWith(name, "rotary_emb.inv_freq")) continue;
    const std::string about = StrCat(entry.file->path(), ": tensor '", name.substr(0, 100), "' ");
    if (LayerOf(name) >= config.shape.layers) {
      return absl::InvalidArgumentError(StrCat(about, "is of a layer that ", checkpoint.config_name(), ", with its ",
                                               config.shape.layers, " layers, does not have"));
    }
    if (absl::EndsWith(name, ".bias")) {
      return absl::InvalidArgumentError(StrCat(about, "is a bias that ", config.architecture, " does not have"));
    }
    if (ignored++ == 0) first_ignored = name.substr(0, 100);
  }
  if (ignored > 0 && log_ignored) {
    LogWarning(checkpoint.folder(), ": ", ignored, " tensors that ", config.architecture,
               " does not have are ignored, the first is '", first_ignored, "'");
  }
  return absl::OkStatus();
}

}  // namespace shoal
