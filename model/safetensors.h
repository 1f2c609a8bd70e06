// The safetensors container: a JSON header, checked against the file, then the tensors' bytes without holes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tensor_file.h"

namespace shoal {

// Element types of the format. Only those with a use here have a name of their own; the others are known by their size.
using SafetensorsType = StoredType;
inline constexpr SafetensorsType kSafeF32{"F32", 32};
inline constexpr SafetensorsType kSafeF16{"F16", 16};
inline constexpr SafetensorsType kSafeBF16{"BF16", 16};
inline constexpr SafetensorsType kSafeI8{"I8", 8};
inline constexpr SafetensorsType kSafeU8{"U8", 8};

using SafetensorsTensor = StoredTensor;

// Largest header that is read; the reference implementation has the same limit.
constexpr uint64_t kSafetensorsHeaderMax = 100'000'000;

struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;       // By name.
  std::map<std::string, std::string> metadata;  // `__metadata__`
  uint64_t data_offset = 0;                     // Of the first tensor's bytes in the file.

  // Null if there is none of this name.
  const SafetensorsTensor* Find(std::string_view name) const;
};

// Checks a header against the `data_bytes` that follow it: known types, sizes that do not overflow, ranges of exactly
// shape x type, no hole, no overlap, nothing left over, no name twice. `where` (a path) starts every message.
// Source: `SafeTensors::read_metadata` and `Metadata::validate` of the reference crate; duplicate names are refused in
// addition. Errors: kInvalidArgument.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, uint64_t data_bytes,
                                                         std::string_view where);

// The header's length: the first 8 bytes of a file of `file_bytes` bytes, checked against it. Errors: kInvalidArgument.
absl::StatusOr<uint64_t> SafetensorsHeaderBytes(std::span<const std::byte, 8> length, uint64_t file_bytes,
                                                std::string_view where);

// All of this for a whole file in memory.
absl::StatusOr<SafetensorsHeader> ParseSafetensors(std::span<const std::byte> file, std::string_view where);

// An open file whose header has been checked.
class SafetensorsFile final : public TensorFile {
 public:
  // Opens `folder`/`name`, see OpenInFolder. Errors: kNotFound, kInvalidArgument, kPermissionDenied.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& folder, const std::string& name);

  const SafetensorsHeader& header() const { return header_; }

 private:
  SafetensorsFile(std::string path, int fd) : TensorFile(std::move(path), fd) {}
  SafetensorsHeader header_;
};

}  // namespace shoal
