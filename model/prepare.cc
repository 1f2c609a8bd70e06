#include "model/prepare.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/cores.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/thread_pool.h"
#include "kernels/weight_source.h"
#include "model/gguf_config.h"
#include "model/loader_matrix.h"
#include "model/loader_tensors.h"
#include "model/read_counter.h"
#include "model/safetensors_writer.h"
#include "model/tokenizer_gguf.h"
#include "model/weight_table.h"

namespace shoal {
namespace {

constexpr std::string_view kVersion = "1";
constexpr std::string_view kShapeKey = "shoal.shape";
constexpr std::string_view kFormatsKey = "shoal.formats";
constexpr size_t kCopiedBytesMax = 64 << 20;
constexpr int kThreadsMax = 64;
// Copied where they exist; config.json must.
constexpr std::array<std::string_view, 9> kCopiedFiles = {"config.json",
                                                          "generation_config.json",
                                                          "tokenizer.json",
                                                          "tokenizer_config.json",
                                                          "chat_template.jinja",
                                                          "special_tokens_map.json",
                                                          "added_tokens.json",
                                                          "LICENSE",
                                                          "README.md"};

struct FormatField {
  std::string_view name;
  WeightFormat FormatPlan::*format;
};
constexpr std::array<FormatField, 6> kFormatFields = {{{"qkv", &FormatPlan::qkv},
                                                       {"attention_out", &FormatPlan::attention_out},
                                                       {"gate_up", &FormatPlan::gate_up},
                                                       {"down", &FormatPlan::down},
                                                       {"lm_head", &FormatPlan::lm_head},
                                                       {"embedding", &FormatPlan::embedding}}};

std::string FormatsText(const FormatPlan& formats) {
  std::string text;
  for (const FormatField& field : kFormatFields) {
    text += StrCat(text.empty() ? "" : ",", field.name, "=", WeightFormatName(formats.*field.format));
  }
  return text;
}

absl::StatusOr<FormatPlan> ParseFormats(const std::string& text, const std::string& where) {
  FormatPlan formats;
  for (const FormatField& field : kFormatFields) {
    bool found = false;
    for (absl::string_view part : absl::StrSplit(text, ',')) {
      const std::pair<std::string, std::string> pair = absl::StrSplit(part, absl::MaxSplits('=', 1));
      if (pair.first != field.name) continue;
      ASSIGN_OR_RETURN(formats.*field.format, WeightFormatFromName(pair.second));
      found = true;
    }
    if (!found) {
      return absl::InvalidArgumentError(
          StrCat(where, ": metadata ", kFormatsKey, " lacks '", field.name, "'; prepare the model again"));
    }
  }
  return formats;
}

std::string ShapeText(const ModelShape& s) {
  return StrCat("layers=", s.layers, ",hidden=", s.hidden, ",heads=", s.heads, ",kv_heads=", s.kv_heads,
                ",head_dim=", s.head_dim, ",ffn=", s.ffn, ",vocab=", s.vocab, ",qkv_bias=", s.qkv_bias ? 1 : 0,
                ",qk_norm=", s.qk_norm ? 1 : 0);
}

// One tensor of the model and what is written for it, consecutive in the writer from `first`.
struct Job {
  ModelTensor tensor;
  std::string source;
  WeightFormat format = WeightFormat::kF32;
  size_t first = 0;
};

SafetensorsType DenseType(WeightFormat format) { return format == WeightFormat::kBF16 ? kSafeBF16 : kSafeF32; }

void AddOutputs(const Job& job, std::vector<TensorToWrite>& out) {
  const auto rows = static_cast<uint64_t>(job.tensor.rows), cols = static_cast<uint64_t>(job.tensor.cols);
  const std::string& name = job.tensor.name;
  if (job.tensor.row->vector()) {
    out.push_back({name, kSafeF32, {rows}});
    return;
  }
  if (!IsQuantized(job.format)) {
    out.push_back({name, DenseType(job.format), {rows, cols}});
    return;
  }
  const bool int4 = job.format == WeightFormat::kInt4;
  const uint64_t groups = cols / kWeightGroup;
  out.push_back({StrCat(name, ValuesSuffix(job.format)), int4 ? kSafeU8 : kSafeI8, {rows, int4 ? cols / 2 : cols}});
  out.push_back({StrCat(name, kScaleSuffix), kSafeF32, {rows}});
  if (!int4) return;
  out.push_back({StrCat(name, kGroupScalesSuffix), kSafeU8, {rows, groups}});
  out.push_back({StrCat(name, kGroupOffsetsSuffix), kSafeI8, {rows, groups}});
}

// Rows that one thread converts and writes at a time: about so many bytes of values.
constexpr int64_t kChunkBytes = 256 << 10;

// Rows [begin, end) of a matrix, made and written.
absl::Status ConvertRows(const Job& job, const WeightSource& source, int64_t begin, int64_t end,
                         SafetensorsWriter& writer) {
  const RowBuffer buffer(job.format, end - begin, source.cols);
  const HostRows& rows = buffer.rows();
  RETURN_IF_ERROR(source.read(begin, end, rows));
  const auto write = [&](size_t part, const void* from, int64_t row_bytes) {
    const auto* const bytes = static_cast<const std::byte*>(from);
    return writer.Write(job.first + part, static_cast<uint64_t>(begin * row_bytes),
                        std::span(bytes, static_cast<size_t>((end - begin) * row_bytes)));
  };
  RETURN_IF_ERROR(write(0, rows.values, RowBytes(job.format, source.cols)));
  if (rows.scales != nullptr) RETURN_IF_ERROR(write(1, rows.scales, sizeof(float)));
  if (rows.group_scales == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(write(2, rows.group_scales, source.cols / kWeightGroup));
  return write(3, rows.group_offsets, source.cols / kWeightGroup);
}

// Converts one tensor and writes what becomes of it.
absl::Status Convert(const Job& job, const MatrixLoader& loader, SafetensorsWriter& writer, ReadCounter& counter,
                     QuantizationReport& report) {
  const TensorSlice slice{job.tensor, job.source, {0, job.tensor.rows}, {0, job.tensor.cols}};
  if (job.tensor.row->vector()) {
    ASSIGN_OR_RETURN(const std::vector<float> values, loader.LoadVector({slice}));
    RETURN_IF_ERROR(counter.Add(loader.BytesToRead(slice, job.format)));
    return writer.Write(job.first, 0, std::as_bytes(std::span(values)));
  }
  QuantizationError lost;
  ASSIGN_OR_RETURN(const WeightSource source, loader.Open({slice}, job.format, &lost));
  const int64_t chunk = SourceChunkRows(job.format, source.cols, kChunkBytes);
  const int64_t row_bytes = loader.BytesToRead(slice, job.format) / source.rows;
  ThreadPool pool(std::min(CoresAllowed(), kThreadsMax));
  RETURN_IF_ERROR(ForChunks(pool, source.rows, kRowBlock, chunk, [&](int64_t begin, int64_t end) {
    RETURN_IF_ERROR(ConvertRows(job, source, begin, end, writer));
    return counter.Add((end - begin) * row_bytes);
  }));
  if (IsQuantized(job.format)) {
    report.tensors.push_back({job.tensor.name, job.format, job.tensor.rows, job.tensor.cols, lost});
  }
  return absl::OkStatus();
}

// What a GGUF file says beside its weights: configuration as JSON, tokenizer and chat template in a file of the same
// format without tensors.
absl::Status WriteGgufFiles(const std::string& from, const std::string& to) {
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufModel> model, GgufModel::Open(from));
  ASSIGN_OR_RETURN(const GgufConfig config, ReadGgufConfig(*model));
  RETURN_IF_ERROR(WriteSmallFile(StrCat(to, "/config.json"), config.config.dump(2) + "\n"));
  if (!config.generation.empty()) {
    RETURN_IF_ERROR(WriteSmallFile(StrCat(to, "/generation_config.json"), config.generation.dump(2) + "\n"));
  }
  return WriteSmallFile(StrCat(to, "/", kGgufTokenizerFile), model->metadata().FileWithoutTensors());
}

absl::Status CopyFiles(const std::string& from, const std::string& to) {
  if (IsGgufPath(from)) return WriteGgufFiles(from, to);
  for (std::string_view name : kCopiedFiles) {
    const auto text = ReadSmallFile(StrCat(from, "/", name), kCopiedBytesMax);
    if (!text.ok() && text.status().code() == absl::StatusCode::kNotFound && name != "config.json") continue;
    RETURN_IF_ERROR(text.status());
    RETURN_IF_ERROR(WriteSmallFile(StrCat(to, "/", name), *text));
  }
  return absl::OkStatus();
}

// The head of a tied model is stored on its own unless it is the embedding, bit for bit.
bool IsStored(const ModelTensor& tensor, const ModelConfig& config, const FormatPlan& formats) {
  return tensor.row->target != WeightTarget::kHead || !config.tie_word_embeddings ||
         formats.lm_head != formats.embedding;
}

}  // namespace

absl::StatusOr<WeightFormat> WeightFormatFromName(std::string_view name) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    if (WeightFormatName(format) == name) return format;
  }
  return absl::InvalidArgumentError(
      StrCat("'", name.substr(0, 64), "' is not a weight format; supported are f32, bf16, int8 and int4"));
}

