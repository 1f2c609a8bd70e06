#include "model/checkpoint.h"

#include <sys/stat.h>

#include <set>

#include "absl/strings/match.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/gguf_config.h"
#include "model/gguf_tensors.h"

namespace shoal {
namespace {

constexpr size_t kIndexBytesMax = 64 << 20;
constexpr size_t kShardsMax = 4096;

bool Exists(const std::string& path) {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0;
}

// Tensor name -> shard name, as the index gives it.
absl::StatusOr<std::map<std::string, std::string>> ReadWeightMap(const std::string& path) {
  ASSIGN_OR_RETURN(const Json index, ReadJsonFile(path, kIndexBytesMax));
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return absl::InvalidArgumentError(StrCat(path, ": field 'weight_map' is missing or not an object"));
  }
  std::map<std::string, std::string> map;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string()) {
      return absl::InvalidArgumentError(
          StrCat(path, ": weight_map gives no file name for tensor '", tensor.substr(0, 100), "'"));
    }
    map.emplace(tensor, shard.get<std::string>());
  }
  if (map.empty()) return absl::InvalidArgumentError(StrCat(path, ": weight_map lists no tensor"));
  return map;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& model_dir) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(model_dir));
  if (IsGgufPath(model_dir)) {
    RETURN_IF_ERROR(checkpoint->AddGguf(model_dir));
    return checkpoint;
  }
  const std::string index_path = StrCat(model_dir, "/", kWeightsIndexFile);
  if (Exists(StrCat(model_dir, "/", kWeightsFile))) {
    RETURN_IF_ERROR(checkpoint->AddFile(std::string(kWeightsFile)));
    return checkpoint;
  }
  if (!Exists(index_path)) {
    return absl::NotFoundError(
        StrCat(model_dir, ": has neither ", kWeightsFile, " nor ", kWeightsIndexFile, "; is this a model folder?"));
  }
  ASSIGN_OR_RETURN(const auto map, ReadWeightMap(index_path));
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map) shards.insert(shard);
  if (shards.size() > kShardsMax) {
    return absl::InvalidArgumentError(
        StrCat(index_path, ": names ", shards.size(), " files, more than the limit of ", kShardsMax));
  }
  for (const std::string& shard : shards) RETURN_IF_ERROR(checkpoint->AddFile(shard));
  for (const auto& [tensor, shard] : map) {
    const Entry entry = checkpoint->Find(tensor);
    const std::string path = StrCat(model_dir, "/", shard);
    if (entry.tensor == nullptr || entry.file->path() != path) {
      return absl::InvalidArgumentError(
          StrCat(index_path, ": lists tensor '", tensor.substr(0, 100), "' in ", shard, ", which does not hold it"));
    }
  }
  for (const auto& [name, entry] : checkpoint->tensors_) {
    if (!map.contains(name)) {
      return absl::InvalidArgumentError(StrCat(entry.file->path(), ": holds tensor '", name.substr(0, 100), "', which ",
                                               kWeightsIndexFile, " does not list"));
    }
  }
  return checkpoint;
}

absl::Status Checkpoint::AddFile(const std::string& name) {
  auto opened = SafetensorsFile::Open(folder_, name);
  if (!opened.ok() && opened.status().code() == absl::StatusCode::kNotFound) {
    return absl::NotFoundError(StrCat(folder_, "/", name, ": is missing; download the folder again"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, std::move(opened));
  for (const SafetensorsTensor& tensor : file->header().tensors) {
    const auto [it, added] = tensors_.emplace(tensor.name, Entry{file.get(), &tensor, 0});
    if (!added) {
      return absl::InvalidArgumentError(
          StrCat(file->path(), ": tensor '", tensor.name.substr(0, 100), "' is also in ", it->second.file->path()));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status Checkpoint::AddGguf(const std::string& path) {
  ASSIGN_OR_RETURN(gguf_, GgufModel::Open(path));
  ASSIGN_OR_RETURN(const int64_t paired, GgufPairedHeadSize(gguf_->metadata()));
  for (const auto& [name, found] : gguf_->tensors()) {
    if (name == kGgufRopeFactorsName) continue;
    const std::string known = HuggingFaceTensorName(name);
    const bool rotated = absl::StrContains(name, ".attn_q.") || absl::StrContains(name, ".attn_k.");
    const Entry entry{found.file, found.tensor, rotated ? paired : 0};
    if (!tensors_.emplace(known.empty() ? name : known, entry).second) {
      return absl::InvalidArgumentError(StrCat(path, ": tensor '", name, "' is there under two names"));
    }
  }
  return absl::OkStatus();
}

int64_t Checkpoint::Entry::StoredRow(int64_t row) const {
  if (paired_head_size == 0) return row;
  const int64_t half = paired_head_size / 2, in_head = row % paired_head_size;
  return row - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

Range Checkpoint::Entry::StoredRows(Range rows) const {
  if (paired_head_size == 0) return rows;
  const int64_t size = paired_head_size;
  return {rows.begin / size * size, (rows.end + size - 1) / size * size};
}

std::string Checkpoint::NameInFile(const std::string& name) const {
  return gguf_ == nullptr ? name : GgufTensorName(name);
}

const std::map<std::string, std::string>& Checkpoint::metadata() const {
  static const std::map<std::string, std::string> kNone;
  return files_.empty() ? kNone : files_.front()->header().metadata;
}

Checkpoint::Entry Checkpoint::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? Entry{} : it->second;
}

absl::Status Checkpoint::CheckUnchanged() const {
  for (const auto& file : files_) RETURN_IF_ERROR(file->CheckUnchanged());
  if (gguf_ != nullptr) RETURN_IF_ERROR(gguf_->CheckUnchanged());
  return absl::OkStatus();
}

}  // namespace shoal
