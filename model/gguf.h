// The GGUF container: typed metadata, a list of tensors, then their bytes, each tensor on an aligned place. Versions 2
// and 3, little-endian. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tensor_file.h"

namespace shoal {

// Numbers of the format.
enum class GgufValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

// The keys and values of a file. Values stay in the file's own bytes until they are asked for, so that they take no
// more memory than there. Every getter's errors: kInvalidArgument, with file and key, if the key is missing or its
// value has another type.
class GgufMetadata {
 public:
  bool Has(std::string_view key) const { return values_.contains(key); }
  // Of any integer type, at most 2^63 - 1.
  absl::StatusOr<int64_t> Integer(std::string_view key) const;
  // Of any type of numbers.
  absl::StatusOr<double> Number(std::string_view key) const;
  absl::StatusOr<bool> Bool(std::string_view key) const;
  // Valid UTF-8. Points into this object, as Texts does.
  absl::StatusOr<std::string_view> Text(std::string_view key) const;
  absl::StatusOr<std::vector<std::string_view>> Texts(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Integers(std::string_view key) const;
  absl::StatusOr<std::vector<float>> Floats(std::string_view key) const;

  const std::string& where() const { return where_; }
  // A whole file that has this metadata and no tensor.
  std::string FileWithoutTensors() const;

 private:
  friend class GgufParser;
  struct Value {
    GgufValueType type = GgufValueType::kArray;  // Of the elements of an array.
    bool array = false;
    uint64_t count = 1;
    size_t begin = 0, end = 0;  // In bytes_; of an array: its first element and behind its last.
  };
  absl::StatusOr<const Value*> Find(std::string_view key, bool array, std::string_view wanted) const;
  absl::Status WrongType(std::string_view key, std::string_view wanted) const;

  std::string where_;
  std::string bytes_;                       // The file up to its data.
  size_t pairs_begin_ = 0, pairs_end_ = 0;  // In bytes_.
  std::map<std::string, Value, std::less<>> values_;
};

struct GgufHeader {
  GgufMetadata metadata;
  std::vector<StoredTensor> tensors;  // In the order of the file; shapes as rows and columns, the last is contiguous.
  uint64_t alignment = 32;
  uint64_t data_offset = 0;  // Of the first tensor's bytes in the file.

  // Null if there is none of this name.
  const StoredTensor* Find(std::string_view name) const;
};

// Copies bytes [offset, offset + out.size()) of a file.
using GgufRead = absl::FunctionRef<absl::Status(uint64_t offset, std::span<std::byte> out)>;

// Reads the header of a file of `file_bytes` bytes and checks it: counts and lengths against what is left of the file
// before anything is allocated, types, names once each, shapes that do not overflow and hold whole blocks, tensors one
// behind the other on aligned places without overlap or hole, nothing missing and nothing left over. `where` (a path)
// starts every message. Errors: kInvalidArgument; kUnimplemented for versions and types that are not supported; those
// of `read`.
absl::StatusOr<GgufHeader> ParseGguf(uint64_t file_bytes, GgufRead read, std::string_view where);

// The same for a whole file in memory.
absl::StatusOr<GgufHeader> ParseGguf(std::span<const std::byte> file, std::string_view where);

// An open file whose header has been checked.
class GgufFile final : public TensorFile {
 public:
  // Errors: kNotFound, kPermissionDenied and those of ParseGguf.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);

  const GgufHeader& header() const { return header_; }

 private:
  GgufFile(std::string path, int fd) : TensorFile(std::move(path), fd) {}
  GgufHeader header_;
};

}  // namespace shoal