absl::StatusOr<std::optional<FormatPlan>> PreparedFormats(const Checkpoint& checkpoint, const ModelShape& shape) {
  if (checkpoint.files().empty()) return std::optional<FormatPlan>();  // A GGUF file is nobody's prepared folder.
  const std::string& where = checkpoint.files().front()->path();
  const auto& metadata = checkpoint.metadata();
  const auto version = metadata.find(std::string(kPreparedVersionKey));
  for (const auto& file : checkpoint.files()) {
    const auto& other = file->header().metadata;
    const bool same = version == metadata.end() ? !other.contains(std::string(kPreparedVersionKey)) : other == metadata;
    if (!same) {
      return absl::InvalidArgumentError(
          StrCat(file->path(), ": was not prepared together with ", where, "; prepare the model again"));
    }
  }
  if (version == metadata.end()) return std::optional<FormatPlan>();
  if (version->second != kVersion) {
    return absl::InvalidArgumentError(StrCat(where, ": was prepared in version '", version->second.substr(0, 20),
                                             "' of the format, this program reads version ", kVersion,
                                             "; prepare it again"));
  }
  const auto prepared_shape = metadata.find(std::string(kShapeKey));
  if (prepared_shape == metadata.end() || prepared_shape->second != ShapeText(shape)) {
    return absl::InvalidArgumentError(
        StrCat(where, ": was prepared for another config.json, sizes differ; prepare the model again"));
  }
  const auto formats = metadata.find(std::string(kFormatsKey));
  ASSIGN_OR_RETURN(FormatPlan plan, ParseFormats(formats == metadata.end() ? "" : formats->second, where));
  return std::optional<FormatPlan>(plan);
}

