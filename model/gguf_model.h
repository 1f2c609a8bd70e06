// A model in GGUF: one file, or several that are named "NAME-00001-of-00003.gguf" and so on.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/gguf.h"

namespace shoal {

class GgufModel {
 public:
  // A tensor and the file that holds it; owned by the GgufModel.
  struct Entry {
    const GgufFile* file = nullptr;
    const StoredTensor* tensor = nullptr;
  };

  // Opens the file, which must be the first where there are several, and those that belong to it.
  // Errors: as GgufFile::Open; kInvalidArgument if the files do not fit together; kUnimplemented for blocks of a form
  // before today's.
  static absl::StatusOr<std::unique_ptr<GgufModel>> Open(const std::string& path);

  const std::string& path() const { return files_.front()->path(); }
  // Of the first file; the others have tensors only.
  const GgufMetadata& metadata() const { return files_.front()->header().metadata; }
  const std::map<std::string, Entry, std::less<>>& tensors() const { return tensors_; }
  // `tensor` is null if there is none of this name.
  Entry Find(std::string_view name) const;

  // See TensorFile::CheckUnchanged.
  absl::Status CheckUnchanged() const;

 private:
  GgufModel() = default;
  absl::Status AddFile(const std::string& path);
  absl::Status AddFurtherFiles();

  std::vector<std::unique_ptr<GgufFile>> files_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

}  // namespace shoal
