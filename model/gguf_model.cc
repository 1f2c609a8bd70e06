#include "model/gguf_model.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/gguf_blocks.h"

namespace shoal {
namespace {

constexpr int64_t kFilesMax = 1024;

// How llama.cpp's gguf-split names its files; `number` counts from 1.
std::string FileEnding(int64_t number, int64_t files) { return absl::StrFormat("-%05d-of-%05d.gguf", number, files); }

// Key `split.<name>`, or 0 where it is absent.
absl::StatusOr<int64_t> SplitKey(const GgufMetadata& metadata, std::string_view name) {
  const std::string key = StrCat("split.", name);
  return metadata.Has(key) ? metadata.Integer(key) : absl::StatusOr<int64_t>(0);
}

// Blocks have had today's form since version 2.
absl::Status CheckQuantizationVersion(const GgufHeader& header) {
  constexpr std::string_view kKey = "general.quantization_version";
  if (!header.metadata.Has(kKey)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t version, header.metadata.Integer(kKey));
  for (const StoredTensor& tensor : header.tensors) {
    if (version == 2 || !IsGgufBlockType(tensor.type)) continue;
    return absl::UnimplementedError(StrCat(header.metadata.where(), ": key '", kKey, "' is ", version,
                                           "; supported is 2: quantize the model again"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<GgufModel>> GgufModel::Open(const std::string& path) {
  std::unique_ptr<GgufModel> model(new GgufModel());
  RETURN_IF_ERROR(model->AddFile(path));
  RETURN_IF_ERROR(model->AddFurtherFiles());
  return model;
}

absl::Status GgufModel::AddFile(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, GgufFile::Open(path));
  RETURN_IF_ERROR(CheckQuantizationVersion(file->header()));
  for (const StoredTensor& tensor : file->header().tensors) {
    const auto [it, added] = tensors_.emplace(tensor.name, Entry{file.get(), &tensor});
    if (!added) {
      return absl::InvalidArgumentError(
          StrCat(path, ": tensor '", tensor.name, "' is also in ", it->second.file->path()));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status GgufModel::AddFurtherFiles() {
  ASSIGN_OR_RETURN(const int64_t files, SplitKey(metadata(), "count"));
  if (files < 2) return absl::OkStatus();
  const std::string first = path();
  ASSIGN_OR_RETURN(const int64_t number, SplitKey(metadata(), "no"));
  const std::string ending = FileEnding(1, files);
  if (files > kFilesMax || number != 0 || !absl::EndsWith(first, ending)) {
    return absl::InvalidArgumentError(StrCat(first, ": is file ", number + 1, " of ", files,
                                             " of a model; name the first, whose name ends in ", ending,
                                             " (there may be ", kFilesMax, " files)"));
  }
  const std::string stem = first.substr(0, first.size() - ending.size());
  for (int64_t i = 1; i < files; ++i) {
    const std::string path = StrCat(stem, FileEnding(i + 1, files));
    RETURN_IF_ERROR(AddFile(path));
    const GgufMetadata& its = files_.back()->header().metadata;
    ASSIGN_OR_RETURN(const int64_t its_number, SplitKey(its, "no"));
    ASSIGN_OR_RETURN(const int64_t its_files, SplitKey(its, "count"));
    if (its_number == i && its_files == files) continue;
    return absl::InvalidArgumentError(
        StrCat(path, ": says that it is file ", its_number + 1, " of ", its_files, "; download the files again"));
  }
  constexpr std::string_view kTensors = "tensors.count";
  ASSIGN_OR_RETURN(const int64_t tensors, SplitKey(metadata(), kTensors));
  if (tensors == static_cast<int64_t>(tensors_.size())) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(first, ": key 'split.", kTensors, "' is ", tensors, ", but its ", files,
                                           " files have ", tensors_.size(), " tensors; download the files again"));
}

GgufModel::Entry GgufModel::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? Entry{} : it->second;
}

absl::Status GgufModel::CheckUnchanged() const {
  for (const auto& file : files_) RETURN_IF_ERROR(file->CheckUnchanged());
  return absl::OkStatus();
}

}  // namespace shoal