absl::StatusOr<std::optional<FormatPlan>> PreparedFormats(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(model_dir));
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model_dir));
  return PreparedFormats(*checkpoint, config.shape);
}

absl::StatusOr<QuantizationReport> PrepareModel(const std::string& model_dir, const std::string& out_dir,
                                                const FormatPlan& formats, const PrepareOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(model_dir));
  RETURN_IF_ERROR(CheckFormats(config.shape, formats));
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model_dir));
  ASSIGN_OR_RETURN(const std::optional<FormatPlan> already, PreparedFormats(*checkpoint, config.shape));
  if (already.has_value()) {
    return absl::InvalidArgumentError(StrCat(model_dir, ": is already prepared; give the original model"));
  }
  RETURN_IF_ERROR(CheckTensors(*checkpoint, config, formats, false, /*log_ignored=*/true));
  ASSIGN_OR_RETURN(const std::unique_ptr<PendingFolder> folder, PendingFolder::Create(out_dir));

  const MatrixLoader loader(*checkpoint, false);
  std::vector<Job> jobs;
  std::vector<TensorToWrite> outputs;
  int64_t total = 0;
  for (ModelTensor& tensor : ModelTensors(config.shape)) {
    if (!IsStored(tensor, config, formats)) continue;
    const WeightFormat format = tensor.row->bias ? WeightFormat::kF32 : FormatOf(tensor.row->target, formats);
    Job job{std::move(tensor), "", format, outputs.size()};
    job.source = StoredName(job.tensor, config, *checkpoint);
    AddOutputs(job, outputs);
    total += loader.BytesToRead({job.tensor, job.source, {0, job.tensor.rows}, {0, job.tensor.cols}}, format);
    jobs.push_back(std::move(job));
  }
  const std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                       {std::string(kPreparedVersionKey), std::string(kVersion)},
                                                       {std::string(kShapeKey), ShapeText(config.shape)},
                                                       {std::string(kFormatsKey), FormatsText(formats)}};
  ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> writer,
                   SafetensorsWriter::Create(folder->temporary(), std::move(outputs), metadata,
                                             static_cast<uint64_t>(options.shard_bytes_max)));
  QuantizationReport report;
  ReadCounter counter(options.progress, total);
  for (const Job& job : jobs) RETURN_IF_ERROR(Convert(job, loader, *writer, counter, report));
  RETURN_IF_ERROR(counter.Finish());
  RETURN_IF_ERROR(checkpoint->CheckUnchanged());
  RETURN_IF_ERROR(CopyFiles(model_dir, folder->temporary()));
  RETURN_IF_ERROR(writer->Finish());
  RETURN_IF_ERROR(folder->Commit());
  return report;
}

}  // namespace shoal
