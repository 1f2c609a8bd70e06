// The safetensors container: a JSON header, checked against the file, then the tensors' bytes without holes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

// Element types of the format. Only those with a use here have a name of their own; the others are known by their size.
struct SafetensorsType {
  std::string_view name;  // "BF16", as files spell it; static.
  int bits = 0;           // Of one element.
  bool operator==(const SafetensorsType&) const = default;
};
inline constexpr SafetensorsType kSafeF32{"F32", 32};
inline constexpr SafetensorsType kSafeF16{"F16", 16};
inline constexpr SafetensorsType kSafeBF16{"BF16", 16};
inline constexpr SafetensorsType kSafeI8{"I8", 8};
inline constexpr SafetensorsType kSafeU8{"U8", 8};

struct SafetensorsTensor {
  std::string name;
  SafetensorsType type;
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // First byte, from the start of the data (behind the header).
  uint64_t end = 0;

  uint64_t bytes() const { return end - begin; }
  std::string ShapeText() const;  // "[1536, 8960]"
};

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

// An open file whose header has been checked. Data is read, not mapped: a file cut short meanwhile is then an error and
// not a SIGBUS.
class SafetensorsFile {
 public:
  // Opens `folder`/`name`. `name` may come from an index that somebody else wrote, so it must be a plain file name;
  // what the folder's owner has put under that name is the owner's choice and may be a link, as in a Hugging Face
  // cache. FIFOs, devices and folders are refused, also behind a link. Errors: kNotFound, kInvalidArgument,
  // kPermissionDenied.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& folder, const std::string& name);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const SafetensorsHeader& header() const { return header_; }

  // Copies bytes [offset, offset + out.size()) of the tensor. Any thread. The range must lie within the tensor.
  // Errors: kDataLoss if the file has been cut; kInternal with errno's text.
  absl::Status Read(const SafetensorsTensor& tensor, uint64_t offset, std::span<std::byte> out) const;

  // kFailedPrecondition if size or time of change are no longer those at Open: what has been read may be a mixture.
  absl::Status CheckUnchanged() const;

 private:
  SafetensorsFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const;

  std::string path_;
  int fd_;
  uint64_t size_ = 0;
  int64_t changed_ns_ = 0;
  SafetensorsHeader header_;
};

// Opens a regular file by its name in `folder`, see SafetensorsFile::Open. Returns the descriptor, which the caller
// closes.
absl::StatusOr<int> OpenInFolder(const std::string& folder, const std::string& name);

}  // namespace shoal
