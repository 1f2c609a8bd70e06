// The weights of a model folder: one safetensors file, or shards with an index.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/safetensors.h"

namespace shoal {

inline constexpr std::string_view kWeightsFile = "model.safetensors";
inline constexpr std::string_view kWeightsIndexFile = "model.safetensors.index.json";

class Checkpoint {
 public:
  // One tensor and the file that holds it; owned by the Checkpoint.
  struct Entry {
    const SafetensorsFile* file = nullptr;
    const SafetensorsTensor* tensor = nullptr;
  };

  // Opens all files of the folder and checks headers and index against each other.
  // Errors: kNotFound (folder, weights or a shard); kInvalidArgument (file and tensor named): a tensor that the index
  // lists and its shard lacks or the reverse, a tensor in two shards, a shard name that is no plain file name.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& model_dir);

  const std::string& folder() const { return folder_; }
  // All tensors, by name.
  const std::map<std::string, Entry, std::less<>>& tensors() const { return tensors_; }
  // `tensor` is null if there is none of this name.
  Entry Find(std::string_view name) const;
  // `__metadata__` of the first file; every file of a folder prepared by us has the same.
  const std::map<std::string, std::string>& metadata() const { return files_.front()->header().metadata; }
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }

  // See SafetensorsFile::CheckUnchanged.
  absl::Status CheckUnchanged() const;

 private:
  explicit Checkpoint(std::string folder) : folder_(std::move(folder)) {}
  absl::Status AddFile(const std::string& name);

  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

}  // namespace shoal
