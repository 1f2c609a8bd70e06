// The weights of a model: one safetensors file of a folder, or shards with an index, or GGUF.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/gguf_model.h"
#include "model/safetensors.h"
#include "parallel/plan.h"

namespace shoal {

inline constexpr std::string_view kWeightsFile = "model.safetensors";
inline constexpr std::string_view kWeightsIndexFile = "model.safetensors.index.json";

class Checkpoint {
 public:
  // One tensor and the file that holds it; owned by the Checkpoint.
  struct Entry {
    const TensorFile* file = nullptr;
    const StoredTensor* tensor = nullptr;
    // Not 0: heads of this many rows, whose rows lie in rotary pairs (0, 1), (2, 3), ... (GGUF of architecture llama)
    // and not in halves (i, i + size / 2).
    int64_t paired_head_size = 0;

    // The place in the file of a row of the tensor.
    int64_t StoredRow(int64_t row) const;
    // Rows of the file among which all of `rows` lie: whole heads, if the order within them differs.
    Range StoredRows(Range rows) const;
  };

  // Opens all files of the folder and checks headers and index against each other; or the GGUF file that `model_dir`
  // names, whose tensors get the names they have in a folder.
  // Errors: kNotFound (folder, weights or a shard); kInvalidArgument (file and tensor named): a tensor that the index
  // lists and its shard lacks or the reverse, a tensor in two shards, a shard name that is no plain file name.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& model_dir);

  const std::string& folder() const { return folder_; }
  // All tensors, by name.
  const std::map<std::string, Entry, std::less<>>& tensors() const { return tensors_; }
  // `tensor` is null if there is none of this name.
  Entry Find(std::string_view name) const;
  // For messages: how the files spell a tensor's name, and which of them says what its shape must be.
  std::string NameInFile(const std::string& name) const;
  std::string_view config_name() const { return gguf_ == nullptr ? "config.json" : "the metadata"; }
  // `__metadata__` of the first file; every file of a folder prepared by us has the same. Empty for GGUF.
  const std::map<std::string, std::string>& metadata() const;
  // Safetensors files; none for GGUF.
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }

  // See SafetensorsFile::CheckUnchanged.
  absl::Status CheckUnchanged() const;

 private:
  explicit Checkpoint(std::string folder) : folder_(std::move(folder)) {}
  absl::Status AddFile(const std::string& name);
  absl::Status AddGguf(const std::string& path);

  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::unique_ptr<GgufModel> gguf_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

}  // namespace shoal
