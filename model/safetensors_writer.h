// Writes weights as safetensors files, sharded and with an index where they are large.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/safetensors.h"

namespace shoal {

struct TensorToWrite {
  std::string name;
  SafetensorsType type;
  std::vector<uint64_t> shape;

  uint64_t bytes() const;
};

class SafetensorsWriter {
 public:
  // Creates the files in `folder`, with their headers; tensors are dealt to shards in the given order. A single shard
  // is called model.safetensors. Errors: kResourceExhausted (disk full), kPermissionDenied, kInternal.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(const std::string& folder,
                                                                   std::vector<TensorToWrite> tensors,
                                                                   const std::map<std::string, std::string>& metadata,
                                                                   uint64_t shard_bytes_max);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Writes bytes of tensor `index` (in the order of Create) at `offset`. Any thread; every byte must be written once.
  absl::Status Write(size_t index, uint64_t offset, std::span<const std::byte> bytes);

  // Writes the index file if there are several shards, and brings all to the disk.
  absl::Status Finish();

 private:
  struct Shard {
    std::string name;
    int fd = -1;
  };
  struct Place {
    size_t shard = 0;
    uint64_t offset = 0;  // In the file.
  };
  explicit SafetensorsWriter(std::string folder) : folder_(std::move(folder)) {}
  absl::Status CreateShard(size_t begin, size_t end, const std::map<std::string, std::string>& metadata);

  std::string folder_;
  std::vector<TensorToWrite> tensors_;
  std::vector<Place> places_;  // By tensor.
  std::vector<Shard> shards_;
};

// Writes a small file and brings it to the disk. Errors: as Create.
absl::Status WriteSmallFile(const std::string& path, std::string_view text);

// A folder that is filled under a temporary name beside `path` and appears there complete, or not at all.
class PendingFolder {
 public:
  // Errors: kAlreadyExists if `path` exists; kNotFound if the folder above it does not; kPermissionDenied.
  static absl::StatusOr<std::unique_ptr<PendingFolder>> Create(const std::string& path);
  // Removes what Commit has not made final.
  ~PendingFolder();
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;

  const std::string& temporary() const { return temporary_; }
  absl::Status Commit();

 private:
  PendingFolder(std::string path, std::string temporary) : path_(std::move(path)), temporary_(std::move(temporary)) {}
  std::string path_;
  std::string temporary_;
  bool committed_ = false;
};

}  // namespace shoal
