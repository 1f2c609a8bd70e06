// A file of tensors, whatever its container (safetensors, GGUF): what is known of each tensor, and reading its bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

// How values are stored: one by one, or in blocks that share a scale.
struct StoredType {
  std::string_view name;  // "BF16", "Q4_K", as files spell it; static.
  int bits = 0;           // Of one value or one block.
  int block = 1;          // Values per block; rows hold whole blocks.
  bool operator==(const StoredType&) const = default;

  // Bytes of `count` values that are whole blocks and whole bytes.
  constexpr int64_t Bytes(int64_t count) const { return count / block * bits / 8; }
};

struct StoredTensor {
  std::string name;  // As the file spells it.
  StoredType type;
  std::vector<uint64_t> shape;  // [rows, columns], or [rows].
  uint64_t begin = 0;           // First byte, from the start of the file's data.
  uint64_t end = 0;

  uint64_t bytes() const { return end - begin; }
  std::string ShapeText() const;  // "[1536, 8960]"
};

// An open file. Data is read, not mapped: a file cut short meanwhile is then an error and not a SIGBUS.
class TensorFile {
 public:
  TensorFile(const TensorFile&) = delete;
  TensorFile& operator=(const TensorFile&) = delete;

  const std::string& path() const { return path_; }

  // Copies bytes [offset, offset + out.size()) of the tensor. Any thread. The range must lie within the tensor.
  // Errors: kDataLoss if the file has been cut; kInternal with errno's text.
  absl::Status Read(const StoredTensor& tensor, uint64_t offset, std::span<std::byte> out) const;

  // kFailedPrecondition if size or time of change are no longer those at Open: what has been read may be a mixture.
  absl::Status CheckUnchanged() const;

 protected:
  // Takes the descriptor, which it closes.
  TensorFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~TensorFile();
  // Notes the file's size and time of change; before anything is read. Errors: kInternal with errno's text.
  absl::Status Begin();
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const;
  uint64_t size() const { return size_; }
  // Where the tensors' data begins, once the header is known.
  void set_data_offset(uint64_t offset) { data_offset_ = offset; }

 private:
  std::string path_;
  int fd_;
  uint64_t size_ = 0;
  int64_t changed_ns_ = 0;
  uint64_t data_offset_ = 0;
};

// Opens a regular file by its name in `folder`. `name` may come from an index that somebody else wrote, so it must be a
// plain file name; what the folder's owner has put under that name is the owner's choice and may be a link, as in a
// Hugging Face cache. FIFOs, devices and folders are refused, also behind a link. Returns the descriptor, which the
// caller closes. Errors: kNotFound, kInvalidArgument, kPermissionDenied.
absl::StatusOr<int> OpenInFolder(const std::string& folder, const std::string& name);

}  // namespace shoal
