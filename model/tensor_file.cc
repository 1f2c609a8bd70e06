#include "model/tensor_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

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

std::string StoredTensor::ShapeText() const { return StrCat("[", absl::StrJoin(shape, ", "), "]"); }

absl::StatusOr<int> OpenInFolder(const std::string& folder, const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.size() > 255 || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        StrCat(folder, ": '", name.substr(0, 100), "' is not a plain file name; weights must lie in this folder"));
  }
  return OpenRegularFile(StrCat(folder, "/", name));
}

absl::Status TensorFile::Begin() {
  struct stat info {};
  if (fstat(fd_, &info) != 0) return ErrnoStatus(path_, errno);
  size_ = static_cast<uint64_t>(info.st_size);
  changed_ns_ = ChangeTime(info);
  return absl::OkStatus();
}

TensorFile::~TensorFile() { close(fd_); }

absl::Status TensorFile::Read(const StoredTensor& tensor, uint64_t offset, std::span<std::byte> out) const {
  SHOAL_CHECK(offset <= tensor.bytes() && out.size() <= tensor.bytes() - offset);
  return ReadAt(data_offset_ + tensor.begin + offset, out);
}

absl::Status TensorFile::ReadAt(uint64_t offset, std::span<std::byte> out) const {
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

absl::Status TensorFile::CheckUnchanged() const {
  struct stat info {};
  if (fstat(fd_, &info) != 0) return ErrnoStatus(path_, errno);
  if (static_cast<uint64_t>(info.st_size) != size_ || ChangeTime(info) != changed_ns_) {
    return absl::FailedPreconditionError(StrCat(path_, ": was changed while it was being read; load it again"));
  }
  return absl::OkStatus();
}

}  // namespace shoal
