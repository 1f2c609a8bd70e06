#include "base/read_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace shoal {
namespace {

// Closes the descriptor at the end of the scope.
struct ScopedFd {
  int fd;
  ~ScopedFd() { close(fd); }
};

absl::Status ErrnoStatus(const std::string& path, int error) {
  const std::string text = absl::StrCat(path, ": ", strerror(error));
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(text);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(text);
  return absl::InternalError(text);
}

bool IsLink(const std::string& path) {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0 && S_ISLNK(info.st_mode);
}

}  // namespace

absl::StatusOr<int> OpenRegularFile(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  const int error = errno;
  if (fd < 0) {
    // Not kNotFound: an optional file whose link is broken must not pass for absent.
    if ((error == ENOENT || error == ENOTDIR || error == ELOOP) && IsLink(path)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": is a link that leads to no file; download the folder again or mend the link"));
    }
    return ErrnoStatus(path, error);
  }
  struct stat info {};
  if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) return fd;
  close(fd);
  return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t bytes_max) {
  ASSIGN_OR_RETURN(const int fd, OpenRegularFile(path));
  const ScopedFd file{fd};
  struct stat info {};
  if (fstat(fd, &info) != 0) return ErrnoStatus(path, errno);
  const auto size = static_cast<size_t>(info.st_size);
  if (size > bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": has ", size, " bytes, more than the limit of ", bytes_max));
  }
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = pread(fd, text.data() + done, size - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(path, errno);
    if (n == 0) return absl::DataLossError(absl::StrCat(path, ": has been cut short while it was being read"));
    done += static_cast<size_t>(n);
  }
  return text;
}

}  // namespace shoal
