// SafetensorsFile: opening within a folder, and reading.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/safetensors.h"

namespace shoal {
namespace {

absl::Status ErrnoStatus(const std::string& path, int error) {
  const std::string text = StrCat(path, ": ", strerror(error));
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(text);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(text);
  return absl::InternalError(text);
}

int64_t ChangeTime(const struct stat& info) { return info.st_ctim.tv_sec * 1'000'000'000 + info.st_ctim.tv_nsec; }

}  // namespace

absl::StatusOr<int> OpenInFolder(const std::string& folder, const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.size() > 255 || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        StrCat(folder, ": '", name.substr(0, 100), "' is not a plain file name; weights must lie in this folder"));
  }
  return OpenRegularFile(StrCat(folder, "/", name));
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& folder,
                                                                       const std::string& name) {
  ASSIGN_OR_RETURN(const int fd, OpenInFolder(folder, name));
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(StrCat(folder, "/", name), fd));
  const std::string& path = file->path_;
  struct stat info {};
  if (fstat(fd, &info) != 0) return ErrnoStatus(path, errno);
  file->size_ = static_cast<uint64_t>(info.st_size);
  file->changed_ns_ = ChangeTime(info);

  // The length first, then no more than it says.
  std::array<std::byte, 8> length{};
  RETURN_IF_ERROR(file->ReadAt(0, std::span(length).first(std::min<uint64_t>(file->size_, 8))));
  ASSIGN_OR_RETURN(const uint64_t header_bytes, SafetensorsHeaderBytes(length, file->size_, path));
  std::string json(header_bytes, '\0');
  RETURN_IF_ERROR(file->ReadAt(8, std::as_writable_bytes(std::span(json.data(), json.size()))));
  ASSIGN_OR_RETURN(file->header_, ParseSafetensorsHeader(json, file->size_ - 8 - header_bytes, path));
  return file;
}

SafetensorsFile::~SafetensorsFile() { close(fd_); }

absl::Status SafetensorsFile::Read(const SafetensorsTensor& tensor, uint64_t offset, std::span<std::byte> out) const {
  SHOAL_CHECK(offset <= tensor.bytes() && out.size() <= tensor.bytes() - offset);
  return ReadAt(header_.data_offset + tensor.begin + offset, out);
}

absl::Status SafetensorsFile::ReadAt(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(path_, errno);
    if (n == 0) return absl::DataLossError(StrCat(path_, ": has been cut short while it was being read"));
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsFile::CheckUnchanged() const {
  struct stat info {};
  if (fstat(fd_, &info) != 0) return ErrnoStatus(path_, errno);
  if (static_cast<uint64_t>(info.st_size) != size_ || ChangeTime(info) != changed_ns_) {
    return absl::FailedPreconditionError(StrCat(path_, ": was changed while it was being read; load it again"));
  }
  return absl::OkStatus();
}

}  // namespace shoal
